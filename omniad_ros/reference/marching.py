"""Compiled ray marching through a sparse voxel grid.

A ray passes the world before the core box, the box, and the world behind it, in that order; in each it takes steps of a
share of a voxel. Shapes: R rays, S samples kept a ray, C features a voxel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from omniad_ros.reference.compiled import compiled, inlined
from omniad_ros.reference.voxels import (
    add_feature,
    add_sky,
    contract,
    raw_density,
)

SAMPLES = 128
"""At most so many samples a ray are kept."""
FARTHEST = 100.0
"""Half sizes of the core box behind which there is only sky."""
EMPTY, EMPTY_CUBE, OUTSIDE = 0, -1, -2
"""What `_block_at` says where there is no block: its place is empty, all 4x4x4 places around are, or it is off the grid."""


class Steps(NamedTuple):
    """How rays are marched: voxels from one sample to the next; weight that a sample must exceed to be kept; transmittance at
    which a ray ends."""

    stride: float
    floor: float
    stop: float


class Rays(NamedTuple):
    """origins (R, 3) in the map, unit directions (R, 3); near (R,): distance at which they begin; jitter (R,): place of the
    samples in their steps, in [0, 1)."""

    origins: np.ndarray
    directions: np.ndarray
    near: np.ndarray
    jitter: np.ndarray


class Rendered(NamedTuple):
    """What `render` gives: feature (R, C); scalar (R, 3): opacity, median distance, spread of the weights around it; cell (R,):
    the cell at the median, 0 where there is none."""

    feature: np.ndarray
    scalar: np.ndarray
    cell: np.ndarray


class Ray(NamedTuple):
    """One of `Rays`, its origin relative to the grid's centre."""

    ox: float
    oy: float
    oz: float
    dx: float
    dy: float
    dz: float
    near: float
    jitter: float


class Kept(NamedTuple):
    """The samples of one ray: cell (S,) int32, block * 64 + place in it; place (S, 3) fractions in the cell; weight (S, 3):
    weight, transmittance after it, d optical depth / d raw density; depth (S, 2): distance along the ray, distance in
    contracted space."""

    cell: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    depth: np.ndarray


class Point(NamedTuple):
    """A sample's place in the grid, in voxels from its lower corner, and its distance along the ray and in contracted space."""

    gx: float
    gy: float
    gz: float
    t: float
    along: float


class Passed(NamedTuple):
    """How far a ray has come: samples kept and transmittance left."""

    count: int
    transmittance: float


@inlined
def one_ray(volume, rays, r):
    origin, direction = rays.origins[r], rays.directions[r]
    return Ray(
        origin[0] - volume.center[0], origin[1] - volume.center[1], origin[2] - volume.center[2],
        direction[0], direction[1], direction[2], rays.near[r], rays.jitter[r],
    )  # fmt: skip


@inlined
def _core_span(half, ray):
    """Distances at which a ray enters, not before ``near``, and leaves the core box; it misses the box where these are not in order."""
    enter, leave = ray.near, 1e30
    for axis in range(3):
        o = ray.ox if axis == 0 else (ray.oy if axis == 1 else ray.oz)
        d = ray.dx if axis == 0 else (ray.dy if axis == 1 else ray.dz)
        if abs(d) > 1e-9:
            t0, t1 = (-half[axis] - o) / d, (half[axis] - o) / d
            enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
        elif abs(o) > half[axis]:
            leave = -1.0
    return enter, leave


@inlined
def _corner_shift(volume):
    """From the centre to the grid's lower corner, (1 + shell) half sizes below it, in voxels."""
    inverse = 1.0 / volume.voxel
    return (
        (1 + volume.shell) * volume.half[0] * inverse,
        (1 + volume.shell) * volume.half[1] * inverse,
        (1 + volume.shell) * volume.half[2] * inverse,
    )


@inlined
def _block_at(volume, gx, gy, gz):
    """The block around a point, or EMPTY, EMPTY_CUBE or OUTSIDE."""
    ix, iy, iz, table = int(gx), int(gy), int(gz), volume.table
    if ix < 0 or iy < 0 or iz < 0 or ix >= table.shape[0] * 4 or iy >= table.shape[1] * 4 or iz >= table.shape[2] * 4:
        return OUTSIDE
    if volume.coarse[ix >> 4, iy >> 4, iz >> 4] == 0:
        return EMPTY_CUBE
    return table[ix >> 2, iy >> 2, iz >> 2]


@inlined
def _absorb(volume, steps, block, point, kept, passed):
    """Let the matter at a point of a block weaken the ray, and keep the sample where it weighs enough."""
    ix, iy, iz = int(point.gx), int(point.gy), int(point.gz)
    cell = block * 64 + ((ix & 3) * 4 + (iy & 3)) * 4 + (iz & 3)
    if volume.occupied[cell] == 0:
        return passed
    fx, fy, fz = np.float32(point.gx - ix), np.float32(point.gy - iy), np.float32(point.gz - iz)
    x = raw_density(volume, cell, fx, fy, fz) + volume.shift
    if x < -16.0:
        return passed
    if x > 15.0:
        optical, slope = x, 1.0
    else:
        e = math.exp(x)
        optical, slope = math.log1p(e), e / (1.0 + e)
    thickness = volume.scale * (steps.stride * volume.voxel)
    after = passed.transmittance * math.exp(-optical * thickness)
    weight, count = passed.transmittance - after, passed.count
    if weight > steps.floor:
        kept.cell[count] = cell
        kept.place[count, 0], kept.place[count, 1], kept.place[count, 2] = fx, fy, fz
        kept.weight[count, 0], kept.weight[count, 1], kept.weight[count, 2] = weight, after, slope * thickness
        kept.depth[count, 0], kept.depth[count, 1] = point.t, point.along
        count += 1
    return Passed(count, after)


@inlined
def _goes_on(steps, kept, passed):
    return passed.transmittance > steps.stop and passed.count < kept.cell.shape[0]


@inlined
def _before_core(volume, steps, ray, enter, kept, passed):
    """From ``near`` to where the ray of a camera outside the core box enters it, with the same step as in the box."""
    step, inverse, (bx, by, bz) = steps.stride * volume.voxel, 1.0 / volume.voxel, _corner_shift(volume)
    k = 0
    while _goes_on(steps, kept, passed):
        t = ray.near + (k + ray.jitter) * step
        if t >= enter:
            break
        k += 1
        x, y, z = ray.ox + t * ray.dx, ray.oy + t * ray.dy, ray.oz + t * ray.dz
        cx, cy, cz = contract(volume.half, volume.shell, x, y, z)
        gx, gy, gz = cx * inverse + bx, cy * inverse + by, cz * inverse + bz
        block = _block_at(volume, gx, gy, gz)
        if block > 0:
            passed = _absorb(volume, steps, block, Point(gx, gy, gz, t, t), kept, passed)
    return passed


@inlined
def _in_core(volume, steps, ray, enter, leave, kept, passed):
    """Through the core box; empty cubes are left at once."""
    step, inverse, (bx, by, bz) = steps.stride * volume.voxel, 1.0 / volume.voxel, _corner_shift(volume)
    vx, vy, vz = ray.dx * inverse, ray.dy * inverse, ray.dz * inverse
    k = 0
    while _goes_on(steps, kept, passed):
        t = enter + (k + ray.jitter) * step
        if t >= leave:
            break
        gx, gy, gz = (
            (ray.ox * inverse + bx) + t * vx,
            (ray.oy * inverse + by) + t * vy,
            (ray.oz * inverse + bz) + t * vz,
        )
        block = _block_at(volume, gx, gy, gz)
        if block > 0:
            passed = _absorb(volume, steps, block, Point(gx, gy, gz, t, t), kept, passed)
            k += 1
        elif block == OUTSIDE:
            k += 1
        else:
            bits = 2 if block == EMPTY else 4
            far = min(_exit(gx, vx, bits), _exit(gy, vy, bits), _exit(gz, vz, bits))
            k += max(1, math.ceil(far / step))
    return passed


@inlined
def _exit(g, v, bits):
    """Distance at which a ray that lies at ``g`` with speed ``v``, along one axis, leaves its cube of 2**bits voxels."""
    if abs(v) <= 1e-9:
        return 1e30
    return (((int(g) >> bits) + (1 if v > 0 else 0)) * (1 << bits) - g) / v


@inlined
def _outside_core(volume, steps, ray, leave, kept, passed):
    """From where the ray leaves the core box to the sky, in equal steps in contracted space, where a voxel has its size."""
    step, inverse, (bx, by, bz) = steps.stride * volume.voxel, 1.0 / volume.voxel, _corner_shift(volume)
    half, shell, dx, dy, dz = volume.half, volume.shell, ray.dx, ray.dy, ray.dz
    t = along = leave + ray.jitter * step
    while _goes_on(steps, kept, passed):
        x, y, z = ray.ox + t * dx, ray.oy + t * dy, ray.oz + t * dz
        nx, ny, nz = abs(x) / half[0], abs(y) / half[1], abs(z) / half[2]
        n = max(1.0, nx, ny, nz)
        if n > FARTHEST:
            break
        # d(x f(n)) / dt with f as in `contract`
        growth = (dx * x if nx == n else 0.0) / (half[0] * half[0]) + (dy * y if ny == n else 0.0) / (half[1] * half[1])
        growth = (growth + (dz * z if nz == n else 0.0) / (half[2] * half[2])) / n
        f = (1.0 + shell * (1.0 - 1.0 / n)) / n
        slope = growth * (2.0 * shell / n - 1.0 - shell) / (n * n)
        rate = math.sqrt((dx * f + x * slope) ** 2 + (dy * f + y * slope) ** 2 + (dz * f + z * slope) ** 2)
        gx, gy, gz = x * f * inverse + bx, y * f * inverse + by, z * f * inverse + bz
        block = _block_at(volume, gx, gy, gz)
        if block > 0:
            passed = _absorb(volume, steps, block, Point(gx, gy, gz, t, along), kept, passed)
        t, along = t + step / max(rate, 1e-9), along + step
    return passed


@inlined
def march(volume, steps, ray, kept):
    """March one ray until hardly anything is left of it, and keep the samples that weigh enough. Returns how far it came."""
    passed = Passed(0, 1.0)
    enter, leave = _core_span(volume.half, ray)
    if leave <= enter:
        leave = ray.near
    else:
        if enter > ray.near:
            passed = _before_core(volume, steps, ray, enter, kept, passed)
        passed = _in_core(volume, steps, ray, enter, leave, kept, passed)
    return _outside_core(volume, steps, ray, leave, kept, passed)


@compiled
def render(volume, steps, rays, out, start, end):
    """Render the rays ``start..end`` into ``out`` (`Rendered`)."""
    kept = Kept(
        np.empty(SAMPLES, np.int32), np.empty((SAMPLES, 3), np.float32), np.empty((SAMPLES, 3), np.float32),
        np.empty((SAMPLES, 2), np.float32),
    )  # fmt: skip
    for r in range(start, end):
        ray = one_ray(volume, rays, r)
        n, rest = march(volume, steps, ray, kept)
        feature = out.feature[r]
        feature[:] = 0
        median, cell = 0.0, 0
        total = 0.0
        for i in range(n):
            w = kept.weight[i, 0]
            add_feature(volume, kept.cell[i], kept.place[i, 0], kept.place[i, 1], kept.place[i, 2], w, feature)
            if total < 0.5 and total + w >= 0.5:
                median, cell = kept.depth[i, 0], kept.cell[i]
            total += w
        add_sky(volume.sky, ray.dx, ray.dy, ray.dz, np.float32(rest), feature)
        spread = 0.0
        for i in range(n):
            spread += kept.weight[i, 0] * min(1.0, abs(kept.depth[i, 0] - median) / max(1e-9, median))
        out.scalar[r, 0], out.scalar[r, 1], out.scalar[r, 2] = 1 - rest, median, spread
        out.cell[r] = cell
