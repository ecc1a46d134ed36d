"""Surface textures made in code, so that simulated scenes carry detail everywhere and ship no image files.

Images are uint8 RGB (H, W, 3). Solid patterns are functions of a point in space, so that they run over an object's
edges without seams; `cube_texture` lays them out as MuJoCo's six cube faces.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import map_coordinates

PATTERNS = ("noise", "stripes", "checker", "speckle", "marble", "label")

WORDS = (
    "OMNI",
    "PUMP",
    "FLOW",
    "TEST",
    "ACME",
    "H2O",
    "AIR",
    "MAX",
    "NORD",
    "ALPHA",
    "ZETA",
    "K-42",
    "XR7",
    "GEAR",
    "FUSE",
)


def hue_color(rng: np.random.Generator, saturation=(0.35, 0.95), value=(0.35, 0.95)) -> np.ndarray:
    """A random colour (3,) in [0, 1] with saturation and value in the given ranges."""
    hsv = np.array([[[360 * rng.random(), rng.uniform(*saturation), rng.uniform(*value)]]], np.float32)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(float)


def value_noise(points: np.ndarray, rng: np.random.Generator, scale: float = 4.0, octaves: int = 4) -> np.ndarray:
    """Fractal value noise in about [0, 1] at points (..., 3); ``scale`` cells per unit in the first octave."""
    total, norm = np.zeros(points.shape[:-1]), 0.0
    for octave in range(octaves):
        lattice = rng.random((16, 16, 16))
        place = points * (scale * 2**octave) + rng.uniform(0, 16, 3)
        weight = 0.6**octave
        total += weight * map_coordinates(lattice, np.moveaxis(place, -1, 0), order=1, mode="grid-wrap")
        norm += weight
    return np.clip((total / norm - 0.5) * 2.2 + 0.5, 0.0, 1.0)


def solid_pattern(points: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Colour (..., 3) in [0, 1] of the solid pattern ``kind`` (see `PATTERNS`) at points (..., 3) in [-1, 1]."""
    first, second, third = hue_color(rng), hue_color(rng), hue_color(rng, (0.0, 0.3), (0.1, 1.0))
    grain = value_noise(points, rng, rng.uniform(5, 9), 3)[..., None]
    axis = rng.normal(size=3)
    along = points @ (axis / np.linalg.norm(axis))
    if kind == "noise":
        mix = value_noise(points, rng, rng.uniform(2, 4), 5)[..., None]
        color = np.where(mix < 0.5, first + (third - first) * mix * 2, third + (second - third) * (mix * 2 - 1))
    elif kind == "stripes":
        mix = (np.sin(along * rng.uniform(12, 24) + 2 * value_noise(points, rng, 2, 2)) > 0)[..., None]
        color = np.where(mix, first, third)
    elif kind == "checker":
        cells = np.floor(points * rng.uniform(2.5, 5) + 0.37).sum(-1) % 2 == 0
        color = np.where(cells[..., None], first, second)
    elif kind == "speckle":
        fine, coarse = value_noise(points, rng, 11, 2), value_noise(points, rng, 6, 2)
        color = np.where((fine > 0.68)[..., None], second, np.where((coarse < 0.3)[..., None], third, first))
    elif kind == "marble":
        mix = np.abs(np.sin(along * 6 + 6 * value_noise(points, rng, 2, 5)))[..., None] ** 0.7
        color = first * mix + third * (1 - mix)
    else:
        color = np.broadcast_to(first, (*points.shape[:-1], 3))
    return np.clip(color * (0.72 + 0.45 * grain), 0.0, 1.0)


def face_points(size: int) -> np.ndarray:
    """(6, size, size, 3) points on the cube [-1, 1]^3 of each texel of MuJoCo's faces +x -x +y -y +z -z."""
    line = (np.arange(size) + 0.5) / size * 2 - 1
    s, t = np.meshgrid(line, line)
    one = np.ones_like(s)
    faces = [(one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one), (-s, -t, -one)]
    return np.stack([np.stack(face, axis=-1) for face in faces])


def cube_texture(rng: np.random.Generator, kind: str, size: int = 160) -> np.ndarray:
    """A solid pattern on a cube, (6, size, size, 3) uint8; kind 'label' adds a printed label on the four sides."""
    faces = (solid_pattern(face_points(size), kind, rng) * 255).astype(np.uint8)
    if kind == "label":
        for index, turns in ((0, 1), (1, -1), (2, 2), (3, 0)):  # the turn that sets a side's image upright
            upright = np.rot90(faces[index], -turns).copy()
            low, high = int(0.18 * size), int(0.82 * size)
            upright[low:high, int(0.08 * size) : int(0.92 * size)] = label(
                rng, int(0.92 * size) - int(0.08 * size), high - low
            )
            faces[index] = np.rot90(upright, turns)
    return faces


def label(rng: np.random.Generator, width: int, height: int, lines: int = 2) -> np.ndarray:
    """A printed label: words, a bar code and a coloured band on paper."""
    paper = np.full((height, width, 3), rng.integers(215, 250, 3), np.uint8)
    ink = tuple(int(v) for v in rng.integers(0, 90, 3))
    band = tuple(int(255 * v) for v in hue_color(rng))
    cv2.rectangle(paper, (0, 0), (width, height // 6), band, -1)
    row = (height - height // 6) / (lines + 1)
    for line in range(lines):
        text = f"{rng.choice(WORDS)}{rng.integers(10, 99)}" if line else str(rng.choice(WORDS))
        scale = min(row / 30, width / (19.0 * len(text)))
        place = (int(0.07 * width), int(height / 6 + row * (line + 0.85)))
        cv2.putText(paper, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, max(1, round(2.2 * scale)), cv2.LINE_AA)
    x = int(0.07 * width)
    while x < 0.9 * width:
        bar = int(rng.integers(1, 4))
        cv2.rectangle(paper, (x, int(height - 0.8 * row)), (x + bar - 1, int(height - 0.15 * row)), ink, -1)
        x += bar + int(rng.integers(1, 4))
    cv2.rectangle(paper, (0, 0), (width - 1, height - 1), ink, 1)
    return paper


def surface(rng: np.random.Generator, kind: str, width: int, height: int, extent: float = 3.0) -> np.ndarray:
    """A flat piece cut out of a solid pattern; its longer side spans ``extent`` units of the pattern."""
    side = max(width, height)
    x, y = np.meshgrid(np.arange(width) / side * extent, np.arange(height) / side * extent)
    return (solid_pattern(np.stack([x, y, np.zeros_like(x)], axis=-1), kind, rng) * 255).astype(np.uint8)


def muted(texture: np.ndarray, strength: float) -> np.ndarray:
    """The same pattern with its contrast and colour drawn towards its mean grey; ``strength`` 1 leaves it as it is."""
    mean = texture.reshape(-1, 3).mean(0)
    mean = 0.35 * mean + 0.65 * mean.mean()
    return (mean + (texture - mean) * strength).clip(0, 255).astype(np.uint8)


def recolored(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same pattern in clearly other colours; works on grey textures too. Any shape (..., 3) uint8."""
    hsv = cv2.cvtColor(texture.reshape(1, -1, 3), cv2.COLOR_RGB2HSV).astype(int)
    hsv[..., 0] = (hsv[..., 0] + rng.integers(45, 135)) % 180
    hsv[..., 1] = np.clip(np.maximum(hsv[..., 1], 110) * rng.uniform(0.9, 1.2), 0, 255)
    return cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).reshape(texture.shape)


def blotch(rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Opacity (H, W) of a blotch of irregular outline, at offsets from its middle in the unit of its radius."""
    angle = np.arctan2(dy, dx)
    edge = 1 + sum(rng.uniform(0, 0.3) / k * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5))
    return np.clip((radius * edge - np.hypot(dx, dy)) / (0.12 * radius), 0, 1) * rng.uniform(0.75, 0.95)


def stain_color(rng: np.random.Generator, dark: bool) -> np.ndarray:
    """A stain's colour (3,) in [0, 255], pale on what is dark and dark on what is not."""
    return rng.uniform(170, 240, 3) if dark else hue_color(rng, (0.2, 0.8), (0.05, 0.3)) * 255


def stain(texture: np.ndarray, rng: np.random.Generator, radius: float, center: tuple[float, float]) -> np.ndarray:
    """A copy with a blotch; radius and centre are fractions of the texture's height and (x, y) size, image (H, W, 3)."""
    height, width = texture.shape[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5) / height, (np.arange(height) + 0.5) / height)
    alpha = blotch(rng, x - center[0] * width / height, y - center[1], radius)[..., None]
    color = stain_color(rng, texture.mean() < 90)
    return np.clip(texture * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)
