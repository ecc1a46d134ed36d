"""Which views see a point: the one place that holds a point's distance against the depth that a view has there.

A view sees a point where the point lies at the depth that the view has in its direction. It sees past a point that lies
before that depth, which is how floaters are found, and knows nothing of one that lies behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.compiled import compiled_with_nan, inlined_with_nan

UNKNOWN, PAST, SURFACE, HIDDEN = 0, 1, 2, 3
"""What a view has at a point: nothing that is known, something behind it, the point itself, something before it."""


class Tolerance(NamedTuple):
    """How near two depths must be to be one surface: a share of the distance, and at least so many metres.

    neighbours: within the range of the four pixels around the point, rather than at the nearest one; along_ray: distances
    are along the ray, rather than along the optical axis.
    """

    relative: float
    least: float = 0.0
    neighbours: bool = False
    along_ray: bool = False


def _sides() -> np.ndarray:
    """The corners of an icosahedron and of its dual: no direction is farther than 23 degrees from one of them."""
    golden, signs = (1 + math.sqrt(5)) / 2, (-1, 1)
    corners = [(x, y, z) for x in signs for y in signs for z in signs]
    for x, y in ((1, golden), (golden, 1 / golden)):
        corners += [np.roll((0, a * x, b * y), turn) for a in signs for b in signs for turn in range(3)]
    corners = np.array(corners)
    return (corners / np.linalg.norm(corners, axis=1, keepdims=True)).astype(np.float32)


SIDES = _sides()
"""(32, 3) unit directions, evenly over the sphere, by which it is noted along what a point was seen."""


@dataclass(frozen=True)
class VisibilityOptions:
    """What is one surface, for each purpose.

    coverage: a grid field's surfaces against its own rendering of each photograph's view, both along rays and exact to
    about ``coverage_voxels``, of which the range of four pixels spares the edges; nerfstudio: depth maps of other methods,
    only 80 pixels wide, so that slanted surfaces differ by some percent from one pixel to the next; photographs: the field's
    depth at a frame against that at a photograph, the tightest, because what is wrongly agreed is drawn into the picture.
    """

    coverage: Tolerance = field(default_factory=lambda: Tolerance(0.03, neighbours=True, along_ray=True))
    coverage_voxels: float = 1.5
    nerfstudio: Tolerance = field(default_factory=lambda: Tolerance(0.05))
    photographs: Tolerance = field(default_factory=lambda: Tolerance(0.02))


VISIBILITY = VisibilityOptions()


class DepthViews(NamedTuple):
    """N views of one camera: rotations (N, 3, 3) and positions (N, 3), map_from_camera in the optical convention; intrinsics
    fx fy cx cy; depths (N, H, W) metres, NaN or 0 where unknown."""

    rotations: np.ndarray
    positions: np.ndarray
    intrinsics: tuple[float, float, float, float]
    depths: np.ndarray

    @staticmethod
    def of(poses: list[Pose], camera: Camera, depths: np.ndarray) -> DepthViews:
        rotations, positions = np.array([p.rotation for p in poses]), np.array([p.translation for p in poses])
        return DepthViews(rotations.reshape(-1, 3, 3), positions.reshape(-1, 3), camera.intrinsics, depths)


def count_views(
    points: np.ndarray, views: DepthViews, tolerance: Tolerance
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each point (P, 3) float64: how many views see it and how many see past it, int32 (P,), and along which of the `SIDES` it is
    seen, each direction noted as the nearest of them: a bit each, uint32 (P,)."""
    seen, past, along = (np.zeros(len(points), kind) for kind in (np.int32, np.int32, np.uint32))
    _count_views(points, views, tolerance, SIDES, seen, past, along)
    return seen, past, along


@inlined_with_nan
def project(intrinsics, x, y, z):
    """Column and row, pixel centres at integers, of a point before the camera, in its frame."""
    return x / z * intrinsics[0] + intrinsics[2] - 0.5, y / z * intrinsics[1] + intrinsics[3] - 0.5


@inlined_with_nan
def sees(depths, u, v, distance, tolerance):
    """What a view with ``depths`` (H, W) has at a point that falls on column u and row v, ``distance`` away: UNKNOWN, PAST,
    SURFACE or HIDDEN."""
    more = 1 if tolerance.neighbours else 0
    row, column = (math.floor(v), math.floor(u)) if more else (math.floor(v + 0.5), math.floor(u + 0.5))
    if row < 0 or column < 0 or row + more >= depths.shape[0] or column + more >= depths.shape[1]:
        return UNKNOWN
    nearest, farthest = np.inf, 0.0
    for i in range(row, row + more + 1):
        for j in range(column, column + more + 1):
            if depths[i, j] > 0:
                nearest, farthest = min(nearest, depths[i, j]), max(farthest, depths[i, j])
    if farthest <= 0:
        return UNKNOWN
    margin = max(tolerance.least, tolerance.relative * distance)
    if distance < nearest - margin:
        return PAST
    return SURFACE if distance <= farthest + margin else HIDDEN


@compiled_with_nan
def _count_views(points, views, tolerance, sides, seen, past, along):
    for p in range(points.shape[0]):
        for n in range(views.positions.shape[0]):
            dx, dy, dz = (
                points[p, 0] - views.positions[n, 0],
                points[p, 1] - views.positions[n, 1],
                points[p, 2] - views.positions[n, 2],
            )
            r = views.rotations[n]
            z = r[0, 2] * dx + r[1, 2] * dy + r[2, 2] * dz
            if not z > 1e-6:
                continue
            x, y = r[0, 0] * dx + r[1, 0] * dy + r[2, 0] * dz, r[0, 1] * dx + r[1, 1] * dy + r[2, 1] * dz
            u, v = project(views.intrinsics, x, y, z)
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            found = sees(views.depths[n], u, v, length if tolerance.along_ray else z, tolerance)
            if found == PAST:
                past[p] += 1
            elif found == SURFACE:
                seen[p] += 1
                best, nearest = -np.inf, 0
                for k in range(sides.shape[0]):
                    cosine = dx * sides[k, 0] + dy * sides[k, 1] + dz * sides[k, 2]
                    if cosine > best:
                        best, nearest = cosine, k
                along[p] |= np.uint32(1) << np.uint32(nearest)
