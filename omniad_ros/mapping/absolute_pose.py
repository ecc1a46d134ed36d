"""The pose of one camera from 2D-3D matches: robust estimate, refinement, covariance. By pycolmap where it has it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pycolmap

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping import colmap

MIN_MATCHES = 6
LOSS_SCALE = 0.5
"""Pixels beyond which a reprojection error is less and less believed."""
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
    """Pose and inlier mask (N,) from matches with outliers, by LO-RANSAC with P3P; None where there is none.

    pixels: (N, 2); points: (N, 3) in the map; max_error: pixels.
    """
    if len(pixels) < MIN_MATCHES:
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = colmap.SEED
    options.ransac.min_inlier_ratio = 0.05
    result = pycolmap.estimate_absolute_pose(pixels.astype(np.float64), points, colmap.colmap_camera(camera), options)
    if result is None:
        return None
    return Pose.from_matrix(result["cam_from_world"].matrix()).inverse(), np.asarray(result["inlier_mask"], bool)


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
        (refine(camera, pose, pixels, points) for pose in poses), key=lambda pose: cost(camera, pose, pixels, points)
    )
    left = refined[:1]
    for pose in refined[1:]:
        metres, degrees = pose.distance(left[0])
        distance = float(np.median(np.linalg.norm(points - pose.translation, axis=1)))
        if metres > SAME * distance or degrees > np.degrees(SAME):
            left.append(pose)
    lead = np.inf if len(left) == 1 else cost(camera, left[1], pixels, points) - cost(camera, left[0], pixels, points)
    return left, lead


def cost(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> float:
    """What `refine` minimises: the sum of log(1 + (error / LOSS_SCALE)^2), infinite with points behind the camera."""
    error = np.linalg.norm(camera.project(pose.inverse().apply(points)) - pixels, axis=1)
    return float(np.nan_to_num(np.log1p((error / LOSS_SCALE) ** 2).sum(), nan=np.inf))


def refine(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> Pose:
    """Least squares of the reprojection error under a Cauchy loss."""
    options = pycolmap.AbsolutePoseRefinementOptions(loss_function_scale=LOSS_SCALE, gradient_tolerance=1e-4)
    result = pycolmap.refine_absolute_pose(
        colmap.cam_from_world(pose),
        pixels.astype(np.float64),
        points,
        np.ones(len(points), bool),
        colmap.colmap_camera(camera),
        options,
    )
    return pose if result is None else Pose.from_matrix(result["cam_from_world"].matrix()).inverse()


def covariance(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Covariance (6, 6) of x y z (m) and rotation about x y z (rad) in map axes, from the spread of the residuals.

    It is relative to the map around the camera; how the map lies in the world is another matter.
    pixels: (N, 2) inliers; points: (N, 3) in the map.
    """
    # one spot with several orientations, or several tracks, is one measurement
    spot = np.unique(np.round(pixels), axis=0, return_inverse=True)[1].ravel()
    weight = 1.0 / np.bincount(spot)[spot]
    arms = points - pose.translation
    x, y, z = (arms @ pose.rotation).T
    zero = np.zeros_like(z)
    projection = np.stack(
        [camera.fx / z, zero, -camera.fx * x / z**2, zero, camera.fy / z, -camera.fy * y / z**2], axis=1
    )
    ax, ay, az = arms.T
    cross = np.stack([zero, -az, ay, az, zero, -ax, -ay, ax, zero], axis=1).reshape(-1, 3, 3)
    motion = np.concatenate([np.tile(-np.eye(3), (len(z), 1, 1)), cross], axis=2)
    jacobian = projection.reshape(-1, 2, 3) @ pose.rotation.T @ motion
    residual = pixels - camera.project(pose.inverse().apply(points))
    sigma = max(1.4826 * float(np.median(np.abs(residual))), 0.1)
    information = np.einsum("n,nij,nik->jk", weight, jacobian, jacobian) / (CORRELATION * sigma**2)
    noise = MAP_NOISE * np.repeat([float(np.median(z)), 1.0], 3)
    return np.linalg.pinv(information, hermitian=True) + np.diag(noise**2)
