"""Assembles a MuJoCo world out of textured meshes; the vocabulary in which the plant room's equipment is written."""

from __future__ import annotations

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.lab.shapes import Mesh, joined
from omniad_ros.lab.stage import add_texture, wxyz

UPRIGHT = Rotation.identity()
ALONG_X = Rotation.from_euler("y", 90, degrees=True)
"""Lays what stands along z (a lathe, a cylinder) along x."""
ALONG_Y = Rotation.from_euler("x", -90, degrees=True)


def turned(degrees: float) -> Rotation:
    """A turn about z."""
    return Rotation.from_euler("z", degrees, degrees=True)


class Builder:
    """A world under construction. Nothing in it collides: the robot's physics has a world of its own."""

    def __init__(self, spec: mujoco.MjSpec, rng: np.random.Generator):
        self.spec, self.rng = spec, rng
        self._tiles: dict[str, float] = {}
        self._parts: dict[tuple[str, str], list[Mesh]] = {}

    def material(self, name: str, image: np.ndarray, tile: float = 1.0, gloss: float = 0.1, shine: float = 0.3) -> str:
        """A material from a picture that repeats every ``tile`` metres; leave 1 for a `plate`'s single picture."""
        add_texture(self.spec, name, image, gloss=gloss, shine=shine)
        self._tiles[name] = tile
        return name

    def body(self, name: str, position=(0.0, 0.0, 0.0), rotation: Rotation = UPRIGHT, parent=None):
        """A named body; an `Edit` can hide, move or repaint what has one."""
        parent = self.spec.worldbody if parent is None else parent
        return parent.add_body(name=name, pos=np.asarray(position, float), quat=wxyz(rotation))

    def add(self, body, mesh: Mesh, material: str, position=(0.0, 0.0, 0.0), rotation: Rotation = UPRIGHT) -> None:
        """Add a mesh to a body (or to ``spec.worldbody``)."""
        placed = Mesh(
            rotation.apply(mesh.vertices) + position,
            rotation.apply(mesh.normals),
            mesh.uv / self._tiles[material],
            mesh.faces,
        )
        self._parts.setdefault((body.name, material), []).append(placed)

    def compile(self) -> mujoco.MjModel:
        """The finished model; a body's parts of one material become one mesh, since rendering time goes with their number."""
        for index, ((body, material), parts) in enumerate(self._parts.items()):
            mesh = joined(parts)
            self.spec.add_mesh(
                name=f"mesh{index}",
                uservert=mesh.vertices.ravel(),
                usernormal=mesh.normals.ravel(),
                usertexcoord=mesh.uv.ravel(),
                userface=mesh.faces.ravel(),
                inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
            )
            self.spec.body(body).add_geom(
                type=mujoco.mjtGeom.mjGEOM_MESH, meshname=f"mesh{index}", material=material, contype=0, conaffinity=0, mass=0,
            )  # fmt: skip
        return self.spec.compile()
