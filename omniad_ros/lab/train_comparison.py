"""Trains the bundled comparison network on made-up places: ``python -m omniad_ros.lab.train_comparison PAIRS``.

PAIRS is a folder written by ``python -m omniad_ros.lab.pairs``: table-top pictures from one pose, normal and changed.
Half of the training uses them; the other half collages of photographs and textures. The reference is made to look as if
a radiance field had rendered it (`anomalies.rendered`), or as photographs redraw it (`anomalies.redrawn`). Run after
`train_teacher`, from whose first stages it starts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from omniad_ros.detection import student
from omniad_ros.detection.anomalies import (
    Pair,
    cropped,
    drawn_shape,
    nuisances,
    redrawn,
    rendered,
    shading,
    with_anomalies,
)
from omniad_ros.detection.comparison import BUNDLED, ComparisonNetwork, ComparisonTraining, fit
from omniad_ros.detection.pictures import noise, picture

HEIGHT, WIDTH = 240, 320


def collage(rng: np.random.Generator) -> np.ndarray:
    """A made-up place: pictures and textures as things with shading and soft shadows, before others. float32 in [0, 1]."""
    image = picture(rng, HEIGHT, WIDTH, 0.5).astype(np.float32) / 255
    image = image * np.float32(0.5 + 0.6 * noise(rng, HEIGHT, WIDTH, 2))[..., None]
    for _ in range(rng.integers(0, 16)):
        shape = drawn_shape(rng, HEIGHT, WIDTH)
        shift = np.float32([[1, 0, rng.uniform(-6, 6)], [0, 1, rng.uniform(0, 6)]])
        shadow = cv2.GaussianBlur(cv2.warpAffine(shape, shift, (WIDTH, HEIGHT)), (0, 0), float(rng.uniform(2, 6)))
        image = image * (1 - rng.uniform(0, 0.5) * shadow[..., None])
        content = (
            picture(rng, HEIGHT // 2, WIDTH // 2, 0.4)
            if rng.random() < 0.7
            else np.full((8, 8, 3), rng.integers(0, 256, 3), np.uint8)
        )
        content = cv2.resize(content, (WIDTH, HEIGHT)).astype(np.float32) / 255 * shading(rng, shape)
        alpha = cv2.GaussianBlur(shape, (0, 0), 0.6)[..., None]
        image = image * (1 - alpha) + np.clip(content, 0, 1) * alpha
    return image


def sampler(folder: Path, rng: np.random.Generator) -> Callable[[], Pair]:
    """Draws pairs, half from the table-top pictures in ``folder``, half from collages."""
    scenes = [dict(np.load(path)) for path in sorted(folder.glob("*.npz"))]
    collages = [collage(rng) for _ in range(120)]

    def sample() -> Pair:
        severity, photographs = rng.uniform(0.1, 1.3), rng.random() < 0.7

        def referred(image: np.ndarray) -> np.ndarray:
            return redrawn(rng, image, severity) if photographs else rendered(rng, image, severity)

        if rng.random() < 0.5:
            if rng.random() < 0.08:
                collages[rng.integers(len(collages))] = collage(rng)
            frame, *others = (cropped(rng, collages[i])[0] for i in rng.integers(len(collages), size=4))
            pair = with_anomalies(rng, frame, referred(frame), others, blur=rng.uniform(0.3, 0.7))
        else:
            scene = scenes[rng.integers(len(scenes))]
            index, *rest = rng.integers(len(scene["mask"]), size=4)
            views = [scene["normal"][index], scene["changed"][index], scene["mask"][index]]
            normal, changed, mask = cropped(rng, *(np.float32(v) / (255 if v.ndim == 3 else 1) for v in views))
            if mask.any() and rng.random() < 0.7:  # a real change, at times with frame and reference exchanged in time
                before, after = (normal, changed) if rng.random() < 0.75 else (changed, normal)
                strength = cv2.GaussianBlur(np.abs(changed - normal).mean(2), (0, 0), 2.0)
                # where an object covers a place that looks just the same, nothing can be seen
                weight = np.where((mask > 0) & (strength < 0.02), 0.2, 1.0).astype(np.float32)
                pair = Pair(after, referred(before), mask, weight)
            else:
                others = [cropped(rng, np.float32(scene["normal"][i]) / 255)[0] for i in rest]
                seen = normal if mask.any() else changed  # without a change it is the same place, under other lamps
                pair = with_anomalies(rng, seen, referred(normal), others, blur=rng.uniform(0.3, 0.7))
        return Pair(
            *nuisances(rng, pair.frame, pair.reference, pixels=0.4 if photographs else 0.8), pair.mask, pair.weight
        )

    return sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="weights to go on from; the teacher's first stages where not given")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    network = ComparisonNetwork().train()
    weights = load_file(arguments.start or student.BUNDLED)
    network.load_state_dict({k: v.float() for k, v in weights.items() if not k.startswith("stages.2")}, strict=False)
    started, last = time.monotonic(), [0.0]

    def report(fraction: float, message: str) -> None:
        if fraction - last[0] >= 0.01 or fraction == 1:
            last[0] = fraction
            print(f"{fraction:.0%} {time.monotonic() - started:.0f} s {message}", flush=True)
            weights = {k: v.half().contiguous() for k, v in network.state_dict().items() if v.is_floating_point()}
            save_file(weights, arguments.out)

    fit(
        network,
        sampler(arguments.pairs, np.random.default_rng(arguments.seed)),
        ComparisonTraining(arguments.steps, arguments.rate),
        report,
    )
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
