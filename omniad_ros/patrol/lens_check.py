"""What stays where it is in the picture while the place moves past is on the lens, or moves with the camera; it is not in the place.

A part of the picture sticks where it was anomalous in nearly all the last views, though each showed another place there, and the place that
it hides now was seen normal from elsewhere. An interrupted inspection learns it anew, within some views.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose

GRID = (40, 30)


@dataclass(frozen=True)
class LensCheckOptions:
    """When something sticks. views: that are remembered; moved: cells of a 40x30 grid by which the place must have moved in the picture for
    a view to count; least: views to be compared with; same: share of them that were anomalous there; normal: views that saw the place
    normal; near: share of the depth within which two views show one surface; region: share of a region that sticks, from which all of
    it does; share: of the picture, from which a region is said to be on the lens: smaller ones are as often a thing that the camera
    follows. Set by judgement, and held against a patrol of a simulated room.
    """

    views: int = 8
    moved: float = 3.0
    least: int = 4
    same: float = 0.8
    normal: int = 2
    near: float = 0.1
    region: float = 0.3
    share: float = 0.02


class _View(NamedTuple):
    anomalous: np.ndarray
    depth: np.ndarray
    camera: Camera
    pose: Pose


class LensCheck:
    """Watches the frames of one camera, one after the other; an interrupted inspection begins anew."""

    def __init__(self, options: LensCheckOptions | None = None):
        self.options = options or LensCheckOptions()
        self._views: deque[_View] = deque(maxlen=self.options.views)

    def reset(self) -> None:
        self._views.clear()

    def __call__(self, anomalous: np.ndarray, depth: np.ndarray, camera: Camera, pose: Pose) -> np.ndarray:
        """Which pixels, bool (H, W), show what sticks.

        anomalous: bool (H, W), of this frame alone; depth: float32 (H, W) metres, the reference's, NaN where it is not known; both of
        ``camera`` at the refined ``pose``.
        """
        small = camera.resized(*GRID)
        cells = cv2.resize(anomalous.astype(np.float32), GRID, interpolation=cv2.INTER_AREA) > 0.5
        now = _View(cells, cv2.resize(depth, GRID, interpolation=cv2.INTER_NEAREST), small, pose)
        sticking = self._sticking(now)
        if not self._views or self._moved(self._views[-1], now):
            self._views.append(now)
        if not sticking.any():
            return np.zeros(anomalous.shape, bool)
        fine = cv2.resize(sticking.astype(np.uint8), anomalous.shape[::-1], interpolation=cv2.INTER_NEAREST)
        count, region = cv2.connectedComponents(anomalous.astype(np.uint8))
        size = np.bincount(region.ravel(), minlength=count)
        share = np.bincount(region.ravel(), fine.ravel(), count) / size
        on_lens = (share >= self.options.region) & (size >= self.options.share * anomalous.size)
        return on_lens[region] & anomalous

    def _sticking(self, now: _View) -> np.ndarray:
        """bool, of the grid's cells."""
        options, result = self.options, np.zeros_like(now.anomalous)
        rows, columns = np.nonzero(now.anomalous & np.isfinite(now.depth))
        pixels = np.stack([columns, rows], axis=1) + 0.5
        places = now.pose.apply(now.camera.directions()[rows, columns] * now.depth[rows, columns, None])
        compared, same, normal = np.zeros((3, len(rows)))
        for view in self._views:
            seen_from = view.pose.inverse().apply(places)
            there = view.camera.project(seen_from)
            apart = ~(np.linalg.norm(there - pixels, axis=1) < options.moved)
            compared += apart
            same += apart & cv2.dilate(view.anomalous.astype(np.uint8), np.ones((3, 3), np.uint8))[rows, columns] > 0
            with np.errstate(invalid="ignore"):
                inside = ((there > 0) & (there < GRID)).all(axis=1)
                x, y = np.where(inside[:, None], there, 0).astype(int).T
                shown = inside & apart & (np.abs(view.depth[y, x] / seen_from[:, 2] - 1) < options.near)
            normal += shown & ~view.anomalous[y, x]
        sticks = (compared >= options.least) & (same >= options.same * compared) & (normal >= options.normal)
        result[rows[sticks], columns[sticks]] = True
        return result

    def _moved(self, last: _View, now: _View) -> bool:
        """Whether the place, at its middle depth, has moved in the picture."""
        metres, degrees = last.pose.distance(now.pose)
        depth = float(np.nanmedian(now.depth)) if np.isfinite(now.depth).any() else 1.0
        return now.camera.fx * (metres / max(depth, 1e-3) + np.radians(degrees)) > 0.5 * self.options.moved
