"""Keypoints and absolute poses by OpenCV, where pycolmap is not installed; the same functions as `by_pycolmap` has.

The keypoints are of the same kind as those that pycolmap put into the map, so a site that was built elsewhere is
inspected with it. How near the poses come to pycolmap's is in docs/localization.md.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping.reprojection import LOSS_SCALE, cost, jacobian, moved

OCTAVE_LAYERS = 3
SHIFT = 0.25
"""OpenCV has pixel centres at integers, half a pixel from ours, and its enlarged first octave is off by a quarter of one."""
ITERATIONS, CONFIDENCE, SEED = 10_000, 0.9999, 1
STEPS, SMALL = 30, 1e-9
"""A pose is refined in at most so many steps, until they are this small (metres, radians)."""


def sift(grey: np.ndarray, count: int, peak_threshold: float, enlarged: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 2) in pixels and RootSIFT descriptors (N, 128) of any length, of a grey uint8 image (H, W).

    count: at most so many, largest scale first; peak_threshold: of the contrast, on grey values in [0, 1];
    enlarged: the first octave is of the image at twice its size.
    """
    detector = cv2.SIFT_create(0, OCTAVE_LAYERS, OCTAVE_LAYERS * peak_threshold)
    found = detector.detect(grey, None)
    if not enlarged:
        found = [keypoint for keypoint in found if keypoint.octave & 255 < 128]  # the octave is a signed byte
    found = sorted(found, key=lambda keypoint: -keypoint.size)[:count]
    found, descriptors = detector.compute(grey, found)
    if not found:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.float32)
    keypoints = np.array([keypoint.pt for keypoint in found], np.float32) + np.float32(SHIFT)
    return keypoints, np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))


def estimate_pose(
    camera: Camera, pixels: np.ndarray, points: np.ndarray, max_error: float
) -> tuple[Pose, np.ndarray] | None:
    """Pose and inlier mask (N,) from matches with outliers, by locally optimised RANSAC with P3P; None where there is none.

    pixels: (N, 2); points: (N, 3) in the map; max_error: pixels.
    """
    options = cv2.UsacParams()
    options.threshold, options.confidence, options.maxIterations = max_error, CONFIDENCE, ITERATIONS
    options.randomGeneratorState = SEED
    options.score, options.sampler = cv2.SCORE_METHOD_MSAC, cv2.SAMPLING_UNIFORM
    options.loMethod, options.loIterations, options.loSampleSize = cv2.LOCAL_OPTIM_INNER_AND_ITER_LO, 10, 30
    try:
        done, _, turn, shift, inliers = cv2.solvePnPRansac(
            np.ascontiguousarray(points, np.float64), np.ascontiguousarray(pixels, np.float64), camera.matrix(), None,
            params=options,
        )  # fmt: skip
    except cv2.error:  # how it says that the points are degenerate
        return None
    if not done or inliers is None or not (np.isfinite(turn).all() and np.isfinite(shift).all()):
        return None
    inlier = np.zeros(len(pixels), bool)
    inlier[inliers.ravel()] = True
    matrix = np.column_stack([Rotation.from_rotvec(turn.ravel()).as_matrix(), shift.ravel()])
    return Pose.from_matrix(matrix).inverse(), inlier


def refine_pose(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> Pose:
    """Least squares of the reprojection error under a Cauchy loss (`omniad_ros.mapping.reprojection.cost`), by Levenberg-Marquardt."""
    least, damping = cost(camera, pose, pixels, points), 1e-4
    if not np.isfinite(least):
        return pose
    for _ in range(STEPS):
        residual = camera.project(pose.inverse().apply(points)) - pixels
        weight = 1.0 / (1.0 + (residual**2).sum(axis=1) / LOSS_SCALE**2)
        slope = jacobian(camera, pose, points)
        hessian = np.einsum("n,nij,nik->jk", weight, slope, slope)
        step = -np.linalg.lstsq(
            hessian + damping * np.diag(np.diag(hessian)), np.einsum("n,nij,ni->j", weight, slope, residual), rcond=None
        )[0]
        tried = moved(pose, step)
        cheaper = cost(camera, tried, pixels, points)
        if cheaper < least:
            pose, least, damping = tried, cheaper, damping / 10
        else:
            damping *= 10
        if np.abs(step).max() < SMALL:
            break
    return pose
