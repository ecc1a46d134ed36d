"""Reprojection errors of one camera: what a pose costs, and how the pixels move with it."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import Camera, Pose

LOSS_SCALE = 0.5
"""Pixels beyond which a reprojection error is less and less believed."""


def cost(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> float:
    """What refining a pose minimises: the sum of log(1 + (error / LOSS_SCALE)^2), infinite with points behind the camera."""
    error = np.linalg.norm(camera.project(pose.inverse().apply(points)) - pixels, axis=1)
    return float(np.nan_to_num(np.log1p((error / LOSS_SCALE) ** 2).sum(), nan=np.inf))


def jacobian(camera: Camera, pose: Pose, points: np.ndarray) -> np.ndarray:
    """(N, 2, 6): pixels of points (N, 3) by the pose's x y z (m) and rotation about x y z (rad) in map axes."""
    arms = points - pose.translation
    x, y, z = (arms @ pose.rotation).T
    zero = np.zeros_like(z)
    projection = np.stack(
        [camera.fx / z, zero, -camera.fx * x / z**2, zero, camera.fy / z, -camera.fy * y / z**2], axis=1
    )
    ax, ay, az = arms.T
    cross = np.stack([zero, -az, ay, az, zero, -ax, -ay, ax, zero], axis=1).reshape(-1, 3, 3)
    motion = np.concatenate([np.tile(-np.eye(3), (len(z), 1, 1)), cross], axis=2)
    return projection.reshape(-1, 2, 3) @ pose.rotation.T @ motion


def moved(pose: Pose, step: np.ndarray) -> Pose:
    """The pose after a step (6,) of what `jacobian` is by."""
    return Pose(Rotation.from_rotvec(step[3:]).as_matrix() @ pose.rotation, pose.translation + step[:3])
