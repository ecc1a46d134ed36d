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
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from safetensors.numpy import load_file, save_file

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

    Chosen on recorded patrols of the simulated plant rooms (docs/design-notes.md, "Evidence and tracks").
    clamp: the most that one view may say; strength: what the mean of the views counts in the heatmap of the next; memory: views
    after which older ones fade; margin: voxels behind the reference's surface that still belong to it; moved: a view counts
    once the camera has moved by this share of the viewing distance, or turned by ``turned`` degrees, since the last that counted.
    full: of a region judged as a whole, a pixel weighs by its own log-odds up to these. seen_from: evidence is kept up to this
    percentile of the distances from which the survey saw the place, times ``wider``.
    """

    clamp: float = 4.0
    strength: float = 0.5
    memory: float = 8.0
    margin: float = 1.5
    moved: float = 0.03
    turned: float = 3.0
    full: float = 2.0
    seen_from: float = 90.0
    wider: float = 1.2


class Voxels(NamedTuple):
    """What views said. mean: (CELLS^3,) float32 log-odds; views: (CELLS^3,) float32, how many; names: (CELLS^3,) int64, which
    voxel a cell holds, for the window slides and cells are reused; size: metres a voxel.
    """

    mean: np.ndarray
    views: np.ndarray
    names: np.ndarray
    size: float


class View(NamedTuple):
    """What a camera sees. depth: (H, W) float32 metres, 0 where the survey saw nothing; projection: (fx, fy, cx, cy) of its
    pixels; rotation (3, 3), translation (3,): camera_from_map where voxels are brought into the view, map_from_camera where
    rays are followed.
    """

    depth: np.ndarray
    projection: tuple[float, float, float, float]
    rotation: np.ndarray
    translation: np.ndarray


class Window(NamedTuple):
    """Voxels that a view may change: low, high: (3,) int64, from and to; margin: metres behind the surface; memory: views."""

    low: np.ndarray
    high: np.ndarray
    margin: float
    memory: float


class EvidenceVolume:
    """Mean log-odds and number of views, a voxel of the map; a window of `CELLS` voxels a side that follows the camera."""

    def __init__(self, reach: float, options: EvidenceOptions | None = None):
        """reach: metres from the camera up to which evidence is kept."""
        self.options = options or EvidenceOptions()
        self.reach = float(reach)
        self.clear()

    @staticmethod
    def of_site(mapped: PosedImages, points: SparsePoints, options: EvidenceOptions | None = None) -> EvidenceVolume:
        """Sized to the distances from which the survey saw the place."""
        centers = np.stack([pose.translation for pose in mapped.poses])
        distances = np.linalg.norm(points.xyz[points.point] - centers[points.image], axis=1)
        options = options or EvidenceOptions()
        return EvidenceVolume(options.wider * float(np.percentile(distances, options.seen_from)), options)

    def clear(self) -> None:
        """Forget all views."""
        zeros = np.zeros(CELLS**3, np.float32)
        self._voxels = Voxels(zeros, zeros.copy(), np.full(CELLS**3, UNSEEN, np.int64), 2 * self.reach / CELLS)
        self._last: Pose | None = None

    def save(self, path: Path) -> None:
        """Write what views have said as one safetensors file, of the voxels that were seen."""
        cells = np.flatnonzero(self._voxels.names != UNSEEN)
        arrays = {"cells": cells, **{name: getattr(self._voxels, name)[cells] for name in ("mean", "views", "names")}}
        last = np.zeros((0, 4)) if self._last is None else self._last.matrix()
        save_file({**arrays, "last": last}, path)

    def restore(self, path: Path) -> None:
        """Go on with what `save` wrote. Raises OSError, KeyError, ValueError or IndexError where it is something else."""
        saved = load_file(path)
        self.clear()
        for name in ("mean", "views", "names"):
            getattr(self._voxels, name)[saved["cells"]] = saved[name]
        self._last = Pose.from_matrix(saved["last"]) if len(saved["last"]) else None

    def fuse(self, heatmap: np.ndarray, threshold: float, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        """The heatmap with what earlier views say, float32 (H, W); then remember this view.

        heatmap: float32 (H, W) probabilities of this frame alone; depth: float32 (H, W) metres, the reference's, NaN where
        not covered; both of ``camera`` at ``pose``. The threshold keeps its meaning.
        """
        options, zero = self.options, _logit(threshold)
        odds = np.clip(_logit(heatmap) - zero, -30, 30).astype(np.float32)
        covered = np.isfinite(depth)
        surface = np.where(covered, depth, np.float32(0))
        change = np.minimum(_as_regions(self._read(surface, camera, pose), odds, options.full), 0)
        self._write(np.clip(odds, -options.clamp, options.clamp), surface, camera, pose)
        return np.where(covered, 1 / (1 + np.exp(-(odds + change + zero))), heatmap).astype(np.float32)

    def marked(self, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        """bool (H, W): before or on which pixels' surfaces earlier views agree that something is anomalous; the arguments as in `fuse`."""
        return self._read(np.nan_to_num(depth), camera, pose) > 0

    def _read(self, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        import cv2

        options = self.options
        small = camera.resized(math.ceil(camera.width / STRIDE), math.ceil(camera.height / STRIDE))
        surface = cv2.resize(depth, (small.width, small.height), interpolation=cv2.INTER_NEAREST)
        view = View(surface, small.intrinsics, pose.rotation, pose.translation)
        means = best_along_rays(self._voxels, view, self.reach, options.margin * self._voxels.size)
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
        size = self._voxels.size
        middle = np.floor(pose.translation / size).astype(np.int64)
        low = np.maximum(np.floor(corners.min(0) / size).astype(np.int64), middle - CELLS // 2)
        high = np.minimum(np.ceil(corners.max(0) / size).astype(np.int64), middle + CELLS // 2)
        inverse = pose.inverse()
        view = View(depth, camera.intrinsics, inverse.rotation, inverse.translation)
        add_view(self._voxels, view, odds, Window(low, high, options.margin * size, options.memory))


def _as_regions(change: np.ndarray, odds: np.ndarray, full: float) -> np.ndarray:
    """``change`` (H, W), but the same throughout each region of positive ``odds``: its mean there, weighed by these up to ``full``."""
    import cv2

    count, label = cv2.connectedComponents((odds > 0).astype(np.uint8), connectivity=8)
    weight = np.clip(odds, 0, full) + 1e-3
    total = np.bincount(label.ravel(), (weight * change).ravel(), count)
    mean = total / np.bincount(label.ravel(), weight.ravel(), count)
    return np.where(label > 0, mean[label], change)


@compiled
def _cell(x: int, y: int, z: int) -> tuple[int, int]:
    """Where voxel (x, y, z) is kept, and its name there."""
    cell = ((x % CELLS) * CELLS + y % CELLS) * CELLS + z % CELLS
    return cell, ((x // CELLS) * 2097152 + y // CELLS) * 2097152 + z // CELLS


@compiled
def add_view(voxels: Voxels, view: View, odds: np.ndarray, window: Window) -> None:
    """Every voxel of the window that lies in the frame and not behind its surface takes in its pixel's ``odds`` (H, W) float32.

    The view is camera_from_map.
    """
    mean, views, names, size = voxels
    depth, projection, rotation, translation = view
    low, high, margin, memory = window
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
                if names[cell] != name:
                    names[cell], mean[cell], views[cell] = name, 0.0, 0.0
                mean[cell] += (odds[int(v), int(u)] - mean[cell]) / (views[cell] + 1)
                views[cell] = min(views[cell] + 1, memory)


@compiled
def best_along_rays(voxels: Voxels, view: View, reach: float, margin: float) -> np.ndarray:
    """For each pixel the highest mean log-odds of a voxel up to its surface, float32 (H, W); 0 where none was seen.

    The view is map_from_camera; reach, margin: metres from the camera, and behind the surface, up to which voxels are asked.
    """
    mean, _, names, size = voxels
    depth, projection, rotation, translation = view
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
                if names[cell] == name and mean[cell] > best:
                    best = mean[cell]
                    result[row, column] = best
                depth_here += step
    return result


def _logit(probability: np.ndarray | float) -> np.ndarray:
    probability = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(probability / (1 - probability))
