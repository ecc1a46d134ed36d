"""Trains the bundled teacher by self-supervision: ``python -m omniad_ros.lab.train_teacher``.

Early layers can be learnt from a handful of photographs with strong augmentation (Asano et al., ICLR 2020, arXiv
1904.13132). Two crops of one picture are warped, recoloured and occluded differently; at each scale a feature must be
told from those of other places by the one of the same place in the other crop (dense InfoNCE, as in Wang et al., CVPR
2021, arXiv 2011.09157). Hues are hardly changed between the crops, so that the features stay able to see colour.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from omniad_ros.detection.pictures import noise, picture
from omniad_ros.detection.student import BUNDLED, CompactTeacher, normalized

SIZE, PAIRS, POINTS, TEMPERATURE = 128, 16, 32, 0.1


def canvas(rng: np.random.Generator) -> np.ndarray:
    """A picture (256, 256, 3) to crop from: a photograph or texture, often with cut-outs of others pasted over it."""
    base = picture(rng, 256, 256, photograph=0.75).copy()
    for _ in range(rng.integers(0, 5) if rng.random() < 0.6 else 0):
        centre, radius = rng.uniform(0, 256, 2), rng.uniform(10, 70)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        corners = centre + radius * rng.uniform(0.5, 1, (len(angles), 1)) * np.stack(
            [np.cos(angles), np.sin(angles)], 1
        )
        mask = cv2.fillPoly(np.zeros((256, 256), np.uint8), [np.int32(corners)], 1, lineType=cv2.LINE_8)
        shade = (0.6 + 0.5 * noise(rng, 256, 256, 2))[..., None]
        base = np.where(mask[..., None] > 0, np.uint8(np.clip(picture(rng, 256, 256, 0.6) * shade, 0, 255)), base)
    return base


def view(
    rng: np.random.Generator, source: np.ndarray, centre: np.ndarray, occluder: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One crop (SIZE, SIZE, 3) around ``centre``, at times behind an ``occluder`` (48, 48, 3), and the affine (2, 3) that maps the source's pixels to its own."""
    angle, scale = rng.normal(0, 0.5), np.exp(rng.uniform(-0.35, 0.55))
    shear = rng.normal(0, 0.12, (2, 2)) + np.eye(2)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ shear
    if rng.random() < 0.3:
        linear[0] *= -1
    shift = SIZE / 2 + rng.uniform(-SIZE / 6, SIZE / 6, 2) - linear @ centre
    matrix = np.column_stack([linear, shift])
    crop = cv2.warpAffine(source, matrix, (SIZE, SIZE), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
    crop = crop.astype(np.float32) / 255
    if rng.random() < 0.5:
        crop = cv2.GaussianBlur(crop, (0, 0), float(rng.uniform(0.3, 2.2)))
    crop = crop * np.float32(rng.uniform(0.6, 1.35) * rng.uniform(0.88, 1.12, 3)) + rng.uniform(-0.12, 0.12)
    grey = crop.mean(2, keepdims=True)
    crop = np.clip(grey + (crop - grey) * rng.uniform(0.6, 1.4), 0, 1) ** np.exp(rng.normal(0, 0.3))
    if rng.random() < 0.5:  # a soft shadow or light
        crop = crop * (1 + rng.uniform(-0.5, 0.4) * noise(rng, SIZE, SIZE, rng.uniform(1, 3)))[..., None]
    crop = crop + np.float32(rng.uniform(0, 0.05)) * rng.standard_normal(crop.shape, dtype=np.float32)
    if rng.random() < 0.3:  # something stands before it
        x, y, w, h = rng.integers(0, SIZE, 2).tolist() + rng.integers(8, 48, 2).tolist()
        patch = occluder[:h, :w] / np.float32(255)
        crop[y : y + h, x : x + w] = patch[: SIZE - y, : SIZE - x]
    return np.clip(crop, 0, 1).astype(np.float32), matrix


def batch(rng: np.random.Generator, pool: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two crops (PAIRS, 3, SIZE, SIZE) each of PAIRS pictures of ``pool`` (one of them new), stacked, and POINTS places of each in both:
    (2 PAIRS, 3, SIZE, SIZE) and twice (PAIRS, POINTS, 2), in [-1, 1] as `grid_sample` has them."""
    crops, places = ([], []), ([], [])
    pool[rng.integers(len(pool))] = canvas(rng)
    for index in rng.choice(len(pool), PAIRS, replace=False):
        source, centre = pool[index], rng.uniform(80, 176, 2)
        occluders = (pool[i][:48, :48] for i in rng.integers(len(pool), size=2))
        (first, to_first), (second, to_second) = (view(rng, source, centre, occluder) for occluder in occluders)
        candidates = rng.uniform(4, SIZE - 4, (600, 2))
        in_source = (candidates - to_first[:, 2]) @ np.linalg.inv(to_first[:, :2]).T
        in_second = in_source @ to_second[:, :2].T + to_second[:, 2]
        inside = (
            (in_source > 0).all(1) & (in_source < 255).all(1) & (in_second > 4).all(1) & (in_second < SIZE - 4).all(1)
        )
        chosen = rng.choice(np.flatnonzero(inside) if inside.any() else 600, POINTS)
        for store, crop in zip(crops, (first, second), strict=True):
            store.append(crop)
        for store, place in zip(places, (candidates, in_second), strict=True):
            store.append((place[chosen] + 0.5) / SIZE * 2 - 1)
    images = torch.from_numpy(np.stack(crops[0] + crops[1])).permute(0, 3, 1, 2).contiguous()
    return images, *(torch.from_numpy(np.stack(p)).float() for p in places)


def dense_loss(a: torch.Tensor, b: torch.Tensor, at: torch.Tensor, to: torch.Tensor, stride: int) -> torch.Tensor:
    """InfoNCE over all points of the batch. a, b: (PAIRS, D, h, w); places in [-1, 1]: (PAIRS, POINTS, 2)."""

    def sample(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        points = F.grid_sample(maps, places[:, None], align_corners=False)[:, :, 0]  # (PAIRS, D, POINTS)
        return F.normalize(points.permute(0, 2, 1).reshape(-1, maps.shape[1]), dim=1)

    logits = sample(a, at) @ sample(b, to).T / TEMPERATURE
    flat = to.reshape(-1, 2) * SIZE / 2
    picture_of = torch.arange(len(flat)) // POINTS
    close = (picture_of[:, None] == picture_of) & (torch.cdist(flat, flat) < 1.5 * stride)
    close.fill_diagonal_(False)
    return F.cross_entropy(logits.masked_fill(close, -1e4), torch.arange(len(flat)))


def train(seconds: float, seed: int = 0) -> CompactTeacher:
    """A teacher trained for about ``seconds`` on this machine's processor."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = [canvas(rng) for _ in range(300)]
    teacher = CompactTeacher().train().to(memory_format=torch.channels_last)
    heads = nn.ModuleList(
        nn.Sequential(nn.Conv2d(c, 128, 1), nn.ReLU(), nn.Conv2d(128, 64, 1)) for c in teacher.channels
    )
    optimizer = torch.optim.AdamW([*teacher.parameters(), *heads.parameters()], lr=1e-3, weight_decay=1e-4)
    start, step, running = time.monotonic(), 0, 0.0
    while (done := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * done)))
        images, at, to = batch(rng, pool)
        with torch.autocast("cpu", torch.bfloat16):
            maps = [head(m) for head, m in zip(heads, teacher(normalized(images)), strict=True)]
        losses = [dense_loss(*m.float().chunk(2), at, to, 4 * 2**i) for i, m in enumerate(maps)]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        running, step = 0.98 * running + 0.02 * float(sum(losses).detach()), step + 1
        if step % 50 == 0:
            print(
                f"step {step}, {done:.0%}, loss {running:.3f}",
                [round(float(x.detach()), 2) for x in losses],
                flush=True,
            )
    return teacher.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    teacher = train(arguments.seconds, arguments.seed)
    save_file(
        {k: v.half().contiguous() for k, v in teacher.state_dict().items() if v.is_floating_point()}, arguments.out
    )
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
