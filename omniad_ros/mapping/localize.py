"""Where a frame was taken: its features against the map's points, with a prior pose or from looks alone.

First a pose from matches to the survey images near the prior (or, without one, to those that look like the frame) by
perspective-n-point and RANSAC; then, around that pose, every map point that should be visible is searched for where it
should be, and the pose is refined on all that are found. A pose that few, crowded or chance matches support is not
given out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping import absolute_pose
from omniad_ros.mapping.features import Features, FeatureSource, Tolerances
from omniad_ros.mapping.stored_map import StoredMap
from omniad_ros.site import SparsePoints

GRID = np.array([8, 6])


@dataclass(frozen=True)
class LocalizerOptions:
    """retrieved, neighbours: survey images a frame is matched with, by looks and around a pose.
    pairwise: how many of them, for features with a matcher of their own.
    coarse_keypoints: the first pose comes from about so many keypoints (at least); all take part in refining it.
    window: how far from its predicted place a point is searched with a prior, as a share of the frame's longest side.
    ratio: a match must be so much nearer (in descriptor space) than the next map point.
    min_inliers, min_share, min_cells: a pose needs so many inliers more than three times what chance would bring, being
    so large a share of the guided matches, in so many cells of an 8x6 grid over the frame.
    firm: a pose with fewer inliers is asked for again, from all that is found in a wide search around it.
    min_lead: by so much (log-likelihood) the pose must be likelier than another one that the same points allow.
    wide: tolerances within which a point is looked for that is not found in its place (`Support.keypoints`).
    """

    retrieved: int = 10
    neighbours: int = 12
    pairwise: int = 5
    coarse_keypoints: int = 700
    window: float = 0.3
    ratio: float = 0.85
    min_inliers: int = 15
    min_share: float = 0.5
    min_cells: int = 4
    firm: int = 80
    min_lead: float = 10.0
    wide: float = 4.0


@dataclass(frozen=True)
class Support:
    """Which of the map's points that the survey saw from about a pose are found in a frame.

    points: (M, 3) in the map; pixels: (M, 2) where each should be; depth: (M,) metres along the optical axis; found: bool (M,), whether it
    is there, within the tolerance; keypoints: (M, 2) what looks most like it in a wider search around there, NaN where nothing does.
    """

    points: np.ndarray
    pixels: np.ndarray
    depth: np.ndarray
    found: np.ndarray
    keypoints: np.ndarray


@dataclass(frozen=True)
class Localization:
    """pose: `map_from_camera`, None when lost; covariance: (6, 6) of x y z (m) and rotation about x y z (rad), all in
    the map's axes as in ROS, None when lost; inliers: map points that agree with the pose;
    verdict: "tracked" (near the prior), "relocalized" (found by looks) or "lost"; support: of the pose, None when lost.
    """

    pose: Pose | None
    covariance: np.ndarray | None
    inliers: int
    verdict: str
    support: Support | None = None


@dataclass(frozen=True)
class _Matches:
    """2D-3D matches: pixels (N, 2) in the frame, points (N,) indices into the map's points."""

    pixels: np.ndarray
    points: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, which) -> _Matches:
        return _Matches(self.pixels[which], self.points[which])


@dataclass(frozen=True)
class _Solution:
    """A pose and the matches that agree with it; cells: how many cells of the grid over the frame those lie in."""

    pose: Pose
    inliers: _Matches
    cells: int


class Localizer:
    """Localizes frames in a map. Deterministic: the same input gives the same pose."""

    def __init__(self, stored: StoredMap, options: LocalizerOptions):
        self._map, self.options = stored, options

    @staticmethod
    def load(map_dir: Path, options: LocalizerOptions | None = None) -> Localizer:
        """Open the map that `build_map` wrote. Raises OmniadError where a part is missing, damaged or not supported here."""
        return Localizer(StoredMap(Path(map_dir)), options or LocalizerOptions())

    @property
    def points(self) -> SparsePoints:
        return self._map.points

    @property
    def source(self) -> FeatureSource:
        """What features the map has."""
        return self._map.source

    def localize(self, image: np.ndarray, camera: Camera, prior: Pose | None = None) -> Localization:
        """Localize a frame.

        image: uint8 RGB (H, W, 3) without lens distortion; camera: its intrinsics, which may differ from the survey's;
        prior: where odometry says the camera is; may be off by some 0.3 m and 10 degrees.
        Raises ValueError where image and camera differ in size.
        """
        if image.shape[:2] != (camera.height, camera.width):
            raise ValueError(
                f"the image is {image.shape[1]}x{image.shape[0]}, its camera {camera.width}x{camera.height}"
            )
        frame, options = self._map.source.extract(image), self.options
        self._map.check_kind(frame)
        if len(frame) >= options.min_inliers:
            if prior is not None:
                near = self._map.near(prior, options.neighbours)
                found = self._solve(frame, camera, self._matches(frame, camera, near, prior, options.coarse_keypoints))
                if found is not None:
                    return self._localization(frame, found, camera, "tracked")
            # most frames are found with little effort, the others deserve more before they are given up
            for images, keypoints in (
                (options.retrieved, options.coarse_keypoints),
                (3 * options.retrieved, len(frame)),
            ):
                alike = self._map.alike(image, frame, images)
                found = self._solve(frame, camera, self._matches(frame, camera, alike, None, keypoints))
                if found is not None:
                    return self._localization(frame, found, camera, "relocalized")
        return Localization(None, None, 0, "lost")

    def observed(self, image: np.ndarray, camera: Camera, pose: Pose) -> tuple[Features, np.ndarray, np.ndarray]:
        """Which of the map's points a frame (as of `localize`) shows from a known pose: its features, and of each match the indices
        (M,) of the keypoint and of the point."""
        frame = self._map.source.extract(image)
        expected = self._map.appearance(self._map.near(pose, self.options.neighbours))
        tolerance = Tolerances.for_size(camera.width, camera.height).match
        return frame, *self._guided(frame, camera, pose, expected, tolerance)

    def _localization(self, frame: Features, found: _Solution, camera: Camera, verdict: str) -> Localization:
        covariance = absolute_pose.covariance(
            camera, found.pose, found.inliers.pixels, self._map.xyz[found.inliers.points]
        )
        return Localization(
            found.pose, covariance, len(found.inliers), verdict, self._support(frame, camera, found.pose)
        )

    def _support(self, frame: Features, camera: Camera, pose: Pose) -> Support:
        tolerance = Tolerances.for_size(camera.width, camera.height).match
        expected = self._map.appearance(self._map.near(pose, self.options.neighbours))
        points = self._map.xyz[expected[0]]
        local = pose.inverse().apply(points)
        pixels = camera.project(local)
        matches = self._search(frame, camera, pose, expected, self.options.wide * tolerance)
        keypoints = np.full(pixels.shape, np.nan)
        keypoints[np.searchsorted(expected[0], matches.points)] = matches.pixels
        inside = _inside(pixels, camera)
        found = np.linalg.norm(keypoints - pixels, axis=1) < tolerance
        return Support(*(values[inside] for values in (points, pixels, local[:, 2], found, keypoints)))

    def usual_support(self, camera: Camera, most: int = 24) -> float:
        """Share of the map's points expected in a view of the place that is found there: the median over survey images, each
        expected by its neighbours. camera: of the survey."""
        shares = []
        for image in np.linspace(0, len(self._map.poses) - 1, min(most, len(self._map.poses))).round().astype(int):
            pose = self._map.poses[image]
            near = self._map.near(pose, self.options.neighbours + 1)
            expected = self._map.appearance(near[near != image])[0]
            inside = _inside(camera.project(pose.inverse().apply(self._map.xyz[expected])), camera)
            if inside.any():
                own = self.points.point[self.points.image == image]
                shares.append(float(np.isin(expected[inside], own).mean()))
        return float(np.median(shares)) if shares else 0.0

    def _solve(self, frame: Features, camera: Camera, matches: _Matches) -> _Solution | None:
        """The trusted pose that matches with outliers speak for.

        One object that was moved may outvote a dull background, so the matches that contradict the first pose are heard
        as well, and the pose whose support is spread wider over the frame wins.
        """
        best, tolerance = None, Tolerances.for_size(camera.width, camera.height).match
        for _ in range(2):
            estimated = absolute_pose.estimates(camera, matches.pixels, self._map.xyz[matches.points], tolerance)
            if estimated is None:
                break
            poses, inlier = estimated
            solution = self._refined(frame, camera, poses, tolerance)
            if solution is not None and (best is None or solution.cells > best.cells):
                best = solution
            matches = matches[~inlier]
            if len(matches) < 0.25 * len(inlier):
                break
        return (
            best
            if best is None or len(best.inliers) >= self.options.firm
            else self._widened(frame, camera, best, tolerance)
        )

    def _widened(self, frame: Features, camera: Camera, found: _Solution, tolerance: float) -> _Solution:
        """A pose on few inliers may fit one near object and miss the rest by degrees: the pose that more of the scene bears out."""
        expected = self._map.appearance(self._map.near(found.pose, 2 * self.options.neighbours))
        matches = self._search(frame, camera, found.pose, expected, 8.0 * tolerance)
        estimated = absolute_pose.estimates(camera, matches.pixels, self._map.xyz[matches.points], tolerance)
        wider = None if estimated is None else self._refined(frame, camera, estimated[0], tolerance)
        return wider if wider is not None and len(wider.inliers) > len(found.inliers) else found

    def _refined(self, frame: Features, camera: Camera, poses: list[Pose], tolerance: float) -> _Solution | None:
        """The best of some first poses, refined on all points found around it; None where they do not bear it out."""
        # the first pose may rest on views from elsewhere: search around it, and again with what that taught
        expected = self._map.appearance(self._map.near(poses[0], self.options.neighbours))
        lead = 0.0
        for radius in (3.0 * tolerance, 1.5 * tolerance):
            found = self._search(frame, camera, poses[0], expected, radius)
            if len(found) < self.options.min_inliers:
                return None
            poses, lead = absolute_pose.settle(camera, poses, found.pixels, self._map.xyz[found.points])
        pose = poses[0]
        predicted = camera.project(pose.inverse().apply(self._map.xyz[found.points]))
        inliers = found[np.linalg.norm(predicted - found.pixels, axis=1) < tolerance]
        cells = len(np.unique((inliers.pixels / [camera.width, camera.height] * GRID).astype(int), axis=0))
        enough = len(inliers) >= self.options.min_share * len(found) and cells >= self.options.min_cells
        enough = enough and lead > self.options.min_lead
        # how many a wrong pose would have: those found when every point is sought some way off its place
        away = ((10.0 * tolerance, 0.0), (0.0, -10.0 * tolerance))
        chance = np.mean([len(self._search(frame, camera, pose, expected, tolerance, shift)) for shift in away])
        return (
            _Solution(pose, inliers, cells)
            if enough and len(inliers) >= self.options.min_inliers + 3.0 * chance
            else None
        )

    def _matches(
        self, frame: Features, camera: Camera, images: np.ndarray, prior: Pose | None, keypoints: int
    ) -> _Matches:
        """Distinctive matches between about so many ``keypoints`` of the frame and the points that the images observed."""
        if self._map.source.pairwise:
            return self._matches_by_pairs(frame, images[: self.options.pairwise])
        point, described = self._map.appearance(images)
        window = self.options.window * max(camera.width, camera.height)
        if prior is not None:
            predicted = camera.project(prior.inverse().apply(self._map.xyz[point])).astype(np.float32)
            with np.errstate(invalid="ignore"):
                inside = ((predicted > -window) & (predicted < [camera.width + window, camera.height + window])).all(
                    axis=1
                )
            point, described, predicted = point[inside], described[inside], predicted[inside]
        if len(point) < 2:
            return _Matches(np.empty((0, 2)), np.empty(0, int))
        chosen = np.arange(len(frame))[:: max(1, len(frame) // keypoints)]
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
        twins = (
            np.linalg.norm(self._map.xyz[point[best]] - self._map.xyz[point[second]], axis=1) < 0.01 * self._map.scale
        )
        kept = (rival[best] == rows) & ((distance < self.options.ratio * next_distance) | twins)
        return _Matches(frame.keypoints[chosen[kept]], point[best[kept]])

    def _matches_by_pairs(self, frame: Features, images: np.ndarray) -> _Matches:
        """What the features' own matcher finds between the frame and each image, where that saw a point."""
        pairs = []
        for image in images:
            features = self._map.features[image]
            mine, theirs = self._map.source.match(frame, features).T
            pairs.append(np.stack([mine, self._map.point_of_keypoint(image, len(features))[theirs]], axis=1))
        pairs = np.unique(np.concatenate(pairs), axis=0)
        pairs = pairs[pairs[:, 1] >= 0]
        return _Matches(frame.keypoints[pairs[:, 0]], pairs[:, 1])

    def _search(
        self,
        frame: Features,
        camera: Camera,
        pose: Pose,
        expected: tuple[np.ndarray, np.ndarray],
        radius: float,
        shift=(0.0, 0.0),
    ) -> _Matches:
        """Guided matches, see `_guided`."""
        row, point = self._guided(frame, camera, pose, expected, radius, shift)
        return _Matches(frame.keypoints[row], point)

    def _guided(
        self,
        frame: Features,
        camera: Camera,
        pose: Pose,
        expected: tuple[np.ndarray, np.ndarray],
        radius: float,
        shift=(0.0, 0.0),
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most similar keypoint within ``radius`` pixels of where each expected point should be: indices (K,) of keypoints and of
        points, none twice.

        expected: points (M,) and their descriptors (M, D); shift: seek every point so many pixels off its place.
        """
        point, described = expected
        predicted = camera.project(pose.inverse().apply(self._map.xyz[point])) + shift
        visible = _inside(predicted, camera)
        point, described, predicted = point[visible], described[visible], predicted[visible]
        gap, near = cKDTree(frame.keypoints).query(predicted, k=min(8, len(frame)), distance_upper_bound=radius)
        column, rank = np.nonzero(np.isfinite(gap))
        row = near[column, rank]
        similarity = np.einsum("nd,nd->n", frame.descriptors[row], described[column])
        order = np.argsort(-similarity, kind="stable")
        order = order[similarity[order] > self._map.similarity]
        # best first: a match stands when neither its keypoint nor its point has a better one
        kept = order[
            np.intersect1d(np.unique(row[order], return_index=True)[1], np.unique(column[order], return_index=True)[1])
        ]
        return row[kept], point[column[kept]]


def _inside(pixels: np.ndarray, camera: Camera) -> np.ndarray:
    """bool (N,): which pixels (N, 2) lie in the camera's image; NaN does not."""
    with np.errstate(invalid="ignore"):
        return ((pixels > 0) & (pixels < [camera.width, camera.height])).all(axis=1)
