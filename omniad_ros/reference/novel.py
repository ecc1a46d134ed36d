"""The novel views (INV) that the detector trains on: where they are taken."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.site import PosedImages


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
