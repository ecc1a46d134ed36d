"""Compiled ray marching through a sparse voxel grid, forwards and backwards.

Plain numba functions that release the GIL and are run in chunks by `parallel`, not numba's own `parallel=True`: they
compile fast, may be called from any thread, and need no threading layer. Shapes: V voxels in blocks of 4x4x4,
B blocks (block 0 is the empty one), R rays, S samples kept a ray, C features a voxel.
"""

from __future__ import annotations

import math
import os
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from numba import njit

BLOCK = 4
VOXELS = BLOCK**3
FEATURES = 8
SAMPLES = 128
"""At most so many samples a ray are kept."""
SKY_HEIGHT, SKY_WIDTH = 16, 32
FARTHEST = 100.0
"""Half sizes of the core box behind which there is only sky."""

Volume = namedtuple(
    "Volume",
    "center half shell voxel scale shift table coarse neighbours occupied visible density features sky",
)
"""A grid as the kernels see it; `Grid` says what each part is."""

compiled = njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@lru_cache(maxsize=1)
def threads() -> int:
    """As many as the CPUs we may use, at most what NUMBA_NUM_THREADS or OMP_NUM_THREADS allow."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            count = min(count, max(1, int(os.environ[name])))
    return count


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "grid-field")


def parallel(function, count: int, chunk: int) -> None:
    """Call ``function(start, end)`` for chunks of ``range(count)`` on all threads; it must release the GIL."""
    starts = range(0, count, chunk)
    if threads() == 1 or len(starts) < 2:
        for start in starts:
            function(start, min(count, start + chunk))
        return
    for future in [_pool().submit(function, start, min(count, start + chunk)) for start in starts]:
        future.result()


@compiled
def contract(half, shell, x, y, z):
    """Position relative to the centre → the same inside the core box, squeezed into a shell around it outside."""
    n = max(abs(x) / half[0], abs(y) / half[1], abs(z) / half[2])
    if n <= 1.0:
        return x, y, z
    factor = (1.0 + shell * (1.0 - 1.0 / n)) / n
    return x * factor, y * factor, z * factor


@compiled
def corner(neighbours, block, x, y, z):
    """Index of the voxel (x, y, z) in 0..4 of a block; 4 lies in the next block."""
    owner = neighbours[block, (x >> 2) * 4 + (y >> 2) * 2 + (z >> 2)]
    return owner * 64 + ((x & 3) * 4 + (y & 3)) * 4 + (z & 3)


@compiled
def _raw(volume, cell, fx, fy, fz):
    """Trilinear density at a cell (block * 64 + local index)."""
    block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
    d, n = volume.density, volume.neighbours
    gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
    if x < 3 and y < 3 and z < 3:
        return gx * (gy * (gz * d[cell] + fz * d[cell + 1]) + fy * (gz * d[cell + 4] + fz * d[cell + 5])) + fx * (
            gy * (gz * d[cell + 16] + fz * d[cell + 17]) + fy * (gz * d[cell + 20] + fz * d[cell + 21])
        )
    return (
        gx * (gy * (gz * d[cell] + fz * d[corner(n, block, x, y, z + 1)])
              + fy * (gz * d[corner(n, block, x, y + 1, z)] + fz * d[corner(n, block, x, y + 1, z + 1)]))
        + fx * (gy * (gz * d[corner(n, block, x + 1, y, z)] + fz * d[corner(n, block, x + 1, y, z + 1)])
                + fy * (gz * d[corner(n, block, x + 1, y + 1, z)] + fz * d[corner(n, block, x + 1, y + 1, z + 1)]))
    )  # fmt: skip


@compiled
def _add_feature(volume, cell, fx, fy, fz, weight, out):
    """out += weight * trilinear feature."""
    block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
    for k in range(8):
        a, b, c = k >> 2, (k >> 1) & 1, k & 1
        w = (
            weight
            * (fx if a else np.float32(1) - fx)
            * (fy if b else np.float32(1) - fy)
            * (fz if c else np.float32(1) - fz)
        )
        v = corner(volume.neighbours, block, x + a, y + b, z + c)
        for f in range(FEATURES):
            out[f] += w * volume.features[v, f]


@compiled
def _sky_cell(dx, dy, dz):
    """Bilinear place of a direction in the equirectangular sky."""
    u = (math.atan2(dy, dx) / (2 * math.pi) + 0.5) * SKY_WIDTH - 0.5
    v = (math.asin(min(1.0, max(-1.0, dz))) / math.pi + 0.5) * SKY_HEIGHT - 0.5
    u0, v0 = math.floor(u), math.floor(v)
    return u0, v0, np.float32(u - u0), np.float32(v - v0)


@compiled
def _sky(sky, dx, dy, dz, weight, out):
    u, v, fu, fv = _sky_cell(dx, dy, dz)
    for k in range(4):
        i, j = k >> 1, k & 1
        w = weight * (fv if i else np.float32(1) - fv) * (fu if j else np.float32(1) - fu)
        row, column = min(SKY_HEIGHT - 1, max(0, v + i)), (u + j) % SKY_WIDTH
        for c in range(FEATURES):
            out[c] += w * sky[row, column, c]


@compiled
def march(volume, stride, ox, oy, oz, dx, dy, dz, near, jitter, floor, stop, s_cell, s_place, s_weight, s_depth):
    """March one ray (origin relative to the centre, unit direction) until its transmittance falls below ``stop``.

    Samples whose weight exceeds ``floor`` are kept: s_cell (S,) int32; s_place (S, 3) fractions in the cell;
    s_weight (S, 3) weight, transmittance after it, d optical depth / d raw density; s_depth (S, 2) distance along the
    ray, distance in contracted space. Returns (samples kept, final transmittance).
    """
    half, voxel = volume.half, volume.voxel
    table, coarse = volume.table, volume.coarse
    inverse = 1.0 / voxel
    # the grid's origin is its lower corner: (1 + shell) * half below the centre
    bx, by, bz = (
        (1 + volume.shell) * half[0] * inverse,
        (1 + volume.shell) * half[1] * inverse,
        (1 + volume.shell) * half[2] * inverse,
    )
    enter, leave = near, 1e30
    for axis in range(3):
        o = ox if axis == 0 else (oy if axis == 1 else oz)
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        if abs(d) > 1e-9:
            t0, t1 = (-half[axis] - o) / d, (half[axis] - o) / d
            enter, leave = max(enter, min(t0, t1)), min(leave, max(t0, t1))
        elif abs(o) > half[axis]:
            leave = -1.0
    transmittance = 1.0
    count = 0
    step = stride * voxel
    thickness = volume.scale * step
    vx, vy, vz = dx * inverse, dy * inverse, dz * inverse
    size_x, size_y, size_z = table.shape[0] * 4, table.shape[1] * 4, table.shape[2] * 4
    k = 0
    # a camera outside the core box: what lies before the box is marched with the same step
    before = leave > enter and enter > near
    inside = leave > enter
    start = enter if inside else near
    if not inside:
        leave = near
    outer = not inside
    t_outer, along_outer = leave + jitter * step, leave + jitter * step
    while transmittance > stop and count < s_cell.shape[0]:
        if before:
            t = near + (k + jitter) * step
            if t >= enter:
                before = False
                k = 0
                continue
            cx, cy, cz = contract(half, volume.shell, ox + t * dx, oy + t * dy, oz + t * dz)
            gx, gy, gz = cx * inverse + bx, cy * inverse + by, cz * inverse + bz
            along = t
        elif not outer:
            t = start + (k + jitter) * step
            if t >= leave:
                outer = True
                k = 0
                continue
            gx, gy, gz = (ox * inverse + bx) + t * vx, (oy * inverse + by) + t * vy, (oz * inverse + bz) + t * vz
            along = t
        else:
            t, along = t_outer, along_outer
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            nx, ny, nz = abs(x) / half[0], abs(y) / half[1], abs(z) / half[2]
            n = max(1.0, nx, ny, nz)
            if n > FARTHEST:
                break
            # equal steps in contracted space, where a voxel has its size: d(x f(n)) / dt with f as in `contract`
            growth = (dx * x if nx == n else 0.0) / (half[0] * half[0]) + (dy * y if ny == n else 0.0) / (
                half[1] * half[1]
            )
            growth = (growth + (dz * z if nz == n else 0.0) / (half[2] * half[2])) / n
            f = (1.0 + volume.shell * (1.0 - 1.0 / n)) / n
            slope = growth * (2.0 * volume.shell / n - 1.0 - volume.shell) / (n * n)
            rate = math.sqrt((dx * f + x * slope) ** 2 + (dy * f + y * slope) ** 2 + (dz * f + z * slope) ** 2)
            t_outer, along_outer = t + step / max(rate, 1e-9), along + step
            gx, gy, gz = x * f * inverse + bx, y * f * inverse + by, z * f * inverse + bz
        ix, iy, iz = int(gx), int(gy), int(gz)
        if ix < 0 or iy < 0 or iz < 0 or ix >= size_x or iy >= size_y or iz >= size_z:
            k += 1
            continue
        bits = 0
        block = 0
        if coarse[ix >> 4, iy >> 4, iz >> 4] == 0:
            bits = 4
        else:
            block = table[ix >> 2, iy >> 2, iz >> 2]
            if block == 0:
                bits = 2
        if bits > 0:
            if outer or before:
                k += 1
                continue
            # leave the empty cube: distance to its far faces
            far = 1e30
            if abs(vx) > 1e-9:
                far = min(far, (((ix >> bits) + (1 if vx > 0 else 0)) * (1 << bits) - gx) / vx)
            if abs(vy) > 1e-9:
                far = min(far, (((iy >> bits) + (1 if vy > 0 else 0)) * (1 << bits) - gy) / vy)
            if abs(vz) > 1e-9:
                far = min(far, (((iz >> bits) + (1 if vz > 0 else 0)) * (1 << bits) - gz) / vz)
            k += max(1, math.ceil(far / step))
            continue
        k += 1
        cell = block * 64 + ((ix & 3) * 4 + (iy & 3)) * 4 + (iz & 3)
        if volume.occupied[cell] == 0:
            continue
        fx, fy, fz = np.float32(gx - ix), np.float32(gy - iy), np.float32(gz - iz)
        x = _raw(volume, cell, fx, fy, fz) + volume.shift
        if x < -16.0:
            continue
        if x > 15.0:
            optical, slope = x, 1.0
        else:
            e = math.exp(x)
            optical, slope = math.log1p(e), e / (1.0 + e)
        after = transmittance * math.exp(-optical * thickness)
        weight = transmittance - after
        transmittance = after
        if weight > floor:
            s_cell[count] = cell
            s_place[count, 0], s_place[count, 1], s_place[count, 2] = fx, fy, fz
            s_weight[count, 0], s_weight[count, 1], s_weight[count, 2] = weight, after, slope * thickness
            s_depth[count, 0], s_depth[count, 1] = t, along
            count += 1
    return count, transmittance


@compiled
def forward(
    volume, stride, origins, directions, near, jitter, target, floor, stop, length, start, end,
    counts, s_cell, s_place, s_weight, s_depth, touched, out_feature, out_scalar,
):  # fmt: skip
    """Render training rays ``start..end`` and keep their samples for `backward`.

    target: (R, 2) distance at which the ray is known to end, and its tolerance (0: unknown).
    out_feature: (R, C) composited features with the sky behind; out_scalar: (R, 4) opacity, expected distance,
    distortion (mip-NeRF 360, arXiv 2111.12077, in units of ``length``), weight away from the target.
    """
    for r in range(start, end):
        n, rest = march(
            volume, stride, origins[r, 0] - volume.center[0], origins[r, 1] - volume.center[1],
            origins[r, 2] - volume.center[2], directions[r, 0], directions[r, 1], directions[r, 2], near[r], jitter[r],
            floor, stop, s_cell[r], s_place[r], s_weight[r], s_depth[r],
        )  # fmt: skip
        counts[r] = n
        feature = out_feature[r]
        feature[:] = 0
        distance = distortion = misplaced = 0.0
        known = target[r, 0] > 0
        sum_w = sum_wt = 0.0
        for i in range(n):
            cell, w = s_cell[r, i], s_weight[r, i, 0]
            _add_feature(volume, cell, s_place[r, i, 0], s_place[r, i, 1], s_place[r, i, 2], w, feature)
            distance += w * s_depth[r, i, 0]
            along = s_depth[r, i, 1] / length
            distortion += 2 * w * (along * sum_w - sum_wt) + w * w * stride * volume.voxel / length / 3
            sum_w += w
            sum_wt += w * along
            if known and abs(s_depth[r, i, 0] - target[r, 0]) > target[r, 1]:
                misplaced += w
            if w > volume.visible[cell]:
                volume.visible[cell] = w
            block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
            for q in range(8):
                if (x == 3 or q < 4) and (y == 3 or (q & 2) == 0) and (z == 3 or (q & 1) == 0):
                    touched[volume.neighbours[block, q]] = 1
        _sky(volume.sky, directions[r, 0], directions[r, 1], directions[r, 2], np.float32(rest), feature)
        out_scalar[r, 0], out_scalar[r, 1], out_scalar[r, 2] = 1 - rest, distance, distortion
        out_scalar[r, 3] = misplaced + (rest if known else 0.0)


@compiled
def backward(
    volume, stride, directions, target, length, start, end, counts, s_cell, s_place, s_weight, s_depth,
    rest, grad_feature, grad_scalar, grad_density, grad_features, grad_sky,
):  # fmt: skip
    """Add the gradients of rays ``start..end`` of `forward` to grad_density (V,), grad_features (V, C), grad_sky.

    grad_scalar: (R, 4) as out_scalar. Threads add without locks: two rays seldom meet in one voxel at the same time,
    and a lost addition is one ray's worth of noise.
    """
    gains = np.empty(s_cell.shape[1], np.float32)
    colour = np.zeros(FEATURES, np.float32)
    for r in range(start, end):
        n = counts[r]
        sum_w = sum_wt = 0.0
        for i in range(n):
            sum_w += s_weight[r, i, 0]
            sum_wt += s_weight[r, i, 0] * s_depth[r, i, 1] / length
        known = target[r, 0] > 0
        before_w = before_wt = 0.0
        for i in range(n):
            colour[:] = 0
            _add_feature(
                volume, s_cell[r, i], s_place[r, i, 0], s_place[r, i, 1], s_place[r, i, 2], np.float32(1), colour
            )
            gain = grad_scalar[r, 0] + grad_scalar[r, 1] * s_depth[r, i, 0]
            for c in range(FEATURES):
                gain += colour[c] * grad_feature[r, c]
            w, along = s_weight[r, i, 0], s_depth[r, i, 1] / length
            after_w, after_wt = sum_w - before_w - w, sum_wt - before_wt - w * along
            spread = 2 * (along * before_w - before_wt + after_wt - along * after_w)
            gain += grad_scalar[r, 2] * (spread + 2 * w * stride * volume.voxel / length / 3)
            before_w += w
            before_wt += w * along
            if known and abs(s_depth[r, i, 0] - target[r, 0]) > target[r, 1]:
                gain += grad_scalar[r, 3]
            gains[i] = gain
        colour[:] = 0
        _sky(volume.sky, directions[r, 0], directions[r, 1], directions[r, 2], np.float32(1), colour)
        gain = 0.0
        for c in range(FEATURES):
            gain += colour[c] * grad_feature[r, c]
        if known:
            gain += grad_scalar[r, 3]
        behind = rest[r] * gain
        if rest[r] > 1e-3:
            u, v, fu, fv = _sky_cell(directions[r, 0], directions[r, 1], directions[r, 2])
            for k in range(4):
                i, j = k >> 1, k & 1
                w = rest[r] * (fv if i else np.float32(1) - fv) * (fu if j else np.float32(1) - fu)
                row, column = min(SKY_HEIGHT - 1, max(0, v + i)), (u + j) % SKY_WIDTH
                for c in range(FEATURES):
                    grad_sky[row, column, c] += w * grad_feature[r, c]
        for i in range(n - 1, -1, -1):
            w = s_weight[r, i, 0]
            density = np.float32((s_weight[r, i, 1] * gains[i] - behind) * s_weight[r, i, 2])
            behind += w * gains[i]
            cell = s_cell[r, i]
            fx, fy, fz = s_place[r, i, 0], s_place[r, i, 1], s_place[r, i, 2]
            block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
            for k in range(8):
                a, b, c = k >> 2, (k >> 1) & 1, k & 1
                part = (
                    (fx if a else np.float32(1) - fx)
                    * (fy if b else np.float32(1) - fy)
                    * (fz if c else np.float32(1) - fz)
                )
                voxel = corner(volume.neighbours, block, x + a, y + b, z + c)
                grad_density[voxel] += part * density
                share = part * w
                for f in range(FEATURES):
                    grad_features[voxel, f] += share * grad_feature[r, f]


@compiled
def render(volume, stride, origins, directions, near, floor, stop, start, end, out_feature, out_scalar, out_cell):
    """Render rays ``start..end``: out_feature (R, C); out_scalar (R, 3) opacity, median distance, spread of the
    weights around it; out_cell (R,) the cell at the median, 0 where there is none."""
    s_cell = np.empty(SAMPLES, np.int32)
    s_place = np.empty((SAMPLES, 3), np.float32)
    s_weight = np.empty((SAMPLES, 3), np.float32)
    s_depth = np.empty((SAMPLES, 2), np.float32)
    for r in range(start, end):
        n, rest = march(
            volume, stride, origins[r, 0] - volume.center[0], origins[r, 1] - volume.center[1],
            origins[r, 2] - volume.center[2], directions[r, 0], directions[r, 1], directions[r, 2], near, 0.5, floor, stop,
            s_cell, s_place, s_weight, s_depth,
        )  # fmt: skip
        feature = out_feature[r]
        feature[:] = 0
        median, out_cell[r] = 0.0, 0
        total = 0.0
        for i in range(n):
            w = s_weight[i, 0]
            _add_feature(volume, s_cell[i], s_place[i, 0], s_place[i, 1], s_place[i, 2], w, feature)
            if total < 0.5 and total + w >= 0.5:
                median, out_cell[r] = s_depth[i, 0], s_cell[i]
            total += w
        _sky(volume.sky, directions[r, 0], directions[r, 1], directions[r, 2], np.float32(rest), feature)
        spread = 0.0
        for i in range(n):
            spread += s_weight[i, 0] * min(1.0, abs(s_depth[i, 0] - median) / max(1e-9, median))
        out_scalar[r, 0], out_scalar[r, 1], out_scalar[r, 2] = 1 - rest, median, spread
