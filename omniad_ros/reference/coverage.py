"""What a survey really saw of a trained grid field: for each piece of surface, from how many views and from which side.

A photograph sees a piece of surface where it lies at the depth that the field has in that photograph. So what was
made up behind things, or floats where few photographs look, is not covered, nor is the back of what was only seen from the front.
"""

from __future__ import annotations

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.grid import PARTS, Grid
from omniad_ros.reference.visibility import VISIBILITY, DepthViews, count_views

LEAST_VIEWS = 3
LEAST_COSINE, ALL_AROUND, BEYOND = 0.35, 0.5, np.radians(15.0)
"""A surface is covered up to this cosine to the mean direction it was seen in, and so far beyond the cone of these directions where
that is wider; from all sides where their mean is shorter than ALL_AROUND."""


def seen(grid: Grid, cell: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(R,) bool: rays along unit ``directions`` (R, 3) meet at ``cell`` (R,) what enough views saw from this side."""
    part = _part(cell)
    toward = grid.toward.reshape(-1, 3)[part].astype(np.float32) / 127
    length = np.linalg.norm(toward, axis=1)
    along = np.einsum("ri,ri->r", toward, directions)
    # directions spread evenly over a cone have a mean of length (1 + cos(half its angle)) / 2
    cone = np.arccos(np.clip(2 * length - 1, -1, 1))
    least = np.minimum(LEAST_COSINE, np.cos(np.minimum(cone + BEYOND, np.pi)))
    return (grid.views.reshape(-1)[part] >= LEAST_VIEWS) & ((length < ALL_AROUND) | (along > least * length))


def examine(field, camera: Camera, poses: list[Pose]) -> None:
    """Fill in ``views`` and ``toward`` of the grid of a `GridField` from the views it was trained on."""
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
    support, past, toward = count_views(points, photographs, tolerance)
    sure = np.where(2 * support >= past, support, 0)
    views, direction = np.zeros(count, np.float32), np.zeros((count, 3), np.float32)
    views[parts], direction[parts] = sure, toward / np.maximum(support, 1)[:, None]
    _fill(views.reshape(-1, PARTS), direction.reshape(-1, PARTS, 3), (met > 0).reshape(-1, PARTS))
    grid.views = np.minimum(views, 255).astype(np.uint8).reshape(-1, PARTS)
    grid.toward = np.rint(127 * direction).astype(np.int8).reshape(-1, PARTS, 3)


def _part(cell: np.ndarray) -> np.ndarray:
    """Index of the eighth of a block that a cell lies in."""
    return (cell >> 6) * PARTS + ((cell >> 5) & 1) * 4 + ((cell >> 3) & 1) * 2 + ((cell >> 1) & 1)


def _fill(views: np.ndarray, direction: np.ndarray, hit: np.ndarray) -> None:
    """Give the parts that no ray happened to hit what their block's other parts have on average."""
    number = hit.sum(1)
    some = np.flatnonzero((number > 0) & (number < PARTS))
    for values in (views, direction):
        mean = values[some].sum(1) / number[some].reshape(-1, *[1] * (values.ndim - 2))
        values[some] = np.where(
            hit[some].reshape(len(some), PARTS, *[1] * (values.ndim - 2)), values[some], mean[:, None]
        )
