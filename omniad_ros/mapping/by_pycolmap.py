"""Keypoints and absolute poses by pycolmap; `omniad_ros.mapping.by_opencv` has the same functions."""

from __future__ import annotations

import numpy as np
import pycolmap

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping import colmap
from omniad_ros.mapping.reprojection import LOSS_SCALE


def sift(grey: np.ndarray, count: int, peak_threshold: float, enlarged: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (N, 2) in pixels and RootSIFT descriptors (N, 128) of any length, of a grey uint8 image (H, W).

    count: at most so many, largest scale first; peak_threshold: of the contrast, on grey values in [0, 1];
    enlarged: the first octave is of the image at twice its size.
    """
    options = pycolmap.FeatureExtractionOptions(num_threads=1, use_gpu=False)
    options.sift.max_num_features = count
    options.sift.peak_threshold = peak_threshold
    options.sift.first_octave = -1 if enlarged else 0
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    keypoints, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey))
    return pycolmap.keypoints_to_matrix(keypoints)[:, :2], descriptors.data.astype(np.float32)


def estimate_pose(
    camera: Camera, pixels: np.ndarray, points: np.ndarray, max_error: float
) -> tuple[Pose, np.ndarray] | None:
    """Pose and inlier mask (N,) from matches with outliers, by LO-RANSAC with P3P; None where there is none.

    pixels: (N, 2); points: (N, 3) in the map; max_error: pixels.
    """
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = colmap.SEED
    options.ransac.min_inlier_ratio = 0.05
    result = pycolmap.estimate_absolute_pose(pixels.astype(np.float64), points, colmap.colmap_camera(camera), options)
    if result is None:
        return None
    return Pose.from_matrix(result["cam_from_world"].matrix()).inverse(), np.asarray(result["inlier_mask"], bool)


def refine_pose(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray) -> Pose:
    """Least squares of the reprojection error under a Cauchy loss (`omniad_ros.mapping.reprojection.cost`)."""
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
