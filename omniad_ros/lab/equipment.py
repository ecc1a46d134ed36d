"""The equipment of the plant room: each function adds one piece to a world, in a frame with x outwards and z up.

Parts that an anomaly may hide, move or repaint are bodies with a name of their own, ``<piece>/<part>``.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.lab import plant_textures as paints
from omniad_ros.lab.builder import ALONG_X, ALONG_Y, Builder, turned
from omniad_ros.lab.shapes import box, cylinder, lathe, plate, torus, tube
from omniad_ros.lab.textures import hue_color, label, recolored

PAINTS = {
    "blue": (38, 84, 152), "green": (42, 112, 76), "grey": (132, 140, 146), "orange": (214, 108, 30), "red": (178, 38, 34),
    "yellow": (222, 178, 30), "cream": (214, 204, 172), "teal": (32, 118, 124), "white": (220, 222, 220), "brown": (120, 78, 48),
}  # fmt: skip


def repaintable(builder: Builder, name: str, image: np.ndarray, tile: float = 1.0, gloss: float = 0.1) -> str:
    """A material, and beside it ``<name> recoloured``, the same surface in clearly other colours."""
    builder.material(f"{name} recoloured", recolored(image, builder.rng), tile, gloss)
    return builder.material(name, image, tile, gloss)


def flange(builder: Builder, body, position, rotation=None, radius: float = 0.1, material: str = "steel") -> None:
    """A pair of flanges with bolts on a pipe along the rotated z."""
    rotation = Rotation.identity() if rotation is None else rotation
    rim = [(0.04, -0.026), (radius, -0.026), (radius, 0.026), (0.04, 0.026)]
    builder.add(body, lathe(rim, 20), material, position, rotation)
    for angle in np.arange(6) * np.pi / 3:
        bolt = np.array([0.82 * radius * np.cos(angle), 0.82 * radius * np.sin(angle), 0.0])
        builder.add(body, box(0.018, 0.018, 0.078), "dark", np.asarray(position) + rotation.apply(bolt), rotation)


def gauge(
    builder: Builder, parent, name: str, position, unit: str, diameter: float = 0.17, reading: float = 0.4
) -> None:
    """A dial that faces +x, with a needle (body ``name``); reading in [0, 1]; a turn about x moves the needle."""
    face = builder.material(f"{name} dial", paints.dial(builder.rng, unit), gloss=0.4)
    radius, position = diameter / 2, np.asarray(position, float)
    builder.add(parent, cylinder(radius, 0.05), "dark", position, ALONG_X)
    builder.add(parent, plate(1.25 * radius, 1.25 * radius, 0.004), face, position + [0.027, 0, 0])
    builder.add(parent, torus(radius, 0.012, 28, 8), "steel", position + [0.025, 0, 0], ALONG_X)
    needle = builder.body(name, position + [0.033, 0, 0], needle_rotation(reading), parent)
    builder.add(needle, box(0.006, 0.16 * radius, 0.85 * radius), "signal red", (0, 0, 0.25 * radius))
    builder.add(needle, cylinder(0.14 * radius, 0.012, 12), "dark", (0, 0, 0), ALONG_X)


def needle_rotation(reading: float) -> Rotation:
    """The turn of a gauge's needle from straight up; 0 is far left, 1 far right."""
    return Rotation.from_euler("x", 120 - 240 * reading, degrees=True)


def handwheel(builder: Builder, parent, name: str, position, rotation, radius: float = 0.13) -> None:
    """A valve's wheel with four spokes on a stem along the rotated z, a body called ``name``."""
    wheel = builder.body(name, position, rotation, parent)
    builder.add(wheel, torus(radius, 0.016), f"{name} paint", (0, 0, 0.1))
    for angle in (0, 90):
        builder.add(wheel, cylinder(0.011, 2 * radius, 8), f"{name} paint", (0, 0, 0.1), turned(angle) * ALONG_X)
    builder.add(wheel, cylinder(0.018, 0.2, 10), "steel", (0, 0, 0.03))


def pump(builder: Builder, name: str, parent) -> None:
    """A pump on a skid along y: motor, coupling guard, volute, suction and discharge pipes with a lever valve and a gauge."""
    rng = builder.rng
    colors = list(rng.permutation(["blue", "green", "orange", "red", "teal", "grey"]))
    motor_paint = repaintable(builder, f"{name}/motor", paints.paint(rng, PAINTS[colors[0]]), 0.45, 0.25)
    volute_paint = repaintable(builder, f"{name}/volute", paints.paint(rng, PAINTS[colors[1]]), 0.45, 0.25)
    pipe = builder.material(f"{name}/pipe", paints.paint(rng, PAINTS[colors[2]]), 0.4, 0.2)
    guard_paint = repaintable(builder, f"{name}/guard", paints.hazard(rng), 0.16)
    plate_label = builder.material(f"{name}/label", label(rng, 160, 96, 2))
    for x in (-0.19, 0.19):
        builder.add(parent, box(0.07, 1.06, 0.12), "skid", (x, 0, 0.06))
    builder.add(parent, box(0.46, 1.06, 0.02), "tread", (0, 0, 0.13))

    motor = builder.body(f"{name}/motor", (0, -0.28, 0.33), parent=parent)
    fins = [(1e-4, -0.22), (0.12, -0.22)]
    for z in np.linspace(-0.2, 0.14, 12):
        fins += [(0.145, z), (0.165, z), (0.165, z + 0.012), (0.145, z + 0.012)]
    builder.add(motor, lathe([*fins, (0.12, 0.2), (1e-4, 0.2)]), motor_paint, rotation=ALONG_Y)
    builder.add(
        motor, lathe([(1e-4, -0.3), (0.14, -0.3), (0.16, -0.28), (0.16, -0.2), (0.1, -0.2)]), "dark", rotation=ALONG_Y
    )
    builder.add(motor, box(0.15, 0.16, 0.1), motor_paint, (0.0, 0.02, 0.2))
    builder.add(motor, box(0.3, 0.24, 0.06), motor_paint, (0, 0, -0.165))
    builder.add(motor, plate(0.11, 0.066), plate_label, (0.078, 0.02, 0.2))

    guard = builder.body(f"{name}/guard", (0, 0.03, 0.33), parent=parent)
    builder.add(guard, cylinder(0.1, 0.2), guard_paint, rotation=ALONG_Y)
    builder.add(guard, box(0.16, 0.2, 0.2), guard_paint, (0, 0, -0.1))

    volute = builder.body(f"{name}/volute", (0, 0.29, 0.33), parent=parent)
    builder.add(volute, lathe([(1e-4, -0.13), (0.09, -0.13), (0.1, -0.09), (0.17, -0.075), (0.205, -0.04), (0.205, 0.04),
                               (0.17, 0.075), (0.1, 0.09), (0.08, 0.12), (1e-4, 0.12)], 28), volute_paint, rotation=ALONG_Y)  # fmt: skip
    builder.add(volute, box(0.26, 0.1, 0.1), volute_paint, (0, 0, -0.15))
    builder.add(volute, plate(0.13, 0.08), plate_label, (0.19, 0, 0.09), Rotation.from_euler("y", -25, degrees=True))

    flange(builder, parent, (0, 0.43, 0.33), ALONG_Y, 0.11)
    builder.add(
        parent, tube([(0, 0.42, 0.33), (0, 0.56, 0.33), (-0.42, 0.56, 0.33), (-0.42, 0.56, -0.02)], 0.06, 0.1), pipe
    )
    flange(builder, parent, (-0.22, 0.56, 0.33), ALONG_X, 0.1)
    flange(builder, parent, (0, 0.29, 0.58), radius=0.1)
    builder.add(
        parent, tube([(0, 0.29, 0.5), (0, 0.29, 1.12), (-0.55, 0.29, 1.12), (-0.55, -0.55, 1.12)], 0.052, 0.12), pipe
    )
    flange(builder, parent, (0, 0.29, 0.72), radius=0.1)
    flange(builder, parent, (-0.3, 0.29, 1.12), ALONG_X, 0.1)
    lever_valve(builder, parent, f"{name}/valve", (0, 0.29, 0.84))
    builder.add(parent, tube([(0, 0.29, 0.98), (0.14, 0.29, 0.98)], 0.014, sides=8), "steel")
    gauge(builder, parent, f"{name}/gauge", (0.16, 0.29, 0.98), "bar", 0.18, rng.uniform(0.15, 0.5))


def lever_valve(builder: Builder, parent, name: str, position) -> None:
    """A ball valve in an upright pipe; its lever (body ``name``) lies along the pipe when open, across when closed."""
    position = np.asarray(position, float)
    builder.add(
        parent, lathe([(0.052, -0.09), (0.085, -0.06), (0.095, 0), (0.085, 0.06), (0.052, 0.09)]), "brass", position
    )
    builder.add(parent, cylinder(0.026, 0.09, 12), "steel", position + [0.1, 0, 0], ALONG_X)
    lever = builder.body(name, position + [0.15, 0, 0], parent=parent)
    builder.add(lever, box(0.022, 0.065, 0.34), "lever", (0, 0, -0.13))
    builder.add(lever, cylinder(0.032, 0.03, 12), "dark", rotation=ALONG_X)


def cabinet(builder: Builder, name: str, parent) -> None:
    """A control cabinet with a hinged door (body ``<name>/door``), equipment inside, a beacon and conduits."""
    rng = builder.rng
    color = PAINTS[rng.choice(["grey", "cream", "teal", "white"])]
    shell = builder.material(f"{name}/shell", paints.paint(rng, color), 0.5, 0.2)
    front = builder.material(f"{name}/front", paints.cabinet_door(rng, color), gloss=0.2)
    inside = builder.material(f"{name}/inside", paints.cabinet_inside(rng))
    width, depth, height, base = 0.68, 0.36, 1.16, 0.1
    middle = base + height / 2
    builder.add(parent, box(depth, width, base), "dark", (0, 0, base / 2))
    builder.add(parent, box(0.02, width, height), shell, (-depth / 2, 0, middle))
    for y in (-width / 2, width / 2):
        builder.add(parent, box(depth, 0.02, height), shell, (0, y, middle))
    for z in (base + 0.01, base + height - 0.01):
        builder.add(parent, box(depth, width, 0.02), shell, (0, 0, z))
    builder.add(parent, plate(width - 0.05, height - 0.05), inside, (-depth / 2 + 0.05, 0, middle))
    door = builder.body(f"{name}/door", (depth / 2, -width / 2, middle), parent=parent)
    builder.add(door, plate(width - 0.01, height - 0.01, 0.02), front, (0.012, width / 2, 0))
    builder.add(door, box(0.004, width - 0.02, height - 0.02), shell, (0, width / 2, 0))
    builder.add(parent, cylinder(0.05, 0.03), "dark", (0, -0.2, base + height + 0.015))
    beacon = builder.material(f"{name}/beacon", paints.paint(rng, (236, 120, 20), 64, 0.2), 0.1, 0.6)
    builder.add(
        parent, lathe([(0.045, 0), (0.045, 0.09), (0.02, 0.12), (1e-4, 0.12)]), beacon, (0, -0.2, base + height + 0.03)
    )
    for index, y in enumerate((0.05, 0.13, 0.21)):
        z = 1.4 + 0.05 * index
        conduit = [(-0.05, y, base + height - 0.02), (-0.05, y, z), (-0.93, y, z), (-0.93, -0.42, z)]
        builder.add(parent, tube(conduit, 0.02, 0.06, 8), "steel")
    for side in (-1, 1):
        warning = builder.material(
            f"{name}/sign{side}", paints.sign(rng, "DANGER" if side < 0 else "MCC 2", (238, 196, 24), "triangle")
        )
        builder.add(parent, plate(0.22, 0.22), warning, (0.02, side * (width / 2 + 0.013), 1.0), turned(90 * side))


def tank(builder: Builder, name: str, parent) -> None:
    """An upright vessel with a level gauge (bodies ``<name>/level`` and, hidden in the normal world, ``<name>/level low``),
    a large dial, a manhole and a handwheel valve."""
    rng = builder.rng
    shell = builder.material(
        f"{name}/shell", paints.paint(rng, PAINTS[rng.choice(["cream", "white", "teal", "grey", "brown"])]), 0.6, 0.3
    )
    band = builder.material(f"{name}/band", paints.hazard(rng, first=PAINTS["blue"], second=PAINTS["white"]), 0.3)
    r = 0.31
    dome = [(r * np.cos(a), 0.16 * np.sin(a)) for a in np.linspace(0, np.pi / 2, 7)]
    profile = [(max(x, 1e-4), 0.3 - z) for x, z in reversed(dome)] + [(max(x, 1e-4), 1.22 + z) for x, z in dome]
    builder.add(parent, lathe(profile, 32), shell)
    for z in (0.42, 1.12):
        builder.add(
            parent, lathe([(r, z - 0.035), (r + 0.006, z - 0.035), (r + 0.006, z + 0.035), (r, z + 0.035)], 32), band
        )
    for angle in (45, 135, 225, 315):
        leg = turned(angle).apply([r - 0.04, 0, 0.2])
        builder.add(parent, box(0.06, 0.06, 0.4), "skid", leg, turned(angle))
    builder.add(parent, tube([(0, 0, 1.36), (0, 0, 1.56), (-0.85, 0, 1.56), (-0.85, 0.42, 1.56)], 0.045, 0.1), shell)
    flange(builder, parent, (0, 0, 1.44), radius=0.09)

    board = builder.material(f"{name}/scale", _level_scale(rng))
    builder.add(parent, plate(0.15, 0.62, 0.01), board, (r + 0.03, -0.13, 0.78))
    for level, high in (("level", 0.46), ("level low", 0.12)):
        column = builder.body(f"{name}/{level}", (r + 0.042, -0.13, 0.49), parent=parent)
        builder.add(column, box(0.014, 0.062, high), "signal red", (0, 0.0, high / 2))
    gauge(builder, parent, f"{name}/gauge", (r + 0.03, 0.14, 0.86), "deg", 0.26, rng.uniform(0.2, 0.6))
    plaque = builder.material(f"{name}/label", label(rng, 200, 130, 2))
    for angle in (90, 180, 270):
        builder.add(parent, plate(0.24, 0.156), plaque, turned(angle).apply([r + 0.012, 0, 0.75]), turned(angle))
    builder.material(f"{name}/valve paint", paints.paint(rng, PAINTS["red"]), 0.3, 0.3)
    builder.add(parent, tube([(0.2, 0.12, 0.3), (r + 0.1, 0.12, 0.3)], 0.035), "steel")
    flange(builder, parent, (r + 0.04, 0.12, 0.3), ALONG_X, 0.07)
    handwheel(builder, parent, f"{name}/valve", (r + 0.1, 0.12, 0.33), Rotation.from_euler("y", 60, degrees=True), 0.1)


def _level_scale(rng: np.random.Generator) -> np.ndarray:
    import cv2

    image = np.full((310, 75, 3), (228, 228, 220), np.uint8)
    for tick in range(21):
        y = 15 + tick * 14
        cv2.line(image, (58 if tick % 5 else 52, y), (72, y), (20, 20, 20), 2)
    cv2.rectangle(image, (18, 10), (56, 300), (40, 44, 48), -1)
    cv2.rectangle(image, (0, 0), (74, 309), (20, 20, 20), 2)
    return (image * (1 + 0.04 * paints.grain(rng, 310, 0.8)[:, :75, None])).clip(0, 255).astype(np.uint8)


def storage(builder: Builder, name: str, parent) -> list[str]:
    """A pallet with crates and a drum; returns the names of the loose bodies."""
    rng = builder.rng
    for y in (-0.38, 0, 0.38):
        builder.add(parent, box(0.8, 0.1, 0.09), "wood", (0, y, 0.045))
    for x in np.linspace(-0.35, 0.35, 6):
        builder.add(parent, box(0.11, 1.0, 0.022), "wood", (x, 0, 0.101), turned(0))
    ground, bodies = 0.113, []
    sizes = [(0.46, 0.4, 0.3), (0.38, 0.36, 0.26), (0.34, 0.3, 0.24)]
    places = [(0.1, -0.26, ground), (-0.1, 0.2, ground), (0.1, -0.25, ground + 0.301)]
    for index, (size, place) in enumerate(zip(sizes, places, strict=True)):
        image = (
            paints.cardboard(rng)
            if rng.random() < 0.5
            else paints.wood(rng, 255 * hue_color(rng, (0.2, 0.5), (0.5, 0.75)))
        )
        crate = repaintable(builder, f"{name}/crate{index}", image, 0.4)
        body = builder.body(f"{name}/crate{index}", place, turned(rng.uniform(-8, 8)), parent)
        builder.add(body, box(*size), crate, (0, 0, size[2] / 2))
        bodies.append(f"{name}/crate{index}")
    bodies.append(drum(builder, f"{name}/drum", (0.16, 0.3, ground), parent))
    return bodies


def drum(builder: Builder, name: str, position, parent) -> str:
    """A small steel drum with rolling hoops and a label."""
    rng, r, h = builder.rng, 0.17, 0.5
    color = PAINTS[rng.choice(["blue", "red", "green", "yellow", "orange", "white"])]
    paint = repaintable(builder, name, paints.paint(rng, color), 0.4, 0.3)
    body = builder.body(name, position, parent=parent)
    profile = [(1e-4, 0), (r, 0), (r + 0.008, 0.01), (r, 0.02)]
    for z in (h / 3, 2 * h / 3):
        profile += [(r, z - 0.015), (r + 0.01, z), (r, z + 0.015)]
    profile += [(r, h - 0.02), (r + 0.008, h - 0.01), (r, h), (r - 0.012, h), (r - 0.012, h - 0.015), (1e-4, h - 0.015)]
    builder.add(body, lathe(profile), paint)
    sticker = builder.material(f"{name} label", label(rng, 140, 100, 2))
    for angle in (0, 130, 245):
        builder.add(body, plate(0.17, 0.12), sticker, turned(angle).apply([r + 0.004, 0, 0.25]), turned(angle))
    return name
