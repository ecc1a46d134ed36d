"""Table-top scenes in the MAD dataset layout, for benchmarks and tests: textured objects on a table, photographed all around.

The survey shows the normal scene; each test image shows it from an unseen pose, unchanged or with one object missing,
added, moved, recoloured or stained. Masks are exact (see `Stage.compare`) and the true poses of all images are known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import write_image
from omniad_ros.lab import textures
from omniad_ros.lab.stage import Edit, Stage, add_texture, wxyz
from omniad_ros.site import PosedImages, write_transforms

KINDS = ("good", "missing", "added", "moved", "recoloured", "stained")
TABLE_HALF = 0.52
CLEARANCE = 0.35
"""Metres from the camera to the nearest object's middle, so that no object fills the picture."""
SPARE = 4
"""Objects that wait to be added, beside those of the normal scene."""


@dataclass(frozen=True)
class TabletopOptions:
    """How many pictures of what size, and how hard the scene is.

    views: survey images; per_kind: test images of each of `KINDS`; field_of_view: horizontal, degrees; distance: metres
    from the scene's middle; elevation: degrees; objects: fewest and most; plain: share of objects without texture; gloss:
    strength of highlights in [0, 1]; noise: standard deviation of the sensor's noise in grey levels.
    """

    width: int = 320
    height: int = 240
    views: int = 90
    per_kind: int = 8
    field_of_view: float = 58.0
    distance: tuple[float, float] = (0.8, 1.6)
    elevation: tuple[float, float] = (14.0, 62.0)
    objects: tuple[int, int] = (8, 14)
    plain: float = 0.0
    gloss: float = 0.15
    noise: float = 1.0


EVERYDAY = TabletopOptions(plain=0.35, gloss=0.6, noise=2.0)
"""Some objects without texture, more highlights, more noise: the difficulty of ordinary things."""


class Tabletop:
    """One random scene; the same seed and options give the same scene and pictures."""

    def __init__(self, seed: int, options: TabletopOptions = TabletopOptions()):
        self.options = options
        self.camera = Camera.from_fov(options.width, options.height, np.radians(options.field_of_view))
        self._rng = np.random.default_rng(seed)
        self._spec = mujoco.MjSpec()
        self._spec.visual.map.znear = 0.02
        self._spec.visual.quality.shadowsize = 2048
        self._spec.visual.headlight.ambient = [0.42] * 3
        self._spec.visual.headlight.diffuse = [0.2] * 3
        self._spec.visual.headlight.specular = [0.0] * 3
        self._add_room()
        count = int(self._rng.integers(options.objects[0], options.objects[1] + 1))
        self.heights: dict[str, float] = {}
        self.radii: dict[str, float] = {}
        for index in range(count + SPARE):
            self._add_object(f"object{index}")
        self.present = [f"object{index}" for index in range(count)]
        self.spare = [f"object{index}" for index in range(count, count + SPARE)]
        self._spec.stat.extent, self._spec.stat.center = 1.0, [0.0, 0.0, 0.0]
        model = self._spec.compile()
        self.places = self._arrange(model)
        self._stage = Stage(model, self.camera, hidden=self.spare)

    def close(self) -> None:
        self._stage.close()

    def _add_room(self) -> None:
        rng, world = self._rng, self._spec.worldbody
        for name, repeat in (("floor", 3), ("wall0", 2), ("wall1", 2), ("wall2", 2), ("wall3", 2)):
            image = textures.surface(
                rng, str(rng.choice(["noise", "marble", "speckle", "stripes", "checker"])), 512, 512
            )
            add_texture(self._spec, name, textures.muted(image, 0.45), repeat=(repeat, repeat), gloss=0.0)
        plane = mujoco.mjtGeom.mjGEOM_PLANE
        world.add_geom(type=plane, size=[2.6, 2.6, 0.1], pos=[0, 0, -0.74], material="floor")
        for index in range(4):
            inwards = Rotation.from_euler("xz", [np.pi / 2, index * np.pi / 2])  # the plane's z axis
            x, y, _ = -2.6 * inwards.as_matrix()[:, 2]
            world.add_geom(
                type=plane, size=[2.6, 1.8, 0.1], pos=[x, y, 1.0], material=f"wall{index}", quat=wxyz(inwards)
            )
        top = textures.surface(rng, str(rng.choice(["noise", "marble", "speckle"])), 640, 640, 4.0)
        add_texture(self._spec, "table", top, gloss=0.3 * self.options.gloss)
        center = tuple(rng.uniform(0.25, 0.75, 2))
        add_texture(
            self._spec,
            "table stained",
            textures.stain(top, rng, rng.uniform(0.05, 0.08), center),
            gloss=0.3 * self.options.gloss,
        )
        table = world.add_body(name="table")
        table.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[TABLE_HALF, TABLE_HALF, 0.02], pos=[0, 0, -0.02], material="table"
        )
        for x in (-0.44, 0.44):
            for y in (-0.44, 0.44):
                world.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_CYLINDER,
                    size=[0.03, 0.36, 0],
                    pos=[x, y, -0.38],
                    rgba=[0.3, 0.28, 0.26, 1],
                )
        for index in range(int(rng.integers(1, 3))):
            angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.4)
            position = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(1.6, 2.2)])
            strength = rng.uniform(0.7, 0.95) if index == 0 else rng.uniform(0.25, 0.4)
            tint = 1 + rng.uniform(-0.06, 0.06, 3)
            world.add_light(pos=position, dir=-position, cutoff=75, exponent=1, diffuse=strength * tint,
                            specular=[0.5 * self.options.gloss] * 3, castshadow=True)  # fmt: skip
        world.add_body(name="eye", mocap=True).add_camera(name="eye")

    def _add_object(self, name: str) -> None:
        rng, shapes = self._rng, mujoco.mjtGeom
        body = self._spec.worldbody.add_body(name=name)
        pattern = "plain" if rng.random() < self.options.plain else str(rng.choice(textures.PATTERNS))
        faces = textures.cube_texture(rng, pattern)
        side = int(
            rng.integers(0, 4)
        )  # a stain on one side and on the top, so that one of them is seen from most poses
        stained = faces.copy()
        for face in (side, 4):
            stained[face] = textures.stain(faces[face], rng, rng.uniform(0.22, 0.36), tuple(rng.uniform(0.4, 0.6, 2)))
        gloss = self.options.gloss * rng.uniform(0.2, 1.0)
        for suffix, image in (("", faces), (" recoloured", textures.recolored(faces, rng)), (" stained", stained)):
            add_texture(self._spec, name + suffix, image, gloss=gloss, shine=rng.uniform(0.2, 0.8))
        a, b, c = rng.uniform(0.035, 0.075, 3)
        shape = rng.integers(0, 5)
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

    def _arrange(self, model: mujoco.MjModel) -> dict[str, np.ndarray]:
        """Stand the scene's objects on the table without overlap; those that find no place leave the scene."""
        places: dict[str, np.ndarray] = {}
        for name in list(self.present):
            place = self._free_place(name, places)
            if place is None:
                self.present.remove(name)
                self.spare.append(name)
                continue
            places[name] = place
            model.body(name).pos[:] = place
            model.body(name).quat[:] = self._turn()
        return places

    def _turn(self) -> tuple[float, float, float, float]:
        return wxyz(Rotation.from_euler("z", self._rng.uniform(0, 2 * np.pi)))

    def _free_place(
        self, name: str, places: dict[str, np.ndarray], near: np.ndarray | None = None
    ) -> np.ndarray | None:
        """A place where the object overlaps no other; within 6 to 16 cm of ``near`` where that is given; None if none is free."""
        limit = TABLE_HALF - self.radii[name] - 0.01
        for _ in range(300):
            xy = self._rng.uniform(-limit, limit, 2)
            if near is not None:
                angle, step = self._rng.uniform(0, 2 * np.pi), self._rng.uniform(0.06, 0.16)
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

    def image(self, pose: Pose) -> np.ndarray:
        """The normal scene from ``pose``, with sensor noise; uint8 RGB (H, W, 3)."""
        self._stage.edit(())
        return self._noisy(self._stage.image(pose))

    def anomalous(self, pose: Pose, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """A random anomaly of ``kind`` that is visible from ``pose``: image uint8 (H, W, 3), mask uint8 (H, W) of 0 and 255.

        Raises ValueError where none of 30 tries could be seen.
        """
        for _ in range(30):
            edit = self._edit(kind)
            if edit is None:
                continue
            image, labels = self._stage.compare(pose, [[edit]])
            if np.count_nonzero(labels) >= 0.0006 * labels.size:
                return self._noisy(image), np.where(labels, 255, 0).astype(np.uint8)
        raise ValueError(f"no anomaly of kind '{kind}' can be seen from this pose")

    def _edit(self, kind: str) -> Edit | None:
        rng = self._rng
        name = str(rng.choice(self.spare if kind == "added" else self.present))
        if kind == "missing":
            return Edit(name, visible=False)
        if kind in ("added", "moved"):
            place = self._free_place(name, self.places, near=self.places.get(name))
            return None if place is None else Edit(name, visible=True, position=tuple(place), quaternion=self._turn())
        if kind == "recoloured":
            return Edit(name, material=(name, f"{name} recoloured"))
        name = "table" if rng.random() < 0.3 else name
        return Edit(name, material=(name, f"{name} stained"))

    def _noisy(self, image: np.ndarray) -> np.ndarray:
        noise = self._rng.normal(0, self.options.noise, image.shape)
        return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)


def write_tabletop(
    out: Path | str,
    seed: int,
    options: TabletopOptions = TabletopOptions(),
    kinds: Sequence[str] = KINDS,
    progress: Progress = quiet,
) -> Path:
    """Write a scene as a dataset in the MAD layout and return its path.

    ``train/good/000.png``…, ``test/<kind>/000.png``…, ``ground_truth/<kind>/000_mask.png`` (255 anomalous; none for
    'good'), ``transforms.json`` (nerfstudio's format, survey only) and ``test_poses.json`` (true poses of the test images,
    same format). Raises OmniadError where ``out`` holds something already.
    """
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise OmniadError(f"{out} is not empty; choose an empty output folder")
    scene = Tabletop(seed, options)
    total, done = options.views + options.per_kind * len(kinds), 0
    (out / "train" / "good").mkdir(parents=True)
    golden = np.pi * (3 - np.sqrt(5))
    names, poses = [], []
    for index in range(options.views):
        poses.append(scene.pose(index * golden))
        names.append(f"train/good/{index:03d}.png")
        write_image(out / names[-1], scene.image(poses[-1]))
        done += 1
        progress(done / total, "photographing the table")
    test_names, test_poses = [], []
    for kind in kinds:
        (out / "test" / kind).mkdir(parents=True)
        if kind != "good":
            (out / "ground_truth" / kind).mkdir(parents=True)
        for index in range(options.per_kind):
            pose = scene.pose()
            if kind == "good":
                image = scene.image(pose)
            else:
                image, mask = scene.anomalous(pose, kind)
                write_image(out / "ground_truth" / kind / f"{index:03d}_mask.png", mask)
            test_names.append(f"test/{kind}/{index:03d}.png")
            test_poses.append(pose)
            write_image(out / test_names[-1], image)
            done += 1
            progress(done / total, "photographing the table")
    write_transforms(out / "transforms.json", PosedImages(scene.camera, out, tuple(names), tuple(poses)))
    write_json(out / "test_poses.json", {
        "frames": [{"file_path": n, "transform_matrix": p.opengl().tolist()} for n, p in zip(test_names, test_poses, strict=True)]
    })  # fmt: skip
    scene.close()
    return out
