"""The simulated patrol site: a plant room with an island of equipment that a robot drives around.

A seed decides where each piece stands, how everything is painted and what lies about; with ``anomalies`` it also
decides five things that are wrong. The same seed without anomalies is the same room in its normal state.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.lab import equipment, loose
from omniad_ros.lab import plant_textures as paints
from omniad_ros.lab.anomalies import Anomaly, plan
from omniad_ros.lab.builder import ALONG_X, ALONG_Y, Builder, turned
from omniad_ros.lab.shapes import box, cylinder, plate, sheet, tube
from omniad_ros.lab.stage import Edit, Stage
from omniad_ros.lab.textures import label

HALF = 3.8
"""Metres from the room's middle to its walls."""
SLAB = 1.25
CAMERA = Camera.from_fov(640, 480, np.radians(75))


class PlantRoom:
    """One plant room; world frame: z up from the floor, origin in the island's middle.

    anomalies: plant the seed's five anomalies, or these. light: how far the light differs from that of the survey, 0 (the same) to
    about 1 (lamps dimmed, warmer and elsewhere). camera: what `image` renders for.
    """

    def __init__(
        self, seed: int, anomalies: bool | Sequence[Anomaly] = False, light: float = 0.0, camera: Camera = CAMERA
    ):
        self.seed, self.camera = seed, camera
        spec = mujoco.MjSpec()
        spec.compiler.degree = False
        builder = Builder(spec, np.random.default_rng(seed))
        _settings(spec)
        _common_materials(builder)
        _shell(builder)
        _walls(builder)
        self._fixed, crates = _island(builder)
        standing, free = _floor_things(builder)
        strays = [builder.rng.choice(loose.STRAY)(builder, f"stray{i}", (*free[i], 0)) for i in range(2)]
        spills = [loose.spill(builder, f"spill{i}", (*free[2 + i], 0)) for i in range(2)]
        _lights(builder, light)
        _robot(builder)
        spec.worldbody.add_body(name="eye", mocap=True).add_camera(name="eye")
        hidden = [*strays, *spills, "tank/level low", "robot"]
        self.stage = Stage(builder.compile(), camera, hidden)
        self._movable = standing, crates, strays, spills, free[4:]
        self.anomalies = self.planned([seed, 1]) if anomalies is True else list(anomalies or ())
        self.stage.edit(edit for anomaly in self.anomalies for edit in anomaly.edits)

    def planned(self, seed: int | list[int]) -> list[Anomaly]:
        """Five things that may be wrong."""
        return plan(self.stage, np.random.default_rng(seed), *self._movable)

    def close(self) -> None:
        """Free the graphics memory."""
        self.stage.close()

    def image(self, pose: Pose) -> np.ndarray:
        """What a camera at ``pose`` (world_from_camera, optical) sees; uint8 RGB (H, W, 3), free of noise."""
        return self.stage.image(pose)

    def overview(self, base: Pose | None = None, corner: int = 0) -> np.ndarray:
        """The room from above a corner (0 to 3) of the lane, with the robot at ``base`` (world_from_base); as `image`."""
        edits = [edit for anomaly in self.anomalies for edit in anomaly.edits]
        if base is not None:
            self.stage.place("robot", base)
            self.stage.edit([*edits, Edit("robot", visible=True)])
        eye = turned(90 * corner).apply([HALF - 0.9, HALF - 0.9, 2.3])
        image = self.stage.image(Pose.look_at(eye, (0, 0, 0.35)))
        self.stage.edit(edits)
        return image

    def labels(self, pose: Pose) -> np.ndarray:
        """uint8 (H, W): 0 where the view is normal, 1 + i where ``anomalies[i]`` visibly changed it."""
        return self.stage.compare(pose, [anomaly.edits for anomaly in self.anomalies])[1]


def _settings(spec: mujoco.MjSpec) -> None:
    spec.stat.extent, spec.stat.center = 4.0, [0.0, 0.0, 0.8]
    spec.visual.map.znear, spec.visual.map.zfar = 0.015, 6.0  # times the extent
    spec.visual.map.shadowclip, spec.visual.map.shadowscale = 1.0, 1.0
    spec.visual.quality.shadowsize, spec.visual.quality.offsamples = 1536, 4
    spec.visual.headlight.diffuse = [0.0] * 3
    spec.visual.headlight.specular = [0.0] * 3


def _common_materials(builder: Builder) -> None:
    rng, add = builder.rng, builder.material
    add("steel", paints.steel(rng), 0.35, 0.4)
    add("skid", paints.paint(rng, equipment.PAINTS[rng.choice(["grey", "blue", "green", "brown"])], wear=1.6), 0.4)
    add("tread", paints.tread(rng), 0.3, 0.3)
    add("dark", paints.paint(rng, (52, 52, 56), wear=0.8), 0.3, 0.2)
    add("brass", paints.paint(rng, (176, 138, 62), wear=0.6), 0.25, 0.6)
    add("wood", paints.wood(rng), 0.4)
    add("signal red", paints.paint(rng, (206, 28, 24), 128, 0.3), 0.2, 0.2)
    add("lever", paints.paint(rng, equipment.PAINTS[rng.choice(["red", "yellow"])], 128, 0.5), 0.2, 0.2)
    add("white line", paints.paint(rng, (206, 206, 200), 256, 2.0), 0.5)
    add("yellow line", paints.paint(rng, (226, 180, 24), 256, 2.0), 0.5)
    add("hazard", paints.hazard(rng), 0.25)


def _shell(builder: Builder) -> None:
    """Floor with its markings, and the island's slab."""
    rng, world = builder.rng, builder.spec.worldbody
    builder.material("floor", paints.concrete(rng, rng.uniform(105, 140), 1024), 3.1, 0.15)
    builder.material("slab", paints.concrete(rng, rng.uniform(120, 145), 512), 1.3, 0.1)
    builder.add(world, sheet(2 * HALF, 2 * HALF), "floor", rotation=turned(float(rng.integers(0, 4) * 90)))
    builder.add(world, box(2 * SLAB, 2 * SLAB, 0.08), "slab", (0, 0, 0.04))
    for turn in range(4):
        around = turned(90 * turn)
        builder.add(world, box(0.03, 2 * SLAB + 0.06, 0.085), "hazard", around.apply([SLAB + 0.015, 0, 0.0425]), around)
        builder.add(world, box(0.09, 3.88, 0.004), "yellow line", around.apply([1.94, 0, 0.002]), around)
        for y in np.arange(-2.6, 2.7, 1.3):
            builder.add(world, box(0.07, 0.55, 0.004), "white line", around.apply([3.2, y, 0.002]), around)
    for index in range(8):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(2.3, 3.4)
        image = paints.tread(rng, 128) if index % 2 else paints.marking(rng)
        size = (0.5, 0.36) if index % 2 else (0.6, 0.3)
        decal = builder.material(f"decal{index}", image)
        flat = turned(float(rng.uniform(0, 360))) * ALONG_X.inv()
        builder.add(world, plate(*size, 0.006), decal, (radius * np.cos(angle), radius * np.sin(angle), 0.003), flat)


def _walls(builder: Builder) -> None:
    """Block walls with a painted dado, and what hangs on them."""
    rng, world = builder.rng, builder.spec.worldbody
    tones = [(196, 190, 170), (178, 188, 180), (190, 178, 164), (184, 184, 190)]
    builder.material("brick", paints.brick(rng, tones[rng.integers(0, 4)]), 1.3)
    builder.material(
        "dado",
        paints.paint(rng, equipment.PAINTS[rng.choice(["green", "blue", "teal", "brown", "grey"])], 512, 1.4),
        1.4,
    )
    for turn in range(4):
        around = turned(90 * turn)
        inwards = around * ALONG_X.inv() * turned(90)
        for z, height, name in ((0.6, 1.2, "dado"), (2.7, 3.0, "brick")):
            builder.add(world, sheet(2 * HALF, height), name, around.apply([HALF, 0, z]), inwards)
        builder.add(world, box(0.02, 2 * HALF, 0.06), "hazard", around.apply([HALF - 0.01, 0, 1.2]), around)
        wall = builder.body(f"wall{turn}", around.apply([HALF, 0, 0]), around * turned(180))
        _wall_pipes(builder, wall, f"wall{turn}")
        fittings = [_door, _locker, _notices, _shelf]
        for y, fitting in zip((-2.3, -0.4, 1.7), rng.permutation(np.array(fittings))[:3], strict=True):
            fitting(builder, wall, f"wall{turn}/{fitting.__name__}", y + rng.uniform(-0.3, 0.3))


def _wall_pipes(builder: Builder, wall, name: str) -> None:
    rng = builder.rng
    height = 2.2 + rng.uniform(-0.1, 0.1)
    for index in range(2):
        color = rng.choice(["blue", "green", "red", "yellow", "grey"])
        paint = builder.material(f"{name}/pipe{index}", paints.paint(rng, equipment.PAINTS[color]), 0.4, 0.2)
        z, down = height + 0.2 * index, rng.uniform(-3.2, 3.2)
        line = [(0.12, -HALF, z), (0.12, down, z), (0.12, down, 0.0)] if index else [(0.12, -HALF, z), (0.12, HALF, z)]
        builder.add(wall, tube(line, 0.05, 0.12, 10), paint)
        for y in rng.uniform(-3.3, down if index else 3.3, 2):
            equipment.flange(builder, wall, (0.12, y, z), ALONG_Y, 0.085)


def _door(builder: Builder, wall, name: str, y: float) -> None:
    rng = builder.rng
    paint = builder.material(
        f"{name} paint", paints.paint(rng, equipment.PAINTS[rng.choice(["grey", "blue", "brown", "red"])], 512), 0.9
    )
    exit_ = builder.material(f"{name} exit", paints.sign(rng, "EXIT", (20, 130, 70), "square"))
    builder.add(wall, box(0.06, 1.08, 2.1), "dark", (0.02, y, 1.05))
    builder.add(wall, box(0.06, 0.95, 2.02), paint, (0.035, y, 1.02))
    builder.add(wall, box(0.08, 0.04, 0.16), "steel", (0.07, y - 0.38, 1.05))
    builder.add(wall, plate(0.3, 0.3), exit_, (0.075, y, 1.62))


def _locker(builder: Builder, wall, name: str, y: float) -> None:
    rng = builder.rng
    color = equipment.PAINTS[rng.choice(["grey", "cream", "white", "teal"])]
    shell = builder.material(f"{name} shell", paints.paint(rng, color), 0.5)
    front = builder.material(f"{name} front", paints.cabinet_door(rng, color), gloss=0.2)
    builder.add(wall, box(0.3, 0.8, 1.7), shell, (0.16, y, 0.9))
    builder.add(wall, plate(0.76, 1.6), front, (0.315, y, 0.92))


def _notices(builder: Builder, wall, name: str, y: float) -> None:
    rng = builder.rng
    texts = [("NO ENTRY", (190, 34, 30), "circle"), ("EAR PLUGS", (30, 80, 170), "square"), ("400 V", (238, 196, 24), "triangle"),
             ("EXIT", (20, 130, 70), "square"), ("HOT PIPE", (238, 196, 24), "triangle")]  # fmt: skip
    for index, choice in enumerate(rng.permutation(len(texts))[:2]):
        material = builder.material(f"{name} sign{index}", paints.sign(rng, *texts[choice]))
        builder.add(wall, plate(0.42, 0.42), material, (0.01, y - 0.45 + 0.5 * index, 1.62))
    poster = builder.material(f"{name} poster", label(rng, 256, 190, 4))
    builder.add(wall, plate(0.8, 0.6), poster, (0.01, y + 0.02, 0.95))


def _shelf(builder: Builder, wall, name: str, y: float) -> None:
    rng = builder.rng
    for side in (-0.6, 0.6):
        builder.add(wall, box(0.36, 0.04, 1.7), "skid", (0.2, y + side, 0.85))
    for level in (0.15, 0.75, 1.35):
        builder.add(wall, box(0.36, 1.2, 0.03), "steel", (0.2, y, level))
        x = -0.5
        while x < 0.4:
            width, height = rng.uniform(0.2, 0.4), rng.uniform(0.18, 0.42)
            kind = builder.material(f"{name} box {level} {x:.2f}", paints.cardboard(rng, 128), 0.35)
            builder.add(wall, box(0.28, width, height), kind, (0.2, y + x + width / 2, level + 0.015 + height / 2))
            x += width + rng.uniform(0.02, 0.1)


def _island(builder: Builder) -> tuple[list[str], list[str]]:
    """Four quarters with pumps, tank and cabinet, and a pallet, around a riser; returns (modules, loose crates)."""
    rng, world = builder.rng, builder.spec.worldbody
    riser = builder.material(
        "riser", paints.paint(rng, equipment.PAINTS[rng.choice(["green", "blue", "grey", "cream"])]), 0.4, 0.2
    )
    builder.add(world, cylinder(0.1, 4.0), riser, (0, 0, 2.08))
    for z in (0.4, 0.9, 1.3, 1.75):
        equipment.flange(builder, world, (0, 0, z), radius=0.16)
    crates: list[str] = []
    modules = ["pump1", "pump2", "utilities", "storage"]
    for quarter, name in enumerate(rng.permutation(modules)):
        around = turned(90 * quarter)
        center = np.array([0.63, 0.63, 0.08]) + [*rng.uniform(-0.03, 0.03, 2), 0]
        body = builder.body(str(name), around.apply(center), around)
        if name == "utilities":
            equipment.cabinet(builder, "cabinet", builder.body("cabinet", (0.36, -0.2, 0), parent=body))
            equipment.tank(builder, "tank", builder.body("tank", (-0.24, 0.24, 0), turned(90), body))
        elif name == "storage":
            crates = equipment.storage(builder, "storage", body)
        else:
            equipment.pump(builder, str(name), builder.body(f"{name} skid", (0.26, 0, 0), parent=body))
    return modules, crates


def _floor_things(builder: Builder) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Six things on the floor beside the slab; returns their places (2,) by name, and the free places."""
    rng = builder.rng
    slots = [turned(90 * side).apply([1.5, y, 0])[:2] for side in range(4) for y in (-0.8, 0.0, 0.8)]
    slots = [slot + rng.uniform(-0.06, 0.06, 2) for slot in slots]
    rng.shuffle(slots)
    standing = {}
    for index, make in enumerate(rng.permutation(np.array(loose.STANDING))[:6]):
        standing[make(builder, f"{make.__name__}{index}", (*slots[index], 0))] = slots[index]
    return standing, slots[6:]


def _robot(builder: Builder) -> None:
    """The patrol robot as others see it; its own pictures are taken without it."""
    rng = builder.rng
    body = builder.spec.worldbody.add_body(name="robot", mocap=True)
    hull = builder.material("robot/hull", paints.paint(rng, equipment.PAINTS["orange"], wear=0.3), 0.4, 0.5)
    name = builder.material("robot/name", label(rng, 160, 60, 1))
    builder.add(body, box(0.46, 0.28, 0.13), hull, (-0.05, 0, 0.15))
    builder.add(body, box(0.4, 0.24, 0.03), "dark", (-0.05, 0, 0.23))
    for side in (-1, 1):
        builder.add(body, cylinder(0.08, 0.04, 20), "dark", (0, 0.18 * side, 0.08), ALONG_Y)
        builder.add(body, cylinder(0.04, 0.05, 12), "steel", (0, 0.18 * side, 0.08), ALONG_Y)
        builder.add(body, plate(0.2, 0.075), name, (-0.14, 0.142 * side, 0.16), turned(90 * side))
    builder.add(body, cylinder(0.04, 0.05, 12), "steel", (-0.2, 0, 0.04), ALONG_Y)
    builder.add(body, cylinder(0.02, 0.46, 10), "steel", (0, 0.02, 0.45))
    builder.add(body, cylinder(0.05, 0.06, 16), "dark", (-0.16, 0, 0.275))
    builder.add(body, box(0.12, 0.07, 0.07), "dark", (0, 0.03, 0.68))
    builder.add(body, cylinder(0.024, 0.03, 14), "steel", (0, 0.075, 0.68), ALONG_Y)


def _lights(builder: Builder, light: float) -> None:
    rng, world = builder.rng, builder.spec.worldbody
    angle = rng.uniform(0, 2 * np.pi) + 0.5 * light
    tint = np.array([1.0, 0.97, 0.92]) * (1 + rng.uniform(-0.03, 0.03, 3)) * (1 - light * np.array([0.25, 0.32, 0.42]))
    lamp = np.array([0.8 * np.cos(angle), 0.8 * np.sin(angle), 4.4])
    world.add_light(pos=lamp, dir=[-0.1 * lamp[0], -0.1 * lamp[1], -1], cutoff=52, exponent=4, castshadow=True,
                    diffuse=0.64 * tint, ambient=[0.0] * 3, specular=[0.3] * 3)  # fmt: skip
    builder.spec.visual.headlight.ambient = 0.46 * tint
    for side in (0.8, 2.9, 5.0):  # fill light from the sides, so that upright surfaces are lit all around
        direction = np.array([np.cos(angle + side), np.sin(angle + side), 0.6])
        world.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, pos=3 * direction, dir=-direction, castshadow=False,
                        diffuse=rng.uniform(0.24, 0.36) * tint, ambient=[0.0] * 3, specular=[0.05] * 3)  # fmt: skip
