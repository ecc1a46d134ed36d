"""The intrinsics that a frame's own matches bear out, to be held against those that it came with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping.reprojection import LOSS_SCALE, jacobian, moved

ROUNDS, SMALL = 12, 0.02
"""Steps at most; pixels of the intrinsics under which a step is the last."""
MIN_MATCHES = 60


def fit_intrinsics(
    camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray
) -> tuple[Camera, np.ndarray] | None:
    """The camera, and the standard deviations (4,) of its fx, fy, cx, cy in pixels, for which matches fit best with a pose of their own;
    None where there are too few, or they do not tell.

    pose: near which it is; pixels: (N, 2); points: (N, 3) in the map. By Gauss-Newton with Cauchy's loss.
    """
    if len(pixels) < MIN_MATCHES:
        return None
    numbers = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
    for _ in range(ROUNDS):
        fitted = replace(camera, **dict(zip(("fx", "fy", "cx", "cy"), map(float, numbers))))
        local = pose.inverse().apply(points)
        ahead = local[:, 2] > 1e-6
        local, seen, there = local[ahead], pixels[ahead], points[ahead]
        error = seen - fitted.project(local)
        weight = 1 / (1 + (error**2).sum(axis=1) / LOSS_SCALE**2)
        x, y = local[:, 0] / local[:, 2], local[:, 1] / local[:, 2]
        zero, one = np.zeros_like(x), np.ones_like(x)
        by_numbers = np.stack([x, zero, one, zero, zero, y, zero, one], axis=1).reshape(-1, 2, 4)
        slope = np.concatenate([jacobian(fitted, pose, there), by_numbers], axis=2)
        information = np.einsum("n,nij,nik->jk", weight, slope, slope)
        try:
            step = np.linalg.solve(information, np.einsum("n,nij,ni->j", weight, slope, error))
        except np.linalg.LinAlgError:
            return None
        pose = moved(pose, step[:6])
        numbers = numbers + step[6:]
        if not (np.isfinite(numbers).all() and numbers[:2].min() > 0):
            return None
        if np.abs(step[6:]).max() < SMALL:
            break
    sigma = max(1.4826 * float(np.median(np.abs(error))), 0.1)
    covariance = np.linalg.pinv(information, hermitian=True)[6:, 6:] * sigma**2
    return fitted, np.sqrt(np.maximum(np.diag(covariance), 0))
