"""Things that stand or lie about in the plant room and can go missing, appear or move: cones, buckets, tool boxes, rags.

Each function adds one body with its origin on the floor, and returns the body's name.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.lab import plant_textures as paints
from omniad_ros.lab.builder import ALONG_Y, Builder, turned
from omniad_ros.lab.equipment import PAINTS, drum, repaintable
from omniad_ros.lab.shapes import box, cylinder, lathe, plate, puddle, rag, torus, tube
from omniad_ros.lab.textures import label


def cone(builder: Builder, name: str, position) -> str:
    """A traffic cone, 0.42 m high."""
    image = np.tile(np.uint8([[PAINTS["orange"]]]), (256, 256, 1))
    image[70:120] = image[170:220] = (232, 232, 226)
    grime = 1 + 0.09 * paints.grain(builder.rng, 256, 0.8)[..., None]
    paint = repaintable(builder, name, (image * grime).clip(0, 255).astype(np.uint8), 0.4)
    body = builder.body(name, position, turned(builder.rng.uniform(0, 90)))
    builder.add(body, box(0.3, 0.3, 0.03), "dark", (0, 0, 0.015))
    builder.add(body, lathe([(0.12, 0.03), (0.03, 0.42), (1e-4, 0.42)]), paint)
    return name


def extinguisher(builder: Builder, name: str, position) -> str:
    """A fire extinguisher on the floor, 0.55 m high."""
    paint = repaintable(builder, name, paints.paint(builder.rng, (196, 24, 24), wear=0.4), 0.3, 0.6)
    sticker = builder.material(f"{name} label", label(builder.rng, 96, 128, 3))
    body = builder.body(name, position, turned(builder.rng.uniform(-40, 40)))
    r = 0.085
    builder.add(body, lathe([(1e-4, 0), (r, 0), (r, 0.4), (0.07, 0.44), (0.03, 0.46), (0.03, 0.5), (1e-4, 0.5)]), paint)
    builder.add(body, box(0.04, 0.14, 0.03), "dark", (0, 0.03, 0.515))
    builder.add(body, box(0.03, 0.13, 0.018), "dark", (0, 0.04, 0.55), Rotation.from_euler("x", 12, degrees=True))
    builder.add(body, tube([(0, -0.03, 0.5), (0, -0.11, 0.5), (0, -0.11, 0.16)], 0.016, 0.05, 8), "dark")
    for angle in (0, 180):
        builder.add(body, plate(0.11, 0.15), sticker, turned(angle).apply([r + 0.001, 0, 0.24]), turned(angle))
    return name


def bucket(builder: Builder, name: str, position) -> str:
    """An open pail, 0.28 m high."""
    color = PAINTS[builder.rng.choice(["blue", "yellow", "white", "green"])]
    paint = repaintable(builder, name, paints.paint(builder.rng, color), 0.35, 0.3)
    body = builder.body(name, position)
    builder.add(
        body,
        lathe([(1e-4, 0), (0.11, 0), (0.145, 0.27), (0.155, 0.28), (0.14, 0.28), (0.108, 0.02), (1e-4, 0.02)]),
        paint,
    )
    builder.add(body, torus(0.145, 0.006, 28, 6), "steel", (0, 0, 0.25), Rotation.from_euler("x", 20, degrees=True))
    return name


def floor_sign(builder: Builder, name: str, position) -> str:
    """A folding sign, 0.55 m high."""
    image = paints.sign(
        builder.rng, str(builder.rng.choice(["CAUTION", "WET FLOOR", "STOP"])), (240, 200, 26), "triangle"
    )
    paint = repaintable(builder, name, image)
    body = builder.body(name, position, turned(builder.rng.uniform(-30, 30)))
    for side in (0, 180):
        tilt = turned(side) * Rotation.from_euler("y", -14, degrees=True)
        builder.add(body, plate(0.32, 0.55, 0.012), paint, turned(side).apply([0.075, 0, 0.27]), tilt)
    return name


def toolbox(builder: Builder, name: str, position) -> str:
    """A steel tool box with a handle, 0.42 m long."""
    color = PAINTS[builder.rng.choice(["red", "blue", "green", "orange"])]
    paint = repaintable(builder, name, paints.paint(builder.rng, color), 0.3, 0.3)
    sticker = builder.material(f"{name} label", label(builder.rng, 128, 64, 1))
    body = builder.body(name, position, turned(builder.rng.uniform(0, 180)))
    builder.add(body, box(0.2, 0.42, 0.17), paint, (0, 0, 0.085))
    builder.add(body, lathe([(1e-4, -0.21), (0.1, -0.21), (0.1, 0.21), (1e-4, 0.21)]), paint, (0, 0, 0.155), ALONG_Y)
    builder.add(body, tube([(0, -0.1, 0.24), (0, -0.1, 0.3), (0, 0.1, 0.3), (0, 0.1, 0.24)], 0.012, 0.03, 8), "dark")
    for angle in (0, 180):
        builder.add(body, plate(0.16, 0.08), sticker, turned(angle).apply([0.102, 0.0, 0.09]), turned(angle))
    return name


def canister(builder: Builder, name: str, position) -> str:
    """A jerrycan, 0.36 m high."""
    color = PAINTS[builder.rng.choice(["green", "blue", "red", "white"])]
    paint = repaintable(builder, name, paints.paint(builder.rng, color), 0.3, 0.3)
    sticker = builder.material(f"{name} label", label(builder.rng, 110, 110, 2))
    body = builder.body(name, position, turned(builder.rng.uniform(0, 180)))
    builder.add(body, box(0.17, 0.28, 0.32), paint, (0, 0, 0.16))
    builder.add(body, box(0.03, 0.16, 0.025), paint, (0, 0.02, 0.36))
    builder.add(body, cylinder(0.03, 0.06, 12), "dark", (0, -0.1, 0.35))
    for angle in (0, 180):
        builder.add(body, plate(0.18, 0.18), sticker, turned(angle).apply([0.088, 0, 0.16]), turned(angle))
    return name


def small_drum(builder: Builder, name: str, position) -> str:
    """A drum on the floor, 0.5 m high."""
    return drum(builder, name, position, None)


def ball(builder: Builder, name: str, position) -> str:
    """A ball, 0.28 m across."""
    first, second = (PAINTS[c] for c in builder.rng.choice(list(PAINTS), 2, replace=False))
    paint = builder.material(name, paints.hazard(builder.rng, first=first, second=second, bands=2), 0.3, 0.4)
    body = builder.body(
        name, np.add(position, (0, 0, 0.14)), Rotation.random(random_state=int(builder.rng.integers(1 << 30)))
    )
    arc = np.linspace(-np.pi / 2, np.pi / 2, 15)
    builder.add(body, lathe([(max(0.14 * np.cos(a), 1e-4), 0.14 * np.sin(a)) for a in arc]), paint)
    return name


def cloth(builder: Builder, name: str, position) -> str:
    """A dropped rag or overall, about 0.45 m across."""
    color = PAINTS[builder.rng.choice(["orange", "blue", "white", "yellow", "red"])]
    image = paints.paint(builder.rng, color, wear=0.6)
    if builder.rng.random() < 0.5:
        image[:, :: int(builder.rng.integers(16, 40))] //= 2
    paint = builder.material(name, image, 0.3)
    builder.add(builder.body(name, position), rag(0.21, 0.13, builder.rng), paint)
    return name


def fallen_sign(builder: Builder, name: str, position) -> str:
    """A warning board that fell flat."""
    paint = builder.material(name, paints.sign(builder.rng, "OUT OF ORDER", (226, 60, 40), "circle"))
    flat = turned(builder.rng.uniform(0, 360)) * Rotation.from_euler("y", -82, degrees=True)
    builder.add(builder.body(name, np.add(position, (0, 0, 0.045)), flat), plate(0.42, 0.42, 0.015), paint)
    return name


def hose(builder: Builder, name: str, position) -> str:
    """A coil of hose, 0.44 m across."""
    color = PAINTS[builder.rng.choice(["yellow", "blue", "red", "orange"])]
    paint = builder.material(
        name, paints.hazard(builder.rng, first=color, second=tuple(0.8 * c for c in color)), 0.15, 0.3
    )
    body = builder.body(name, position)
    for layer in range(4):
        shift = builder.rng.uniform(-0.015, 0.015, 2)
        builder.add(body, torus(0.19 - 0.012 * (layer % 2), 0.02, 26, 8), paint, (*shift, 0.02 + 0.034 * layer))
    return name


def spill(builder: Builder, name: str, position) -> str:
    """A puddle of oil, rusty water or coolant, about half a metre across."""
    rng = builder.rng
    color = [(34, 26, 20), (96, 60, 26), (40, 110, 70), (60, 70, 84)][rng.integers(0, 4)]
    swirl = 1 + 0.25 * paints.grain(rng, 256, 1.6)[..., None]
    image = (np.asarray(color, float) * swirl).clip(0, 255).astype(np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 2)
    paint = builder.material(name, image, 0.6, gloss=0.9, shine=0.8)
    builder.add(builder.body(name, np.add(position, (0, 0, 0.001))), puddle(rng.uniform(0.2, 0.28), rng), paint)
    return name


STANDING = (cone, extinguisher, bucket, floor_sign, toolbox, canister, small_drum)
"""What may stand about in the normal room."""
STRAY = (toolbox, ball, cloth, fallen_sign, hose, canister, bucket)
"""What someone may have left there."""
