"""A MuJoCo world that can be photographed from any pose, in its normal state and with changes planted in it.

A change is a set of `Edit`s of bodies: hide, show, move, turn, or give another material. The mask of a change is exact:
it comes from rendering colour and segmentation of both states at the same pose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import OPENGL_FROM_OPTICAL, Camera, Pose
from omniad_ros.lab.conditions import Lamps

HIDDEN_GROUP = 5
"""Geoms of this MuJoCo group are not drawn."""
VISIBLE_DIFFERENCE = 7
"""Grey levels from which a surface's colour counts as visibly changed (renderings carry no noise)."""


@dataclass(frozen=True)
class Edit:
    """A change of one body (and what hangs on it, for ``visible``): None leaves the property as it is.

    position: (3,) metres and quaternion: (4,) w x y z, as in the body's parent; material: (from, to) names, on the body's
    own geoms.
    """

    body: str
    visible: bool | None = None
    position: tuple[float, float, float] | None = None
    quaternion: tuple[float, float, float, float] | None = None
    material: tuple[str, str] | None = None


def add_texture(
    spec: mujoco.MjSpec, name: str, image: np.ndarray, *, repeat=(1.0, 1.0), gloss: float = 0.1, shine: float = 0.3
) -> None:
    """Add a texture and a material, both called ``name``: a cube for images (6, S, S, 3), else a flat one (H, W, 3).

    gloss, shine: MuJoCo's specular and shininess, in [0, 1].
    """
    cube = image.ndim == 4
    texture = spec.add_texture(
        name=name,
        type=mujoco.mjtTexture.mjTEXTURE_CUBE if cube else mujoco.mjtTexture.mjTEXTURE_2D,
        width=image.shape[-2],
        height=image.shape[-3] * (6 if cube else 1),
        nchannel=3,
    )
    texture.data = np.ascontiguousarray(image).tobytes()
    material = spec.add_material(name=name, specular=gloss, shininess=shine, texrepeat=repeat)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def wxyz(rotation: Rotation) -> tuple[float, float, float, float]:
    """A rotation as MuJoCo's quaternion."""
    x, y, z, w = rotation.as_quat()
    return float(w), float(x), float(y), float(z)


class Stage:
    """Renders a model from camera poses in its world frame. ``model`` needs a mocap body 'eye' with a camera 'eye'."""

    def __init__(self, model: mujoco.MjModel, camera: Camera, hidden: Iterable[str] = ()):
        self.model, self.camera = model, camera
        self.data = mujoco.MjData(model)
        model.camera("eye").fovy = np.degrees(2 * np.arctan(0.5 * camera.height / camera.fy))
        model.vis.global_.offwidth, model.vis.global_.offheight = camera.width, camera.height
        self._renderer = mujoco.Renderer(model, camera.height, camera.width)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 1
        self._option.geomgroup[HIDDEN_GROUP] = 0
        self._base = {
            name: getattr(model, name).copy() for name in ("geom_group", "geom_matid", "body_pos", "body_quat")
        }
        self._lamps = [model.light_pos.copy(), model.light_dir.copy(), model.light_diffuse.copy()]
        self._ambient = model.vis.headlight.ambient.copy()
        for name in hidden:
            self._base["geom_group"][self.geoms(name)] = HIDDEN_GROUP
        self.edit(())

    def close(self) -> None:
        """Free the graphics memory."""
        self._renderer.close()

    def bodies(self, name: str) -> np.ndarray:
        """Indices of a body and of all that hang on it."""
        inside = np.zeros(self.model.nbody, bool)
        inside[self.model.body(name).id] = True
        for body in range(1, self.model.nbody):  # parents come before their children
            inside[body] |= inside[self.model.body_parentid[body]]
        return np.flatnonzero(inside)

    def geoms(self, name: str) -> np.ndarray:
        """Indices of the geoms of a body and of all that hang on it."""
        return np.flatnonzero(np.isin(self.model.geom_bodyid, self.bodies(name)))

    def edit(self, edits: Iterable[Edit]) -> None:
        """Bring the world into its normal state with ``edits`` applied."""
        model = self.model
        for name, value in self._base.items():
            getattr(model, name)[:] = value
        for edit in edits:
            body = model.body(edit.body).id
            if edit.visible is not None:
                group = self._base["geom_group"][self.geoms(edit.body)]
                model.geom_group[self.geoms(edit.body)] = (
                    np.where(group == HIDDEN_GROUP, 0, group) if edit.visible else HIDDEN_GROUP
                )
            if edit.position is not None:
                model.body_pos[body] = edit.position
            if edit.quaternion is not None:
                model.body_quat[body] = edit.quaternion
            if edit.material is not None:
                old, new = (model.material(name).id for name in edit.material)
                own = (model.geom_bodyid == body) & (model.geom_matid == old)
                model.geom_matid[own] = new
        self.refresh()

    def light(self, lamps: Lamps | None) -> None:
        """Bring all lamps that do not move with the camera into another state; None is the normal one."""
        positions, directions, strengths = self._lamps
        lamps = lamps or Lamps(Rotation.identity(), np.ones(3), np.ones(3))
        self.model.light_pos[:] = lamps.turn.apply(positions)
        self.model.light_dir[:] = lamps.turn.apply(directions)
        self.model.light_diffuse[:] = strengths * lamps.strength
        self.model.vis.headlight.ambient[:] = self._ambient * lamps.ambient
        self.refresh()

    def refresh(self) -> None:
        """Recompute where everything is, after the model or the joints were changed."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def place(self, name: str, pose: Pose) -> None:
        """Put a mocap body at ``pose`` (world_from_body)."""
        mocap = self.model.body(name).mocapid[0]
        self.data.mocap_pos[mocap] = pose.translation
        self.data.mocap_quat[mocap] = wxyz(Rotation.from_matrix(pose.rotation))

    def _look(self, pose: Pose) -> None:
        self.place("eye", Pose(pose.rotation @ OPENGL_FROM_OPTICAL, pose.translation))
        self.refresh()
        self._renderer.update_scene(self.data, "eye", self._option)

    def image(self, pose: Pose) -> np.ndarray:
        """uint8 RGB (H, W, 3) seen from ``pose`` (world_from_camera, optical)."""
        self._look(pose)
        return self._renderer.render().copy()

    def body_ids(self, pose: Pose) -> np.ndarray:
        """int32 (H, W): the index of the body that each pixel shows; -1 for the sky."""
        self._renderer.enable_segmentation_rendering()
        try:
            self._look(pose)
            pairs = self._renderer.render()
        finally:
            self._renderer.disable_segmentation_rendering()
        geom = (pairs[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM)) & (pairs[..., 0] >= 0)
        return np.where(geom, self.model.geom_bodyid[np.where(geom, pairs[..., 0], 0)], -1).astype(np.int32)

    def compare(
        self,
        pose: Pose,
        groups: Sequence[Sequence[Edit]],
        before: Sequence[Edit] = (),
        now: Sequence[Edit] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The world with all edits from ``pose``: (image uint8 (H, W, 3), labels uint8 (H, W)).

        Labels are 1 + the index of the group of edits that visibly changed a pixel, 0 where none did. A pixel is changed
        where an edited body is seen in either state and the body or its colour is not the same; the mere shadows of a
        change are not part of it. The world is left with the edits applied.
        before, now: edits of the two states, where they are not none and those of all groups.
        """
        self.edit(before)
        normal, normal_ids = self.image(pose), self.body_ids(pose)
        self.edit([edit for group in groups for edit in group] if now is None else now)
        image, ids = self.image(pose), self.body_ids(pose)
        differs = (ids != normal_ids) | (np.abs(image.astype(int) - normal).max(-1) > VISIBLE_DIFFERENCE)
        labels = np.zeros(ids.shape, np.uint8)
        for seen in (normal_ids, ids):  # what is there now hides what was there before
            for index, group in enumerate(groups):
                edited = np.unique(np.concatenate([self.bodies(edit.body) for edit in group]))
                labels[differs & np.isin(seen, edited)] = index + 1
        return image, labels

    def bounds(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Corners (3,), (3,) of the axis-aligned box around a body's meshes and all that hang on it, in the present state."""
        model, points = self.model, []
        for geom in self.geoms(name):
            mesh = model.geom_dataid[geom]
            first, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            vertices = model.mesh_vert[first : first + count]
            points.append(vertices @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom])
        return np.concatenate(points).min(0), np.concatenate(points).max(0)
