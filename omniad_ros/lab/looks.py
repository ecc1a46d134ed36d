"""How a simulated scene is drawn: what its surfaces carry, its lamps and what is around it.

A detector that learns and is measured on one renderer's look may have learnt the look. `PATTERNED` is what the shipped
networks have learnt on; `drawn_look` gives half of the seeds another.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.detection.pictures import picture
from omniad_ros.lab import textures
from omniad_ros.lab.stage import add_texture, wxyz

FLOOR, WALL = 2.6, 1.8
"""Half sizes of the room in metres."""


@dataclass(frozen=True)
class Look:
    """photographs: share of surfaces that carry crops of photographs, the others patterns made in code; contrast: of floor and
    walls, in [0, 1]; shadows: whether lamps cast them; sky: no walls; sun: parallel light in place of lamps overhead; ambient,
    headlight: strength of the light from everywhere and from the camera; mirror: how much the floor reflects; turned: share of
    things that are turned on a lathe (bottles, cups), the others boxes, cylinders and ellipsoids."""

    photographs: float = 0.0
    contrast: float = 0.45
    shadows: bool = True
    sky: bool = False
    sun: bool = False
    ambient: float = 0.42
    headlight: float = 0.2
    mirror: float = 0.0
    turned: float = 0.0

    def cube(self, rng: np.random.Generator, pattern: str, size: int = 160) -> np.ndarray:
        """What a thing carries: (6, size, size, 3) uint8, see `textures.cube_texture`."""
        if self._photograph(rng):
            return np.stack([picture(rng, size, size, photograph=1.0) for _ in range(6)])
        return textures.cube_texture(rng, pattern, size)

    def surface(self, rng: np.random.Generator, pattern: str, size: int, extent: float = 3.0) -> np.ndarray:
        """What a flat surface carries: (size, size, 3) uint8, see `textures.surface`."""
        if self._photograph(rng):
            return picture(rng, size, size, photograph=1.0)
        return textures.surface(rng, pattern, size, size, extent)

    def _photograph(self, rng: np.random.Generator) -> bool:
        return self.photographs > 0 and rng.random() < self.photographs


PATTERNED = Look()


def drawn_look(seed: int) -> Look:
    """`PATTERNED` for two seeds, another look for the next two, and so on: even and odd seeds have both."""
    if seed // 2 % 2 == 0:
        return PATTERNED
    rng = np.random.default_rng([seed, 1])
    return Look(
        photographs=rng.uniform(0.6, 1.0), contrast=rng.uniform(0.5, 0.9), shadows=bool(rng.random() < 0.5),
        sky=bool(rng.random() < 0.5), sun=bool(rng.random() < 0.5), ambient=rng.uniform(0.25, 0.5), headlight=rng.uniform(0.1, 0.4),
        mirror=rng.uniform(0.0, 0.25), turned=rng.uniform(0.3, 0.6),
    )  # fmt: skip


def add_room(spec: mujoco.MjSpec, rng: np.random.Generator, look: Look) -> None:
    """Floor and walls, or floor and sky."""
    for name, repeat in (("floor", 3), ("wall0", 2), ("wall1", 2), ("wall2", 2), ("wall3", 2)):
        pattern = str(rng.choice(["noise", "marble", "speckle", "stripes", "checker"]))
        image = textures.muted(look.surface(rng, pattern, 512), look.contrast)
        add_texture(spec, name, image, repeat=(repeat, repeat), gloss=0.0)
    spec.material("floor").reflectance = look.mirror
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(type=plane, size=[FLOOR, FLOOR, 0.1], pos=[0, 0, -0.74], material="floor")
    if look.sky:
        low, high = rng.uniform(0.4, 0.9, 3), rng.uniform(0.2, 0.7, 3)
        spec.add_texture(
            name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT, rgb1=high, rgb2=low,
            width=256, height=6 * 256,
        )  # fmt: skip
        return
    for index in range(4):
        inwards = Rotation.from_euler("xz", [np.pi / 2, index * np.pi / 2])  # the plane's z axis
        x, y, _ = -FLOOR * inwards.as_matrix()[:, 2]
        spec.worldbody.add_geom(
            type=plane, size=[FLOOR, WALL, 0.1], pos=[x, y, 1.0], material=f"wall{index}", quat=wxyz(inwards)
        )


def add_lamps(spec: mujoco.MjSpec, rng: np.random.Generator, look: Look, gloss: float) -> None:
    """One strong lamp and perhaps a weak one, from above and aimed at the middle. gloss: strength of highlights in [0, 1]."""
    spec.visual.headlight.ambient = [look.ambient] * 3
    spec.visual.headlight.diffuse = [look.headlight] * 3
    spec.visual.headlight.specular = [0.0] * 3
    kind = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL if look.sun else mujoco.mjtLightType.mjLIGHT_SPOT
    for index in range(int(rng.integers(1, 3))):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.4)
        position = np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(1.6, 2.2)])
        strength = rng.uniform(0.7, 0.95) if index == 0 else rng.uniform(0.25, 0.4)
        tint = 1 + rng.uniform(-0.06, 0.06, 3)
        spec.worldbody.add_light(
            type=kind, pos=position, dir=-position, cutoff=75, exponent=1, diffuse=strength * tint, specular=[0.5 * gloss] * 3,
            castshadow=look.shadows,
        )  # fmt: skip
