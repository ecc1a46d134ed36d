"""What of the place a patrol has inspected: of the map's points those that a frame showed, covered and not hidden.

Each inspection contract asks for it: a figure, and a map of where nobody looked. It is measured on the sparse map, which the survey
gave its points: where there is nothing to see there is nothing to be counted.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from omniad_ros.core.geometry import Camera, Pose

NEARER = 0.9
"""Share of a point's distance before which the reference view's depth hides it."""


@dataclass(frozen=True)
class FloorGrid:
    """A raster over the map from above. values: int8 (rows, columns), y up along the rows, -1 where nothing is known; low: (2,) metres,
    its corner; cell: metres."""

    values: np.ndarray
    low: np.ndarray
    cell: float


class InspectedMap:
    """Which of a map's points (P, 3) the frames of one patrol have shown."""

    def __init__(self, points: np.ndarray):
        self._points = points
        self.reset()

    def reset(self) -> None:
        self._seen = np.zeros(len(self._points), bool)

    @property
    def share(self) -> float:
        """Of the map's points; 0 for a map without any."""
        return float(self._seen.mean()) if len(self._seen) else 0.0

    def add(self, camera: Camera, pose: Pose, depth: np.ndarray, covered: np.ndarray) -> None:
        """Take in an inspected frame. camera: of the reference view; depth: float32 (h, w) metres, and covered: bool (h, w), of it."""
        unseen = np.flatnonzero(~self._seen)
        local = pose.inverse().apply(self._points[unseen].astype(float))
        before = local[:, 2] > 0.05
        unseen, local = unseen[before], local[before]
        pixels = camera.project(local)
        inside = ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1)
        unseen, distance = unseen[inside], local[inside, 2]
        columns, rows = pixels[inside].astype(int).T
        surface = depth[rows, columns]
        with np.errstate(invalid="ignore"):
            self._seen[unseen[covered[rows, columns] & (surface > NEARER * distance)]] = True

    def grid(self, cell: float = 0.1) -> FloorGrid | None:
        """The share of each cell's points that was inspected, in percent, -1 where it has none; None without points."""
        if not len(self._points):
            return None
        low, high = (np.percentile(self._points[:, :2], p, axis=0) for p in (1, 99))
        low = np.floor(low / cell) * cell
        columns, rows = np.maximum(np.ceil((high - low) / cell).astype(int), 1)
        place = np.floor((self._points[:, :2] - low) / cell).astype(int)
        inside = ((place >= 0) & (place < (columns, rows))).all(1)
        index = place[inside, 1] * columns + place[inside, 0]
        total = np.bincount(index, minlength=rows * columns)
        seen = np.bincount(index, self._seen[inside], minlength=rows * columns)
        values = np.where(total > 0, np.round(100 * seen / np.maximum(total, 1)), -1).astype(np.int8)
        return FloorGrid(values.reshape(rows, columns), low, cell)

    def saved(self) -> str:
        """What `restore` needs to go on."""
        return base64.b64encode(np.packbits(self._seen).tobytes()).decode()

    def restore(self, saved: str) -> None:
        """Go on where another one was saved. Raises ValueError where that was of another map."""
        if not saved:  # of a version that did not know of it
            return
        bits = np.unpackbits(np.frombuffer(base64.b64decode(saved), np.uint8))
        if len(bits) != 8 * -(-len(self._seen) // 8):
            raise ValueError("what was inspected is of another map")
        self._seen = bits[: len(self._seen)].astype(bool)


def floor_of_boxes(like: FloorGrid, centers: np.ndarray, sizes: np.ndarray) -> FloorGrid:
    """A grid as large, 100 where a box (N, 3) stands, else 0."""
    values = np.zeros(like.values.shape, np.int8)
    for center, size in zip(centers, sizes, strict=True):
        first, last = (np.floor((center[:2] + s * size[:2] / 2 - like.low) / like.cell).astype(int) for s in (-1, 1))
        first, last = np.maximum(first, 0), np.maximum(last + 1, 0)
        values[first[1] : last[1], first[0] : last[0]] = 100
    return FloorGrid(values, like.low, like.cell)
