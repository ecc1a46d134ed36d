"""What part of space a survey is about: core box, near plane, size of a pixel there, and what enough cameras see.

Everything is relative to the survey's own scale, so that table-tops, rooms and nerfstudio's rescaled scenes need no settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

OBSERVATIONS = "observations.safetensors"
"""In a dataset for training, beside transforms.json: triangulated points, and where the photographs see them."""


CLOSE_SHARE = 25
"""Percentile of the distances at which photographs see points that is the typical distance."""


@dataclass(frozen=True)
class Cameras:
    """N pinhole cameras as arrays: rotation (N, 3, 3) and position (N, 3), map_from_camera in the optical convention;
    intrinsics (N, 4) fx fy cx cy and size (N, 2) width height in pixels."""

    rotation: np.ndarray
    position: np.ndarray
    intrinsics: np.ndarray
    size: np.ndarray

    @property
    def forward(self) -> np.ndarray:
        return self.rotation[:, :, 2]


@dataclass(frozen=True)
class Space:
    """center, half: (3,) the core box; distance: typical from camera to surface; near: where rays begin;
    footprint: size of a pixel at ``distance``."""

    center: np.ndarray
    half: np.ndarray
    distance: float
    near: float
    footprint: float


def survey_space(cameras: Cameras, xyz: np.ndarray, image: np.ndarray, point: np.ndarray) -> Space:
    """The space of a survey, from its cameras and triangulated points (P, 3) with observations (image, point) (K,).

    Works from the cameras alone where there are fewer than 50 points.
    """
    low, high = cameras.position.min(0), cameras.position.max(0)
    gap = np.linalg.norm(xyz[point] - cameras.position[image], axis=1) if len(point) else np.zeros(0)
    if len(xyz) >= 50 and len(gap) >= 100:
        closest = np.full(len(xyz), np.inf)
        np.minimum.at(closest, point, gap)
        seen = np.isfinite(closest)
        # the core is what is seen from close by; what is only seen from afar needs no small voxels
        distance = float(np.percentile(gap, CLOSE_SHARE))
        near = 0.5 * float(np.percentile(gap, 0.5))
        core = xyz[seen & (closest < 1.6 * distance)]
        low, high = np.minimum(low, np.percentile(core, 1, axis=0)), np.maximum(high, np.percentile(core, 99, axis=0))
        margin = 0.05 * distance
    else:
        focus, distance = _focus(cameras)
        near = 0.1 * distance
        if focus is None:
            margin = distance
        else:
            low, high = np.minimum(low, focus - 0.5 * distance), np.maximum(high, focus + 0.5 * distance)
            margin = 0.1 * distance
    half = np.maximum(0.5 * (high - low) + margin, 0.1 * distance)
    # flat cores would squeeze what stands above them
    half = np.maximum(half, 0.5 * half.max())
    focal = float(np.median(cameras.intrinsics[:, 0]))
    return Space(0.5 * (low + high), half, distance, max(near, 0.02 * distance), distance / focal)


def _focus(cameras: Cameras) -> tuple[np.ndarray | None, float]:
    """(where the optical axes meet, or None where they do not, typical distance to the scene)."""
    spread = float(np.linalg.norm(np.ptp(cameras.position, axis=0)))
    across = np.eye(3) - cameras.forward[:, :, None] * cameras.forward[:, None, :]
    matrix = across.sum(0)
    if np.linalg.cond(matrix) < 1e6:
        focus = np.linalg.solve(matrix, np.einsum("nij,nj->i", across, cameras.position))
        along = np.einsum("ni,ni->n", focus - cameras.position, cameras.forward)
        miss = np.linalg.norm(np.einsum("nij,nj->ni", across, focus - cameras.position), axis=1)
        distance = float(np.median(along))
        if (along > 0).mean() > 0.9 and np.median(miss) < 0.5 * distance:
            return focus, distance
    return None, max(0.5 * spread, 1e-3)


def contracted(points: np.ndarray, half: np.ndarray, shell: float) -> np.ndarray:
    """As `kernels.contract`, for points (N, 3) relative to the centre."""
    n = np.abs(points / half).max(1, keepdims=True)
    return np.where(n <= 1, points, points * (1 + shell * (1 - 1 / np.maximum(n, 1))) / np.maximum(n, 1))


def expanded(points: np.ndarray, half: np.ndarray, shell: float) -> np.ndarray:
    """The inverse of `contracted`; what lies on the outer face comes out far away."""
    m = np.abs(points / half).max(1, keepdims=True)
    n = 1 / np.maximum(1 - (m - 1) / shell, 1e-3)
    return np.where(m <= 1, points, points * n / np.maximum(m, 1))


def view_count(points: np.ndarray, cameras: Cameras, near: float, border: float = 0.05) -> np.ndarray:
    """(N,) how many cameras have each point (N, 3) in their frustum beyond ``near``, occlusion aside."""
    count = np.zeros(len(points), np.int32)
    for rotation, position, (fx, fy, cx, cy), (width, height) in zip(
        cameras.rotation, cameras.position, cameras.intrinsics, cameras.size, strict=True
    ):
        local = (points - position) @ rotation
        z = np.maximum(local[:, 2], 1e-9)
        u, v = local[:, 0] / z * fx + cx, local[:, 1] / z * fy + cy
        inside = (np.abs(u - width / 2) < (0.5 + border) * width) & (np.abs(v - height / 2) < (0.5 + border) * height)
        count += inside & (local[:, 2] > near)
    return count
