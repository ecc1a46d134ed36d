"""Where a frame was taken: its features against the map's points, with a prior pose or from looks alone.

First a pose from matches to the survey images near the prior (or, without one, to those that look like the frame) by
perspective-n-point and RANSAC; then, around that pose, every map point that should be visible is searched for where it
should be, and the pose is refined on all that are found. A pose that few or crowded points support is not given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from safetensors.numpy import load_file
from scipy.spatial import cKDTree

from omniad_ros.feedback import OmniadError
from omniad_ros.geometry import Camera, Pose
from omniad_ros.mapping import colmap
from omniad_ros.mapping.building import FEATURES, LOOKS, MODEL
from omniad_ros.mapping.features import Features, FeatureSource, open_features, open_source, read_description, unit
from omniad_ros.mapping.pairs import pose_embedding
from omniad_ros.mapping.retrieval import nearest_images, vlad
from omniad_ros.site import SparsePoints


@dataclass(frozen=True)
class LocalizerOptions:
    """retrieved, neighbours: survey images a frame is matched with, by looks and around a pose.
    window: how far from its predicted place a point is searched with a prior, as a share of the frame's longest side.
    ratio: a match must be so much nearer (in descriptor space) than the next map point.
    min_inliers, min_share, min_cells: a pose needs so many inliers more than three times what chance would bring, being
    so large a share of the guided matches, in so many cells of an 8x6 grid over the frame.
    """

    retrieved: int = 10
    neighbours: int = 12
    coarse_keypoints: int = 700
    window: float = 0.3
    ratio: float = 0.85
    min_inliers: int = 12
    min_share: float = 0.5
    min_cells: int = 4


@dataclass(frozen=True)
class Localization:
    """pose: `map_from_camera`, None when lost; covariance: (6, 6) of x y z (m) and rotation about x y z (rad), all in
    the map's axes as in ROS, None when lost; inliers: map points that agree with the pose;
    verdict: "tracked" (near the prior), "relocalized" (found by looks) or "lost".
    """

    pose: Pose | None
    covariance: np.ndarray | None
    inliers: int
    verdict: str


@dataclass(frozen=True)
class _Solution:
    pose: Pose
    points: np.ndarray  # (N, 3) inliers in the map
    pixels: np.ndarray  # (N, 2) where the frame shows them


class Localizer:
    """Localizes frames in a map. Make one with `Localizer.load`. Deterministic: the same input gives the same pose."""

    def __init__(self, source: FeatureSource, points: SparsePoints, poses: list[Pose], looks: np.ndarray, vocabulary: np.ndarray,
                 descriptors: np.ndarray, options: LocalizerOptions):  # fmt: skip
        """descriptors: (K, D) of each observation in ``points``, whose observations are sorted by image."""
        self.source, self.points, self.poses, self.options = source, points, poses, options
        self.looks, self.vocabulary, self.descriptors = looks, vocabulary, descriptors
        self.xyz = points.xyz.astype(np.float64)
        self.first = np.searchsorted(points.image, np.arange(len(poses) + 1))
        depth = [np.median((self.xyz[points.point[a:b]] - p.translation) @ p.rotation[:, 2]) if b > a else np.nan
                 for a, b, p in zip(self.first, self.first[1:], poses)]  # fmt: skip
        self.scale = float(np.nanmedian(depth))
        self.tree = cKDTree(pose_embedding(poses, self.scale))

    @staticmethod
    def load(map_dir: Path, options: LocalizerOptions | None = None) -> Localizer:
        """Open the map that `build_map` wrote. Raises OmniadError where a part is missing or of another kind."""
        map_dir = Path(map_dir)
        try:
            model = pycolmap.Reconstruction(map_dir / MODEL)
            points = SparsePoints(**load_file(map_dir / "points.safetensors"))
        except Exception as error:  # pycolmap and safetensors raise their own kinds for what is missing or damaged
            raise OmniadError(f"the map in {map_dir} cannot be read ({error}); build the site again") from error
        ids = sorted(model.reg_image_ids())
        number = {point_id: n for n, point_id in enumerate(sorted(model.points3D))}
        image, point, pixel, descriptors, looks = [], [], [], [], []
        with open_features(map_dir / FEATURES) as features, open_features(map_dir / LOOKS) as global_features:
            source = open_source(read_description(features))
            vocabulary = global_features.attrs["vocabulary"].astype(np.float32)
            for index, image_id in enumerate(ids):
                entry = model.images[image_id]
                seen = np.array(entry.get_observation_point2D_idxs(), dtype=int)
                described = features[entry.name]["descriptors"][()].T
                descriptors.append(described[seen])
                image.append(np.full(len(seen), index, np.int32))
                point.append(np.array([number[p.point3D_id] for p in entry.get_observation_points2D()], np.int32))
                pixel.append(np.array([p.xy for p in entry.get_observation_points2D()], np.float32).reshape(-1, 2))
                looks.append(global_features[entry.name]["global_descriptor"][()])
        points = SparsePoints(points.xyz, points.rgb, np.concatenate(image), np.concatenate(point), np.concatenate(pixel))
        poses = [colmap.pose_of(model.images[i]) for i in ids]
        return Localizer(
            source, points, poses, np.stack(looks).astype(np.float32), vocabulary, np.concatenate(descriptors), options or LocalizerOptions()
        )

    def localize(self, image: np.ndarray, camera: Camera, prior: Pose | None = None) -> Localization:
        """Localize a frame.

        image: uint8 RGB (H, W, 3) without lens distortion; camera: its intrinsics, which may differ from the survey's;
        prior: where odometry says the camera is; may be off by some 0.3 m and 10 degrees.
        Raises ValueError where image and camera differ in size.
        """
        if image.shape[:2] != (camera.height, camera.width):
            raise ValueError(f"the image is {image.shape[1]}x{image.shape[0]}, its camera {camera.width}x{camera.height}")
        frame = self.source.extract(image)
        if len(frame) >= self.options.min_inliers:
            if prior is not None:
                found = self._solve(frame, camera, self._near(prior), prior)
                if found is not None:
                    return self._localization(found, camera, "tracked")
            looks = vlad(frame.descriptors, self.vocabulary)
            found = self._solve(frame, camera, nearest_images(looks, self.looks, self.options.retrieved), None)
            if found is not None:
                return self._localization(found, camera, "relocalized")
        return Localization(None, None, 0, "lost")

    def _near(self, pose: Pose) -> np.ndarray:
        """Indices of the survey images that see most of what a camera at ``pose`` sees."""
        count = min(self.options.neighbours, len(self.poses))
        _, index = self.tree.query(pose_embedding([pose], self.scale)[0], k=count)
        return np.atleast_1d(index)

    def _solve(self, frame: Features, camera: Camera, images: np.ndarray, prior: Pose | None) -> _Solution | None:
        tolerances = colmap.Tolerances.for_size(camera.width, camera.height)
        keypoint, point = self._match(frame, camera, images, prior)
        pose = _perspective(camera, frame.keypoints[keypoint], self.xyz[point], tolerances.match)
        if pose is None:
            return None
        # the first pose may rest on views from elsewhere: search again around it, and again with what that taught
        for radius in (3.0 * tolerances.match, 1.5 * tolerances.match):
            keypoint, point, offset = self._search(frame, camera, pose, radius)
            inlier = offset < tolerances.match if radius < 2 * tolerances.match else np.ones(len(offset), bool)
            if inlier.sum() < self.options.min_inliers:
                return None
            pose = _refine(camera, pose, frame.keypoints[keypoint], self.xyz[point], inlier)
        pixels, points = frame.keypoints[keypoint].astype(np.float64), self.xyz[point]
        error = np.linalg.norm(camera.project(pose.inverse().apply(points)) - pixels, axis=1)
        inlier = error < tolerances.match
        solution = _Solution(pose, points[inlier], pixels[inlier])
        chance = self._by_chance(frame, camera, pose, tolerances.match)
        return solution if self._trusted(solution, camera, len(keypoint), chance) else None

    def _by_chance(self, frame: Features, camera: Camera, pose: Pose, radius: float) -> float:
        """How many guided matches a wrong pose would have: those found when every point is sought some way off its place."""
        away = 10.0 * radius
        return float(np.mean([len(self._search(frame, camera, pose, radius, shift)[0]) for shift in ((away, 0.0), (0.0, -away))]))

    def _appearance(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The points (M,) that the given images observed, and their mean descriptors there (M, D)."""
        rows = np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in images])
        if len(rows) == 0:
            return np.empty(0, int), np.empty((0, self.descriptors.shape[1]), np.float32)
        rows = rows[np.argsort(self.points.point[rows], kind="stable")]
        point, start = np.unique(self.points.point[rows], return_index=True)
        return point, unit(np.add.reduceat(unit(self.descriptors[rows].astype(np.float32)), start, axis=0))

    def _match(self, frame: Features, camera: Camera, images: np.ndarray, prior: Pose | None) -> tuple[np.ndarray, np.ndarray]:
        """Distinctive mutual matches (keypoint, point) between the frame and the points that the images observed."""
        point, described = self._appearance(images)
        window = self.options.window * max(camera.width, camera.height)
        if prior is not None:
            predicted = camera.project(prior.inverse().apply(self.xyz[point])).astype(np.float32)
            with np.errstate(invalid="ignore"):
                inside = ((predicted > -window) & (predicted < [camera.width + window, camera.height + window])).all(axis=1)
            point, described, predicted = point[inside], described[inside], predicted[inside]
        if len(point) < 2:
            return np.empty(0, int), np.empty(0, int)
        chosen = np.arange(len(frame))[:: max(1, len(frame) // self.options.coarse_keypoints)]
        similarity = frame.descriptors[chosen] @ described.T
        if prior is not None:
            outside = np.abs(frame.keypoints[chosen, None, 0] - predicted[None, :, 0]) > window
            outside |= np.abs(frame.keypoints[chosen, None, 1] - predicted[None, :, 1]) > window
            similarity[outside] = -1.0
        rows = np.arange(len(chosen))
        best, rival = similarity.argmax(axis=1), similarity.argmax(axis=0)
        cosine = similarity[rows, best]
        similarity[rows, best] = -1.0
        second = similarity.argmax(axis=1)
        distance, next_distance = (np.sqrt(np.maximum(2.0 - 2.0 * c, 0.0)) for c in (cosine, similarity[rows, second]))
        # two tracks of one physical point must not cancel each other
        twins = np.linalg.norm(self.xyz[point[best]] - self.xyz[point[second]], axis=1) < 0.01 * self.scale
        kept = (rival[best] == rows) & ((distance < self.options.ratio * next_distance) | twins) & (cosine > 0.7)
        return chosen[kept], point[best[kept]]

    def _search(self, frame: Features, camera: Camera, pose: Pose, radius: float, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Guided matches (keypoint, point, offset px): the best keypoint within ``radius`` of where each point should be.

        shift: seek every point so many pixels off that place.
        """
        point, described = self._appearance(self._near(pose))
        predicted = camera.project(pose.inverse().apply(self.xyz[point])) + shift
        with np.errstate(invalid="ignore"):
            visible = ((predicted > 0) & (predicted < [camera.width, camera.height])).all(axis=1)
        point, described, predicted = point[visible], described[visible], predicted[visible]
        gap, near = cKDTree(frame.keypoints).query(predicted, k=min(8, len(frame)), distance_upper_bound=radius)
        column, rank = np.nonzero(np.isfinite(gap))
        row, offset = near[column, rank], gap[column, rank]
        similarity = np.einsum("nd,nd->n", frame.descriptors[row], described[column])
        order = np.argsort(-similarity, kind="stable")
        order = order[similarity[order] > self.source.similarity]
        # best first: a match stands when neither its keypoint nor its point has a better one
        kept = order[np.intersect1d(np.unique(row[order], return_index=True)[1], np.unique(column[order], return_index=True)[1])]
        return row[kept], point[column[kept]], offset[kept]

    def _trusted(self, solution: _Solution, camera: Camera, candidates: int, chance: float) -> bool:
        count = len(solution.points)
        if count < self.options.min_inliers + 3.0 * chance or count < self.options.min_share * candidates:
            return False
        cells = np.unique((solution.pixels / [camera.width, camera.height] * [8, 6]).astype(int), axis=0)
        return len(cells) >= self.options.min_cells

    def _localization(self, solution: _Solution, camera: Camera, verdict: str) -> Localization:
        return Localization(solution.pose, pose_covariance(camera, solution.pose, solution.points, solution.pixels), len(solution.points), verdict)


def _perspective(camera: Camera, pixels: np.ndarray, points: np.ndarray, max_error: float) -> Pose | None:
    """Pose from 2D-3D matches with outliers, by LO-RANSAC with P3P (pycolmap)."""
    if len(pixels) < 6:
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = colmap.SEED
    options.ransac.min_inlier_ratio = 0.05
    result = pycolmap.estimate_absolute_pose(pixels.astype(np.float64), points, colmap.colmap_camera(camera), options)
    return None if result is None else Pose.from_matrix(result["cam_from_world"].matrix()).inverse()


def _refine(camera: Camera, pose: Pose, pixels: np.ndarray, points: np.ndarray, inlier: np.ndarray) -> Pose:
    """Least squares of the reprojection error under a Cauchy loss."""
    options = pycolmap.AbsolutePoseRefinementOptions(loss_function_scale=0.5, gradient_tolerance=1e-4)
    result = pycolmap.refine_absolute_pose(
        colmap.cam_from_world(pose), pixels.astype(np.float64), points, inlier, colmap.colmap_camera(camera), options
    )
    return pose if result is None else Pose.from_matrix(result["cam_from_world"].matrix()).inverse()


def pose_covariance(camera: Camera, pose: Pose, points: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Covariance (6, 6) of x y z (m) and rotation about x y z (rad) in map axes, from the spread of the residuals.

    points: (N, 3) in the map; pixels: (N, 2) where the frame shows them.
    """
    arms = points - pose.translation
    x, y, z = (arms @ pose.rotation).T
    zero = np.zeros_like(z)
    projection = np.stack([camera.fx / z, zero, -camera.fx * x / z**2, zero, camera.fy / z, -camera.fy * y / z**2], axis=1).reshape(-1, 2, 3)
    ax, ay, az = arms.T
    cross = np.stack([zero, -az, ay, az, zero, -ax, -ay, ax, zero], axis=1).reshape(-1, 3, 3)
    jacobian = projection @ pose.rotation.T @ np.concatenate([np.tile(-np.eye(3), (len(z), 1, 1)), cross], axis=2)
    residual = pixels - camera.project(pose.inverse().apply(points))
    sigma = max(1.4826 * np.median(np.abs(residual)), 0.1)
    information = np.einsum("nij,nik->jk", jacobian, jacobian) / sigma**2
    return np.linalg.pinv(information)
