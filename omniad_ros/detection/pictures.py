"""Pictures to learn from where nothing can be downloaded: photographs that scikit-image and scikit-learn carry, and
textures made in code. The bundled teacher, the bundled comparison network and the synthetic anomalies draw on them.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "retina", "rocket",
)  # fmt: skip


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """The photographs that the installed packages carry: uint8 RGB (H, W, 3), longest side at most 720 pixels."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    pictures = [getattr(data, name)() for name in PHOTOGRAPHS]
    pictures += [*data.stereo_motorcycle()[:2], *load_sample_images().images]
    return tuple(_fit(p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2)) for p in pictures)


def _fit(picture: np.ndarray) -> np.ndarray:
    scale = min(1.0, 720 / max(picture.shape[:2]))
    picture = np.ascontiguousarray(picture[..., :3])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture


def noise(rng: np.random.Generator, height: int, width: int, cells: float, octaves: int = 1) -> np.ndarray:
    """Smooth noise (H, W) float32 in [0, 1], about ``cells`` bumps along the longest side, more in each octave."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        scale = cells * 2**octave / max(height, width)
        grid = rng.random((max(2, round(height * scale)) + 1, max(2, round(width * scale)) + 1), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-6)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """One texture made in code, uint8 RGB (H, W, 3): marble, stripes, checks, dots, cells, planks, print or plain paint."""
    kind = rng.integers(8)
    a, b, c = (rng.random(3, dtype=np.float32) ** rng.uniform(0.6, 1.6) for _ in range(3))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 60)
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / period, (y * np.cos(angle) - x * np.sin(angle)) / period
    if kind == 0:
        weight = noise(rng, height, width, rng.uniform(3, 14), 5)
    elif kind == 1:
        weight = 0.5 + 0.5 * np.sin(2 * np.pi * (u + rng.uniform(0, 2) * noise(rng, height, width, 4, 2)))
        weight = weight if rng.random() < 0.5 else np.float32(weight > rng.uniform(0.3, 0.7))
    elif kind == 2:
        weight = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    elif kind == 3:
        weight = np.float32(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < rng.uniform(0.15, 0.45))
    elif kind == 4:
        points = rng.random((max(4, int(height * width / (period * period * 4))), 2)).astype(np.float32) * (
            width,
            height,
        )
        seeds = np.full((height, width), 255, np.uint8)
        seeds[np.int32(points[:, 1]).clip(0, height - 1), np.int32(points[:, 0]).clip(0, width - 1)] = 0
        distance, label = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3)
        weight = rng.random(label.max() + 1, dtype=np.float32)[label] * np.clip(distance / 3, 0.3, 1)
    elif kind == 5:
        weight = noise(rng, 1, width, width / period)[:, (x[0] % width).astype(int)] * np.float32(v % 1 > 0.06)
        weight = np.broadcast_to(weight, (height, width)) * (0.7 + 0.3 * noise(rng, height, width, 30, 3))
    elif kind == 6:
        weight = np.ones((height, width), np.float32)
        for _ in range(int(rng.integers(4, 14))):
            word = "".join(chr(rng.integers(48, 91)) for _ in range(rng.integers(1, 9)))
            origin = (int(rng.integers(-20, width)), int(rng.integers(0, height + 10)))
            size = float(rng.uniform(0.3, 2.5))
            cv2.putText(
                weight,
                word,
                origin,
                int(rng.integers(0, 8)),
                size,
                float(rng.uniform(0, 0.6)),
                max(1, round(size * 1.5)),
            )
    else:
        weight = 0.3 * noise(rng, height, width, 3, 2)
    weight = weight[..., None]
    colour = a * weight + b * (1 - weight)
    grain = noise(rng, height, width, rng.uniform(5, 80), 3)[..., None]
    colour = colour * (1 - 0.3 * grain) + 0.15 * grain * c + rng.normal(0, 0.02, (height, width, 1)).astype(np.float32)
    return np.uint8(np.clip(colour, 0, 1) * 255)


def picture(rng: np.random.Generator, height: int, width: int, photograph: float = 0.6) -> np.ndarray:
    """A random crop of a photograph (with probability ``photograph``), else a texture: uint8 RGB (H, W, 3)."""
    if rng.random() >= photograph:
        return texture(rng, height, width)
    source = photographs()[rng.integers(len(photographs()))]
    limit = min(source.shape[0] / height, source.shape[1] / width)
    scale = rng.uniform(min(0.5, limit), min(2.5, limit))
    h, w = max(2, int(height * scale)), max(2, int(width * scale))
    top, left = rng.integers(source.shape[0] - h + 1), rng.integers(source.shape[1] - w + 1)
    crop = source[top : top + h, left : left + w]
    return cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
