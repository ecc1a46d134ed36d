"""A map as the localizer holds it in memory: what each survey image observed of which point, and how to look it up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from omniad_ros.core.arrays import is_sound
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose
from omniad_ros.mapping.features import (
    FEATURES,
    LOOKS,
    MODEL,
    Features,
    StoredFeatures,
    open_features,
    read_description,
    read_vocabulary,
    stored_array,
    unit,
)
from omniad_ros.mapping.model import MappedImage, read_model
from omniad_ros.mapping.pairs import pose_embedding
from omniad_ros.mapping.retrieval import nearest_images, vlad
from omniad_ros.mapping.sources import open_source
from omniad_ros.site import SparsePoints, read_points, read_transforms

MOST_POINTS, MOST_LOOKS = 3000, 4
"""A frame is compared with at most so many points, each as at most so many images saw it."""


class StoredMap:
    """The map that `build_map` wrote into a directory.

    points: `SparsePoints`, observations sorted by image; xyz: (P, 3) float64; poses and features: of each image;
    scale: a typical distance in metres between camera and points; similarity: a cosine that the descriptors of two
    different points hardly ever reach, whatever kind of features they are.
    Raises OmniadError where a part is missing, damaged, or needs software that is not installed.
    """

    def __init__(self, directory: Path):
        images = read_model(directory / MODEL)
        points = read_points(directory / "points.safetensors", len(images))
        self.features = StoredFeatures(directory / FEATURES, [entry.name for entry in images])
        self.poses = [entry.pose for entry in images]
        number = np.unique(np.concatenate([entry.point for entry in images]))
        self._check(directory, images, len(number) == len(points.xyz) > 0)
        image, point, pixel, keypoint, descriptors, looks = [], [], [], [], [], []
        with open_features(directory / FEATURES) as features, open_features(directory / LOOKS) as global_features:
            self.source = open_source(read_description(features))
            self._vocabulary = read_vocabulary(global_features)
            dimension, length = None, None
            if self._vocabulary is not None:
                dimension, length = self._vocabulary.shape[1], self._vocabulary.size
            for index, entry in enumerate(images):
                image.append(np.full(len(entry.point), index, np.int32))
                point.append(np.searchsorted(number, entry.point).astype(np.int32))
                pixel.append(entry.pixel)
                keypoint.append(entry.keypoint)
                described = stored_array(features, f"{entry.name}/descriptors", (dimension, None)).T
                if entry.keypoint.max(initial=-1) >= len(described):
                    raise OmniadError(f"{features.filename} lacks keypoints of {entry.name}; build the site again")
                dimension = described.shape[1]
                descriptors.append(described[entry.keypoint])
                looks.append(stored_array(global_features, f"{entry.name}/global_descriptor", (length,)))
                length = len(looks[-1])
        self.points = SparsePoints(points.xyz, points.rgb, *(np.concatenate(x) for x in (image, point, pixel)))
        self.xyz = points.xyz.astype(np.float64)
        self._keypoint, self._descriptors = np.concatenate(keypoint), np.concatenate(descriptors)
        self._looks = np.stack(looks).astype(np.float32)
        self._first = np.searchsorted(self.points.image, np.arange(len(images) + 1))
        depths = [
            (self.xyz[self.points.point[self._rows(i)]] - p.translation) @ p.rotation[:, 2]
            for i, p in enumerate(self.poses)
        ]
        self.scale = float(np.median(np.concatenate(depths)))
        if not self.scale > 0:
            raise OmniadError(
                f"the map in {directory} is damaged: its points lie behind its cameras; build the site again"
            )
        self.similarity = self._chance_similarity()
        self._tree = cKDTree(pose_embedding(self.poses, self.scale))

    @staticmethod
    def _check(directory: Path, images: list[MappedImage], all_points: bool) -> None:
        """Raise OmniadError where the map's files are not of one map: each is sound, but they name other images or points."""
        names = read_transforms(directory / "transforms.json").names
        same = len(names) == len(images) and all(n.endswith(entry.name) for n, entry in zip(names, images))
        if not (same and all_points and all(is_sound(entry.pixel) for entry in images)):
            raise OmniadError(
                f"the map in {directory} is damaged: {MODEL}, points.safetensors and transforms.json are not of one map; "
                "build the site again"
            )

    def near(self, pose: Pose, count: int) -> np.ndarray:
        """Indices of the ``count`` images that see most of what a camera at ``pose`` sees, best first."""
        return np.atleast_1d(self._tree.query(pose_embedding([pose], self.scale)[0], k=min(count, len(self.poses)))[1])

    def check_kind(self, frame: Features) -> None:
        """Raise OmniadError where the map's descriptors cannot be compared with a frame's."""
        if frame.descriptors.shape[1] != self._descriptors.shape[1]:
            raise OmniadError(
                "the map's descriptors are not of the kind of features that it names; build the site again"
            )

    def alike(self, image: np.ndarray, frame: Features, count: int) -> np.ndarray:
        """Indices of the ``count`` images that look most like a frame (uint8 RGB, and its features), best first."""
        look = vlad(frame.descriptors, self._vocabulary) if self._vocabulary is not None else self.source.look(image)
        if look is None or len(look) != self._looks.shape[1]:
            raise OmniadError("the map does not know what its images look like; build the site again")
        return nearest_images(look, self._looks, count)

    def appearance(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The points (M,) that the given images observed, and their mean descriptors there (M, D), unit length.

        images: best first. Where a large survey observed more, the points that most of the images observed, and of each
        its looks in the best of them: a frame costs the same in any map.
        """
        rows = np.concatenate([np.arange(self._first[i], self._first[i + 1]) for i in images])
        if len(rows) == 0:
            return np.empty(0, int), np.empty((0, self._descriptors.shape[1]), np.float32)
        rows = rows[np.argsort(self.points.point[rows], kind="stable")]
        point, start, count = np.unique(self.points.point[rows], return_index=True, return_counts=True)
        most = np.sort(np.argsort(-count, kind="stable")[:MOST_POINTS])
        point, start, count = point[most], start[most], np.minimum(count[most], MOST_LOOKS)
        first = np.cumsum(count) - count
        rows = rows[np.repeat(start - first, count) + np.arange(count.sum())]
        return point, unit(np.add.reduceat(unit(self._descriptors[rows].astype(np.float32)), first, axis=0))

    def point_of_keypoint(self, image: int, count: int) -> np.ndarray:
        """(count,) the point that each keypoint of an image observed, -1 where none."""
        points = np.full(count, -1)
        points[self._keypoint[self._rows(image)]] = self.points.point[self._rows(image)]
        return points

    def _chance_similarity(self, pairs: int = 50_000, share: float = 0.994) -> float:
        first, second = np.random.default_rng(0).integers(0, len(self._descriptors), (2, pairs))
        different = self.points.point[first] != self.points.point[second]
        first, second = (unit(self._descriptors[i[different]].astype(np.float32)) for i in (first, second))
        return float(np.quantile(np.einsum("nd,nd->n", first, second), share))

    def _rows(self, image: int) -> slice:
        return slice(self._first[image], self._first[image + 1])
