"""What the rendering wing hands out, and the novel views (INV) that the detector trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.site import PosedImages


@dataclass(frozen=True)
class Rendering:
    """image: (H, W, 3) uint8 RGB, always full; depth: (H, W) float32, metres along the optical axis, NaN where not covered."""

    image: np.ndarray
    depth: np.ndarray


class Field(Protocol):
    """A trained radiance field."""

    def render(self, camera: Camera, pose: Pose) -> Rendering:
        """What the normal place looks like to ``camera`` (without distortion) at ``pose``.

        Covered is what at least three survey views saw, and where the field is opaque and sure of the depth.
        """
        ...


STILL_PIXELS = 0.2
"""A camera that moved the picture by less stands still."""


class StillField:
    """A field that gives its last rendering again while the camera stands still, as a robot does much of its time."""

    def __init__(self, field: Field):
        self.field = field
        self.last: tuple[Camera, Pose, Rendering] | None = None

    def render(self, camera: Camera, pose: Pose) -> Rendering:
        """See `Field.render`."""
        last = self.last
        if last is None or last[0] != camera or _moved_pixels(*last, pose) > STILL_PIXELS:
            last = self.last = camera, pose, self.field.render(camera, pose)
        return last[2]


def _moved_pixels(camera: Camera, before: Pose, rendering: Rendering, now: Pose) -> float:
    """By how many pixels, at most, the picture moves between two poses; infinite where no depth is known."""
    step = before.inverse() @ now
    angle, shift = np.linalg.norm(Rotation.from_matrix(step.rotation).as_rotvec()), np.linalg.norm(step.translation)
    depth = rendering.depth[np.isfinite(rendering.depth)]
    if shift > 0 and not len(depth):
        return np.inf
    return float(camera.fx * (angle + (shift / np.percentile(depth, 1) if shift > 0 else 0.0)))


def novel_poses(images: PosedImages, count: int, seed: int) -> list[Pose]:
    """Poses between and around the survey's (INV of OmniAD, arXiv 2406.18012).

    Each lies at a random place between a survey pose and one of its four nearest neighbours in position and view (linear,
    slerp), then moved by up to a third of their distance and turned by up to 5 degrees.
    Raises OmniadError where the survey has no poses.
    """
    poses = [pose for pose in images.poses if pose is not None]
    if not poses:
        raise OmniadError("the survey has no poses to interpolate between; map it first")
    random = np.random.default_rng(seed)
    positions, axes = np.array([p.translation for p in poses]), np.array([p.rotation[:, 2] for p in poses])
    extent = max(1e-6, float(np.linalg.norm(np.ptp(positions, axis=0))))
    novel = []
    for _ in range(count):
        i = int(random.integers(len(poses)))
        gap = np.linalg.norm(positions - positions[i], axis=1)
        # half the extent weighs as much as looking the other way
        order = np.argsort(gap / extent + 0.25 * (1 - axes @ axes[i]))[1:5]
        j = int(random.choice(order)) if len(order) else i
        pose = poses[i].interpolate(poses[j], float(random.random()))
        shift = random.normal(size=3)
        shift *= random.random() * gap[j] / (3 * np.linalg.norm(shift))
        turn = Rotation.from_rotvec(np.radians(random.uniform(-5, 5, 3) / np.sqrt(3))).as_matrix()
        novel.append(Pose(pose.rotation @ turn, pose.translation + shift))
    return novel
