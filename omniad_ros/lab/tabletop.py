"""A table-top scene: textured things on a table in a room, photographed all around, for benchmarks and tests.

The survey shows the normal scene; a patrol's picture shows it from an unseen pose, unchanged or with one thing missing, added,
moved, recoloured or stained. Masks are exact (see `Stage.compare`). `write_tabletop` makes a dataset of it in the MAD layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.lab import textures
from omniad_ros.lab.conditions import Conditions, Lamps, Motion, exposed, noisy
from omniad_ros.lab.looks import PATTERNED, Look, add_lamps, add_room
from omniad_ros.lab.mad import MadWriter, Picture
from omniad_ros.lab.shapes import lathe
from omniad_ros.lab.stage import Edit, Stage, add_texture, wxyz

KINDS = ("good", "missing", "added", "moved", "recoloured", "stained")
TABLE_HALF = 0.52
CLEARANCE = 0.35
"""Metres from the camera to the nearest thing's middle, so that nothing fills the picture."""
SPARE = 4
"""Things that wait to be added, beside those of the normal scene; of the small ones as many."""
PASSING = 3
"""Things that may stand in a survey picture and are no part of the place."""
PASSING_SEEN = 0.004
"""Share of the picture from which such a thing counts as seen."""
TRIES = 30


@dataclass(frozen=True)
class TabletopOptions:
    """How many pictures of what size, and how hard the scene is.

    views: survey images; per_kind: test images of each of `KINDS`; normal: of the kind 'good' where not as many; field_of_view: horizontal, degrees; distance: metres
    from the scene's middle; elevation: degrees; objects: fewest and most; plain: share of objects without texture; gloss:
    strength of highlights in [0, 1]; small: things of 3 to 5 cm and stains of as much, to which all anomalies are limited where
    there are any; seen: least and greatest share of the picture that an anomaly changes.
    """

    width: int = 320
    height: int = 240
    views: int = 90
    per_kind: int = 8
    normal: int | None = None
    field_of_view: float = 58.0
    distance: tuple[float, float] = (0.8, 1.6)
    elevation: tuple[float, float] = (14.0, 62.0)
    objects: tuple[int, int] = (8, 14)
    plain: float = 0.0
    gloss: float = 0.15
    small: int = 0
    seen: tuple[float, float] = (0.0006, 1.0)
    look: Look = PATTERNED
    conditions: Conditions = field(default_factory=Conditions)


EVERYDAY = TabletopOptions(plain=0.35, gloss=0.6, conditions=Conditions(noise=2.0))
"""Some objects without texture, more highlights, more noise: the difficulty of ordinary things."""
SMALL_THINGS = replace(EVERYDAY, width=640, height=480, small=8, seen=(0.0002, 0.0012), distance=(0.8, 1.5))
"""What a large camera sees of bolts and drips: 60 to 370 pixels, 12 to 36 across."""
HALF_SIZES, SMALL_HALF_SIZES = (0.035, 0.075), (0.015, 0.025)
"""Metres: halves of a thing's sides."""
STAINS, SMALL_STAINS = 1, 5
"""Places on the table where something may have been spilt, each the only one in its picture."""
STAIN_RADIUS, SMALL_STAIN_RADIUS = (0.05, 0.08), (0.016, 0.024)
"""Of the table's width, which is 1.04 m: small ones are 20 pixels across at 640 pixels and 1.2 m."""


class Tabletop:
    """One random scene; the same seed and options give the same scene and pictures.

    Conditions have a random generator of their own, so that a scene is the same without them.
    """

    def __init__(self, seed: int, options: TabletopOptions = TabletopOptions()):
        self.options = options
        self.camera = Camera.from_fov(options.width, options.height, np.radians(options.field_of_view))
        self._rng = np.random.default_rng(seed)
        self._chance = np.random.default_rng([seed, 2])
        self._spec = mujoco.MjSpec()
        self._spec.visual.map.znear = 0.02
        self._spec.visual.quality.shadowsize = 2048
        add_room(self._spec, self._rng, options.look)
        self._add_table()
        add_lamps(self._spec, self._rng, options.look, options.gloss)
        self._spec.worldbody.add_body(name="eye", mocap=True).add_camera(name="eye")
        count = int(self._rng.integers(options.objects[0], options.objects[1] + 1))
        self.heights: dict[str, float] = {}
        self.radii: dict[str, float] = {}
        large = [f"object{index}" for index in range(count + SPARE)]
        small = [f"small{index}" for index in range(options.small + SPARE)] if options.small else []
        passing = [f"passing{index}" for index in range(PASSING)] if options.conditions.transients else []
        for name in large:
            self._add_object(self._rng, name, HALF_SIZES)
        for name in small:
            self._add_object(self._rng, name, SMALL_HALF_SIZES)
        for name in passing:
            self._add_object(self._chance, name, HALF_SIZES)
        self.present, self.spare = [*large[:count], *small[: options.small]], [*large[count:], *small[options.small :]]
        self._passing = passing
        self._spec.stat.extent, self._spec.stat.center = 1.0, [0.0, 0.0, 0.0]
        model = self._spec.compile()
        self.places = self._arrange(model)
        self._stage = Stage(model, self.camera, hidden=[*self.spare, *passing])

    def close(self) -> None:
        self._stage.close()

    def _add_table(self) -> None:
        rng, world, small, gloss = self._rng, self._spec.worldbody, self.options.small > 0, 0.3 * self.options.gloss
        pattern = str(rng.choice(["noise", "marble", "speckle"]))
        top = self.options.look.surface(rng, pattern, 1280 if small else 640, 4.0)
        add_texture(self._spec, "table", top, gloss=gloss)
        for index in range(SMALL_STAINS if small else STAINS):
            center = tuple(rng.uniform(0.15, 0.85, 2) if small else rng.uniform(0.25, 0.75, 2))
            radius = rng.uniform(*(SMALL_STAIN_RADIUS if small else STAIN_RADIUS))
            add_texture(self._spec, f"table stained{index}", textures.stain(top, rng, radius, center), gloss=gloss)
        half = [TABLE_HALF, TABLE_HALF, 0.02]
        table = world.add_body(name="table")
        table.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=[0, 0, -0.02], material="table")
        for x in (-0.44, 0.44):
            for y in (-0.44, 0.44):
                world.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                    size=[0.03, 0.36, 0],
                    pos=[x, y, -0.38],
                    rgba=[0.3, 0.28, 0.26, 1],
                )

    def _add_object(self, rng: np.random.Generator, name: str, half_sizes: tuple[float, float]) -> None:
        shapes, look = mujoco.mjtGeom, self.options.look
        body = self._spec.worldbody.add_body(name=name)
        pattern = "plain" if rng.random() < self.options.plain else str(rng.choice(textures.PATTERNS))
        faces = textures.cube_texture(rng, pattern) if pattern == "plain" else look.cube(rng, pattern)
        side = int(
            rng.integers(0, 4)
        )  # a stain on one side and on the top, so that one of them is seen from most poses
        stained = faces.copy()
        for face in (side, 4):
            stained[face] = textures.stain(faces[face], rng, rng.uniform(0.22, 0.36), tuple(rng.uniform(0.4, 0.6, 2)))
        gloss = self.options.gloss * rng.uniform(0.2, 1.0)
        for suffix, image in (("", faces), (" recoloured", textures.recolored(faces, rng)), (" stained", stained)):
            add_texture(self._spec, name + suffix, image, gloss=gloss, shine=rng.uniform(0.2, 0.8))
        a, b, c = rng.uniform(*half_sizes, 3)
        shape = rng.integers(0, 5)
        if look.turned and rng.random() < look.turned:
            self._add_turned(body, name, a, c, rng)
            return
        kind, size, height, radius = [
            (shapes.mjGEOM_BOX, [a, b, 1.6 * c], 1.6 * c, np.hypot(a, b)),
            (shapes.mjGEOM_CYLINDER, [a, 1.4 * c, 0], 1.4 * c, a),
            (shapes.mjGEOM_SPHERE, [a, 0, 0], a, a),
            (shapes.mjGEOM_CAPSULE, [0.6 * a, c, 0], c + 0.6 * a, 0.6 * a),
            (shapes.mjGEOM_ELLIPSOID, [a, b, c], c, max(a, b)),
        ][shape]
        upright = Rotation.identity()
        if shape == 3 and rng.random() < 0.5:  # a capsule may lie
            upright = Rotation.from_euler("y", np.pi / 2)
            height, radius = 0.6 * a, c + 0.6 * a
        body.add_geom(type=kind, size=size, material=name, quat=wxyz(upright))
        self.heights[name], self.radii[name] = float(height), float(radius)

    def _add_turned(self, body, name: str, radius: float, half: float, rng: np.random.Generator) -> None:
        """A thing turned on a lathe, as bottles, cups and knobs are, in a cube's texture."""
        waist = rng.uniform(0.35, 1.0, 4) * radius
        waist[rng.integers(0, 4)] = radius
        profile = [(1e-4, -half), *zip(waist, np.linspace(-half, half, 4)), (1e-4, half)]
        mesh = lathe(profile)
        self._spec.add_mesh(
            name=name, uservert=mesh.vertices.ravel(), usernormal=mesh.normals.ravel(), userface=mesh.faces.ravel(),
            inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
        )  # fmt: skip
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, material=name)
        self.heights[name], self.radii[name] = float(half), float(radius)

    def _arrange(self, model: mujoco.MjModel) -> dict[str, np.ndarray]:
        """Stand the scene's objects on the table without overlap; those that find no place leave the scene."""
        places: dict[str, np.ndarray] = {}
        for name in list(self.present):
            place = self._free_place(self._rng, name, places)
            if place is None:
                self.present.remove(name)
                self.spare.append(name)
                continue
            places[name] = place
            model.body(name).pos[:] = place
            model.body(name).quat[:] = self._turn(self._rng)
        return places

    @staticmethod
    def _turn(rng: np.random.Generator) -> tuple[float, float, float, float]:
        return wxyz(Rotation.from_euler("z", rng.uniform(0, 2 * np.pi)))

    def _free_place(
        self, rng: np.random.Generator, name: str, places: dict[str, np.ndarray], near: np.ndarray | None = None
    ) -> np.ndarray | None:
        """A place where the object overlaps no other; within 6 to 16 cm of ``near`` where that is given; None if none is free."""
        limit = TABLE_HALF - self.radii[name] - 0.01
        for _ in range(300):
            xy = rng.uniform(-limit, limit, 2)
            if near is not None:
                angle, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.16)
                xy = near[:2] + step * np.array([np.cos(angle), np.sin(angle)])
            others = (o for o in places if o != name)
            if np.abs(xy).max() < limit and all(
                np.linalg.norm(xy - places[o][:2]) > self.radii[o] + self.radii[name] + 0.01 for o in others
            ):
                return np.array([*xy, self.heights[name]])
        return None

    def pose(self, azimuth: float | None = None) -> Pose:
        """A random pose on the shell around the table, at the given azimuth (radians) if any; world_from_camera."""
        rng, options = self._rng, self.options
        target = np.array([0.0, 0.0, 0.04]) + rng.uniform(-1, 1, 3) * [0.12, 0.12, 0.04]
        while True:
            angle = rng.uniform(0, 2 * np.pi) if azimuth is None else azimuth + rng.uniform(-0.1, 0.1)
            elevation, distance = np.radians(rng.uniform(*options.elevation)), rng.uniform(*options.distance)
            flat = np.cos(elevation)
            eye = distance * np.array([flat * np.cos(angle), flat * np.sin(angle), np.sin(elevation)])
            if min(np.linalg.norm(eye - place) for place in self.places.values()) > CLEARANCE:
                return Pose.look_at(eye, target)

    def survey(self, pose: Pose) -> Picture:
        """The normal scene from ``pose`` in its normal light; at times with something in it that is no part of the place."""
        self._stage.light(None)
        passing = None
        if self._chance.random() < self.options.conditions.transients:
            passing = self._pass_by(pose)
        self._stage.edit(() if passing is None else [passing])
        said = {} if passing is None else {"transient": passing.body}
        return Picture(self._taken(self._stage.image(pose)), None, said)

    def patrol(self, pose: Pose, kind: str = "good") -> Picture:
        """What a patrol sees from ``pose``: the normal scene, or a random anomaly of ``kind`` that can be seen from there.

        Raises ValueError where none of `TRIES` anomalies could be seen.
        """
        conditions, chance, said, mask = self.options.conditions, self._chance, {}, None
        if conditions.lamps:
            self._stage.light(lamps := Lamps.drawn(chance, conditions.lamps))
            said["lamps"] = {"turn": lamps.turn.as_rotvec().tolist(), "strength": lamps.strength.tolist()}
        motion = Motion.drawn(chance, conditions, self.camera) if chance.random() < conditions.blurred else None
        if kind == "good":
            self._stage.edit(())
            image = self._stage.image(pose)
        else:
            image, mask = self._anomalous(pose, kind)
        if motion is not None:
            image = motion.image(self._stage.image, pose)
            said["blurred"] = motion.steps
        return Picture(self._taken(image), mask, said)

    def _taken(self, image: np.ndarray) -> np.ndarray:
        conditions = self.options.conditions
        if conditions.exposure:
            image = exposed(self._chance, image, conditions.exposure)
        return noisy(self._rng, image, conditions.noise)

    def _pass_by(self, pose: Pose) -> Edit | None:
        """Something that stands in the view from ``pose``; None where none of `TRIES` places is seen from there."""
        for _ in range(TRIES):
            name = str(self._chance.choice(self._passing))
            place = self._free_place(self._chance, name, self.places)
            if place is None:
                continue
            edit = Edit(name, visible=True, position=tuple(place), quaternion=self._turn(self._chance))
            self._stage.edit([edit])
            ids = self._stage.body_ids(pose)
            if np.isin(ids, self._stage.bodies(name)).mean() > PASSING_SEEN:
                return edit
        return None

    def _anomalous(self, pose: Pose, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """The rendering, and the mask of the anomaly (uint8, 0 and 255); the stage is left with it."""
        least, most = self.options.seen
        for _ in range(TRIES):
            edit = self._edit(kind)
            if edit is None:
                continue
            image, labels = self._stage.compare(pose, [[edit]])
            if least * labels.size <= np.count_nonzero(labels) <= most * labels.size:
                return image, np.where(labels, 255, 0).astype(np.uint8)
        raise ValueError(f"no anomaly of kind '{kind}' can be seen from this pose")

    def _edit(self, kind: str) -> Edit | None:
        rng, small = self._rng, self.options.small > 0
        names = [n for n in (self.spare if kind == "added" else self.present) if n.startswith("small") or not small]
        name = str(rng.choice(names))
        if kind == "missing":
            return Edit(name, visible=False)
        if kind in ("added", "moved"):
            place = self._free_place(rng, name, self.places, near=self.places.get(name))
            return (
                None if place is None else Edit(name, visible=True, position=tuple(place), quaternion=self._turn(rng))
            )
        if kind == "recoloured":
            return Edit(name, material=(name, f"{name} recoloured"))
        if small:
            return Edit("table", material=("table", f"table stained{rng.integers(SMALL_STAINS)}"))
        if rng.random() < 0.3:
            return Edit("table", material=("table", "table stained0"))
        return Edit(name, material=(name, f"{name} stained"))


def write_tabletop(
    out: Path | str,
    seed: int,
    options: TabletopOptions = TabletopOptions(),
    kinds: Sequence[str] = KINDS,
    progress: Progress = quiet,
) -> Path:
    """Write a scene as a dataset in the MAD layout (see `MadWriter`) and return its path.

    Raises OmniadError where ``out`` holds something already.
    """
    scene, golden = Tabletop(seed, options), np.pi * (3 - np.sqrt(5))
    try:
        writer = MadWriter(Path(out), scene.camera, options.conditions.jpeg)
        tests = dict.fromkeys(kinds, options.per_kind)
        if "good" in tests and options.normal is not None:
            tests["good"] = options.normal
        total, done = options.views + sum(tests.values()), 0
        for index in range(options.views):
            pose = scene.pose(index * golden)
            writer.survey(scene.survey(pose), pose)
            done += 1
            progress(done / total, "photographing the table")
        for kind, count in tests.items():
            for _ in range(count):
                writer.patrol(*seen(scene, kind), kind)
                done += 1
                progress(done / total, "photographing the table")
        return writer.finish()
    finally:
        scene.close()


def seen(scene: Tabletop, kind: str) -> tuple[Picture, Pose]:
    """A patrol's picture from a random pose from which an anomaly of the kind can be seen."""
    for _ in range(TRIES):
        pose = scene.pose()
        try:
            return scene.patrol(pose, kind), pose
        except ValueError:
            continue
    raise OmniadError(f"no anomaly of kind '{kind}' can be seen in this scene; take another seed")
