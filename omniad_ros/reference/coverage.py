"""What a survey really saw of a trained grid field: for each piece of surface, from how many views and from which side.

A photograph sees a piece of surface where it lies at the depth that the field has in that photograph. So what was
made up behind things, or floats where few photographs look, is not covered, nor is the back of what was only seen from the front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.grid import PARTS, Grid
from omniad_ros.reference.visibility import SIDES, VISIBILITY, DepthViews, count_views

LEAST_VIEWS = 3
NEAR = np.cos(np.radians(45.0))
"""Cosine up to which a side from which a surface was seen stands for another one."""


def seen(grid: Grid, cell: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(R,) bool: rays along unit ``directions`` (R, 3) meet at ``cell`` (R,) what enough views saw, some of them from about here."""
    part = _part(cell)
    near = np.packbits(directions @ SIDES.T > NEAR, axis=1, bitorder="little").view("<u4")[:, 0]
    return (grid.views.reshape(-1)[part] >= LEAST_VIEWS) & (grid.along.reshape(-1)[part] & near != 0)


def examine(field, camera: Camera, poses: list[Pose]) -> None:
    """Fill in ``views`` and ``along`` of the grid of a `GridField` from the views it was trained on."""
    views, along = seen_by(field, camera, poses)
    field.grid.views, field.grid.along = views, along


def seen_by(
    field, camera: Camera, poses: list[Pose], usable: Sequence[np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """``views`` (B, 8) uint8 and ``along`` (B, 8) uint32 of the grid of a `GridField`, as these views make them.

    usable: bool (h, w) of each view, the pixels that count; None for all.
    """
    grid = field.grid
    local = camera.directions().reshape(-1, 3)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    count = len(grid) * PARTS
    met, sums = np.zeros(count), np.zeros((count, 3))
    distances = np.zeros((len(poses), camera.height, camera.width), np.float32)
    for index, pose in enumerate(poses):
        directions = np.ascontiguousarray(local @ pose.rotation.T, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(pose.translation, directions.shape), np.float32)
        hits = field.rays(origins, directions)
        solid = hits.opacity > 0.5
        if usable is not None:
            solid &= usable[index].reshape(-1)
        part, points = _part(hits.cell[solid]), origins[solid] + hits.distance[solid, None] * directions[solid]
        met += np.bincount(part, minlength=count)
        for axis in range(3):
            sums[:, axis] += np.bincount(part, points[:, axis], count)
        distances[index] = np.where(solid, hits.distance, 0).reshape(camera.height, camera.width)
    met[:PARTS] = 0
    parts = np.flatnonzero(met)
    points = sums[parts] / met[parts, None]
    photographs = DepthViews.of(poses, camera, distances)
    tolerance = VISIBILITY.coverage._replace(least=VISIBILITY.coverage_voxels * grid.voxel)
    support, past, sides = count_views(points, photographs, tolerance)
    sure = np.where(2 * support >= past, support, 0)
    views, along = np.zeros((len(grid), PARTS), np.float32), np.zeros((len(grid), PARTS), np.uint32)
    views.reshape(-1)[parts], along.reshape(-1)[parts] = sure, sides
    _fill(views, along, (met > 0).reshape(-1, PARTS))
    return np.minimum(views, 255).astype(np.uint8), along


def _part(cell: np.ndarray) -> np.ndarray:
    """Index of the eighth of a block that a cell lies in."""
    return (cell >> 6) * PARTS + ((cell >> 5) & 1) * 4 + ((cell >> 3) & 1) * 2 + ((cell >> 1) & 1)


def _fill(views: np.ndarray, along: np.ndarray, hit: np.ndarray) -> None:
    """Give the parts (B, 8) that no ray happened to hit what their block's other parts have: views on average, and every side."""
    number = hit.sum(1)
    some = np.flatnonzero((number > 0) & (number < PARTS))
    views[some] = np.where(hit[some], views[some], views[some].sum(1, keepdims=True) / number[some][:, None])
    along[some] = np.where(hit[some], along[some], np.bitwise_or.reduce(along[some], axis=1, keepdims=True))
