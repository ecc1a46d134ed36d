"""The pose of one camera from 2D-3D matches: robust estimate, refinement, covariance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping.backend import backend
from omniad_ros.mapping.reprojection import cost, jacobian

MIN_MATCHES = 6
STRICT = 0.3
"""Share of the inliers' tolerance within which most of them lie at the right pose."""
SAME = 0.01
"""Two poses are one where they differ by less, in distances to the scene and in radians."""
CORRELATION = 1.3
"""Residuals of neighbouring points share causes (lighting, triangulation from the same views): the variance that their
number alone promises is too small by about this factor, as measured with true poses (docs/localization.md)."""
MAP_NOISE = 7e-5
"""How well the map itself is known around a camera: metres a metre of distance to the scene, and radians."""


def estimate(
    camera: Camera, pixels: np.ndarray, points: np.ndarray, max_error: float
) -> tuple[Pose, np.ndarray] | None:
    """Pose and inlier mask (N,) from matches with outliers; None where there is none.

    pixels: (N, 2); points: (N, 3) in the map; max_error: pixels.
    """
    if len(pixels) < MIN_MATCHES:
        return None
    return backend.estimate_pose(camera, pixels, points, max_error)


def estimates(
    camera: Camera, pixels: np.ndarray, points: np.ndarray, max_error: float
) -> tuple[list[Pose], np.ndarray] | None:
    """Candidate poses and the inlier mask (N,) of matches with outliers; None where there is none.

    Points near one plane or far away look nearly the same from two places (Schweighofer and Pinz, 2006), and within
    ``max_error`` the wrong one may have as many inliers. So the inliers are asked again, with a smaller error.
    """
    first = estimate(camera, pixels, points, max_error)
    if first is None:
        return None
    pose, inlier = first
    strict = estimate(camera, pixels[inlier], points[inlier], STRICT * max_error)
    return [pose] if strict is None else [strict[0], pose], inlier


def settle(camera: Camera, poses: Sequence[Pose], pixels: np.ndarray, points: np.ndarray) -> tuple[list[Pose], float]:
    """Refine candidate poses; returns the different ones that are left, the likeliest first, and its log-likelihood's lead."""
    refined = sorted(
        (backend.refine_pose(camera, pose, pixels, points) for pose in poses),
        key=lambda pose: cost(camera, pose, pixels, points),
    )
    left = refined[:1]
    for pose in refined[1:]:
        metres, degrees = pose.distance(left[0])
        distance = float(np.median(np.linalg.norm(points - pose.translation, axis=1)))
        if metres > SAME * distance or degrees > np.degrees(SAME):
            left.append(pose)
    lead = np.inf if len(left) == 1 else cost(camera, left[1], pixels, points) - cost(camera, left[0], pixels, points)
    return left, lead


def covariance(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Covariance (6, 6) of x y z (m) and rotation about x y z (rad) in map axes, from the spread of the residuals.

    It is relative to the map around the camera; how the map lies in the world is another matter.
    pixels: (N, 2) inliers; points: (N, 3) in the map.
    """
    # one spot with several orientations, or several tracks, is one measurement
    spot = np.unique(np.round(pixels), axis=0, return_inverse=True)[1].ravel()
    weight = 1.0 / np.bincount(spot)[spot]
    slope = jacobian(camera, pose, points)
    residual = pixels - camera.project(pose.inverse().apply(points))
    sigma = max(1.4826 * float(np.median(np.abs(residual))), 0.1)
    information = np.einsum("n,nij,nik->jk", weight, slope, slope) / (CORRELATION * sigma**2)
    depth = ((points - pose.translation) @ pose.rotation)[:, 2]
    noise = MAP_NOISE * np.repeat([float(np.median(depth)), 1.0], 3)
    return np.linalg.pinv(information, hermitian=True) + np.diag(noise**2)
