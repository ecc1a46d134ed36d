"""What many frames say together: evidence for anomalies, kept in a volume around the robot.

Views of one place agree about real changes and disagree about shadows, reflections and floaters of the field
(compare arXiv 2412.03911, which fuses such views in a splat afterwards; here it happens live). Each frame says of every
voxel up to the surface that the reference view shows how anomalous the pixel is in which the voxel lies; a real change,
be it before that surface (added) or on it (missing, changed), has voxels that all views mark. Where even the best such voxel
along a pixel's ray is one that the other views found normal, the next frame's heatmap is lowered; a region above the threshold is
judged as a whole, for voxels are coarser than the rims of things. It is not raised: what single frames miss they mostly all
miss (measured, docs/detection.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.site import PosedImages, SparsePoints

CELLS = 128
"""Voxels a side. Memory and time are the same for a table-top and a factory: what lies farther away is overwritten."""
STRIDE = 2
"""Evidence is read at every so many pixels and interpolated."""
UNSEEN = np.int64(-(2**62))

compiled = njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@dataclass(frozen=True)
class EvidenceOptions:
    """How views are put together; evidence is in log-odds relative to the threshold's.

    clamp: the most that one view may say; strength: what the mean of the views counts in the heatmap of the next; memory: views
    after which older ones fade; margin: voxels behind the reference's surface that still belong to it; moved: a view counts
    once the camera has moved by this share of the viewing distance, or turned by ``turned`` degrees, since the last that counted.
    """

    clamp: float = 4.0
    strength: float = 0.5
    memory: float = 8.0
    margin: float = 1.5
    moved: float = 0.03
    turned: float = 3.0


class EvidenceVolume:
    """Mean log-odds and number of views, a voxel of the map; a window of `CELLS` voxels a side that follows the camera."""

    def __init__(self, reach: float, options: EvidenceOptions | None = None):
        """reach: metres from the camera up to which evidence is kept."""
        self.options = options or EvidenceOptions()
        self.reach = float(reach)
        self.voxel = 2 * self.reach / CELLS
        self.clear()

    @staticmethod
    def of_site(mapped: PosedImages, points: SparsePoints) -> EvidenceVolume:
        """Sized to the distances from which the survey saw the place."""
        centers = np.stack([pose.translation for pose in mapped.poses])
        distances = np.linalg.norm(points.xyz[points.point] - centers[points.image], axis=1)
        return EvidenceVolume(1.2 * float(np.percentile(distances, 90)))

    def clear(self) -> None:
        """Forget all views."""
        self._mean = np.zeros(CELLS**3, np.float32)
        self._views = np.zeros(CELLS**3, np.float32)
        self._voxel = np.full(CELLS**3, UNSEEN, np.int64)
        """Which voxel a cell holds: the window slides, so cells are reused."""
        self._last: Pose | None = None

    def fuse(self, heatmap: np.ndarray, threshold: float, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        """The heatmap with what earlier views say, float32 (H, W); then remember this view.

        heatmap: float32 (H, W) probabilities of this frame alone; depth: float32 (H, W) metres, the reference's, NaN where
        not covered; both of ``camera`` at ``pose``. The threshold keeps its meaning.
        """
        options, zero = self.options, _logit(threshold)
        odds = np.clip(_logit(heatmap) - zero, -30, 30).astype(np.float32)
        covered = np.isfinite(depth)
        surface = np.where(covered, depth, np.float32(0))
        change = np.minimum(_as_regions(self._read(surface, camera, pose), odds), 0)
        self._write(np.clip(odds, -options.clamp, options.clamp), surface, camera, pose)
        return np.where(covered, 1 / (1 + np.exp(-(odds + change + zero))), heatmap).astype(np.float32)

    def _read(self, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        import cv2

        options = self.options
        small = camera.resized(math.ceil(camera.width / STRIDE), math.ceil(camera.height / STRIDE))
        surface = cv2.resize(depth, (small.width, small.height), interpolation=cv2.INTER_NEAREST)
        means = best_along_rays(
            self._mean, self._voxel, self.voxel, surface, small.intrinsics, pose.rotation, pose.translation,
            self.reach, options.margin * self.voxel,
        )  # fmt: skip
        return cv2.resize(options.strength * means, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)

    def _write(self, odds: np.ndarray, depth: np.ndarray, camera: Camera, pose: Pose) -> None:
        options = self.options
        if self._last is not None:
            metres, degrees = self._last.distance(pose)
            if metres < options.moved * self.reach and degrees < options.turned:
                return
        self._last = pose
        local = np.array([[x, y, 1.0] for x in (0, camera.width) for y in (0, camera.height)])
        local[:, :2] = (local[:, :2] - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        corners = np.vstack([pose.apply(self.reach * local), pose.translation])
        middle = np.floor(pose.translation / self.voxel).astype(np.int64)
        low = np.maximum(np.floor(corners.min(0) / self.voxel).astype(np.int64), middle - CELLS // 2)
        high = np.minimum(np.ceil(corners.max(0) / self.voxel).astype(np.int64), middle + CELLS // 2)
        inverse = pose.inverse()
        add_view(
            self._mean, self._views, self._voxel, self.voxel, low, high, odds, depth, camera.intrinsics,
            inverse.rotation, inverse.translation, options.margin * self.voxel, options.memory,
        )  # fmt: skip


def _as_regions(change: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """``change`` (H, W), but the same throughout each region of positive ``odds``: its mean there, weighed by these."""
    import cv2

    count, label = cv2.connectedComponents((odds > 0).astype(np.uint8), connectivity=8)
    weight = np.clip(odds, 0, 2) + 1e-3
    total = np.bincount(label.ravel(), (weight * change).ravel(), count)
    mean = total / np.bincount(label.ravel(), weight.ravel(), count)
    return np.where(label > 0, mean[label], change)


@compiled
def _cell(x: int, y: int, z: int) -> tuple[int, int]:
    """Where voxel (x, y, z) is kept, and its name there."""
    cell = ((x % CELLS) * CELLS + y % CELLS) * CELLS + z % CELLS
    return cell, ((x // CELLS) * 2097152 + y // CELLS) * 2097152 + z // CELLS


@compiled
def add_view(mean, views, voxels, size, low, high, odds, depth, projection, rotation, translation, margin, memory):
    """Every voxel from ``low`` to ``high`` that lies in the frame and not behind its surface takes in its pixel's odds.

    depth: 0 where the survey saw nothing; projection: (fx, fy, cx, cy); rotation, translation: camera_from_map.
    """
    height, width = depth.shape
    fx, fy, cx, cy = projection
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            x, y = (i + 0.5) * size, (j + 0.5) * size
            a = rotation[0, 0] * x + rotation[0, 1] * y + translation[0]
            b = rotation[1, 0] * x + rotation[1, 1] * y + translation[1]
            c = rotation[2, 0] * x + rotation[2, 1] * y + translation[2]
            for k in range(low[2], high[2]):
                z = (k + 0.5) * size
                ahead = c + rotation[2, 2] * z
                if ahead < size:
                    continue
                u = fx * (a + rotation[0, 2] * z) / ahead + cx
                v = fy * (b + rotation[1, 2] * z) / ahead + cy
                if u < 0 or v < 0 or u >= width or v >= height:
                    continue
                surface = depth[int(v), int(u)]
                if surface == 0 or ahead > surface + margin:
                    continue
                cell, name = _cell(i, j, k)
                if voxels[cell] != name:
                    voxels[cell], mean[cell], views[cell] = name, 0.0, 0.0
                mean[cell] += (odds[int(v), int(u)] - mean[cell]) / (views[cell] + 1)
                views[cell] = min(views[cell] + 1, memory)


@compiled
def best_along_rays(mean, voxels, size, depth, projection, rotation, translation, reach, margin):
    """For each pixel the highest mean log-odds of a voxel up to its surface; 0 where none was seen.

    depth: 0 where the survey saw nothing; rotation, translation: map_from_camera.
    """
    height, width = depth.shape
    fx, fy, cx, cy = projection
    result = np.zeros((height, width), np.float32)
    for row in range(height):
        for column in range(width):
            surface = depth[row, column]
            if surface == 0:
                continue
            x, y = (column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy
            dx = rotation[0, 0] * x + rotation[0, 1] * y + rotation[0, 2]
            dy = rotation[1, 0] * x + rotation[1, 1] * y + rotation[1, 2]
            dz = rotation[2, 0] * x + rotation[2, 1] * y + rotation[2, 2]
            step = size / math.sqrt(dx * dx + dy * dy + dz * dz)
            best, depth_here, end = -1e9, step, min(surface + margin, reach)
            while depth_here < end:
                cell, name = _cell(
                    math.floor((translation[0] + depth_here * dx) / size),
                    math.floor((translation[1] + depth_here * dy) / size),
                    math.floor((translation[2] + depth_here * dz) / size),
                )
                if voxels[cell] == name and mean[cell] > best:
                    best = mean[cell]
                    result[row, column] = best
                depth_here += step
    return result


def _logit(probability: np.ndarray | float) -> np.ndarray:
    probability = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(probability / (1 - probability))
