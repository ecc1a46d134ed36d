"""Compiled passes over a sparse voxel grid between its renderings: optimiser, smoothing, occupancy, refinement."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from omniad_ros.reference.compiled import compiled
from omniad_ros.reference.voxels import FEATURES, VOXELS, contract, corner


class Learnt(NamedTuple):
    """Numbers of B blocks that are learnt: values, gradients and Adam's first and second moments (B, n) float32; touched (B,):
    the blocks that the last batch met."""

    values: np.ndarray
    gradients: np.ndarray
    first: np.ndarray
    second: np.ndarray
    touched: np.ndarray


class AdamOptions(NamedTuple):
    """Of arXiv 1412.6980."""

    rate: float
    beta1: float
    beta2: float
    epsilon: float


@compiled
def adam(learnt, options, start, end):
    """Adam on the rows of blocks ``start..end`` that were touched and have a gradient, which is zeroed. Moments of rows without
    gradient stay as they are."""
    values, gradients, first, second = learnt.values, learnt.gradients, learnt.first, learnt.second
    rate, beta1, beta2, epsilon = options
    for block in range(max(1, start), end):
        if learnt.touched[block] == 0:
            continue
        for i in range(values.shape[1]):
            g = gradients[block, i]
            if g != 0.0:
                m = beta1 * first[block, i] + (1 - beta1) * g
                v = beta2 * second[block, i] + (1 - beta2) * g * g
                first[block, i], second[block, i] = m, v
                values[block, i] -= rate * m / (math.sqrt(v) + epsilon)
                gradients[block, i] = 0.0


@compiled
def smooth(neighbours, values, touched, share, start, end):
    """Move the voxels of touched blocks (values (V, n)) by ``share`` of the way to their neighbours' mean.

    A step of its own, as in AdamW: within Adam, however small, it would move every voxel whose photometric gradient
    has vanished by the full learning rate.
    """
    for block in range(max(1, start), end):
        if touched[block] == 0:
            continue
        for local in range(VOXELS):
            v = block * VOXELS + local
            x, y, z = local >> 4, (local >> 2) & 3, local & 3
            for axis in range(3):
                n = corner(neighbours, block, x + (axis == 0), y + (axis == 1), z + (axis == 2))
                if n < VOXELS:
                    continue
                for c in range(values.shape[1]):
                    g = share / 6 * (values[n, c] - values[v, c])
                    values[v, c] += g
                    values[n, c] -= g


@compiled
def occupy(volume, threshold, start, end):
    """A cell of blocks ``start..end`` is occupied where one of its corners' density exceeds ``threshold``."""
    neighbours, density, occupied = volume.neighbours, volume.density, volume.occupied
    for block in range(max(1, start), end):
        for local in range(VOXELS):
            x, y, z = local >> 4, (local >> 2) & 3, local & 3
            top = -1e30
            for k in range(8):
                top = max(top, density[corner(neighbours, block, x + (k >> 2), y + ((k >> 1) & 1), z + (k & 1))])
            occupied[block * VOXELS + local] = top > threshold


@compiled
def alive_blocks(volume, positions, weight, ratio, keep):
    """Mark in ``keep`` (bool, finer table) the blocks that touch a cell that weighed at least ``weight``, dilated by a fine voxel
    and half a coarse one.

    positions: (B, 3) int32 place of each coarse block in its table; ratio: coarse voxel / fine voxel.
    """
    visible, occupied, margin = volume.visible, volume.occupied, 1.0 + 0.5 * ratio
    for block in range(1, positions.shape[0]):
        for local in range(VOXELS):
            cell = block * VOXELS + local
            if visible[cell] < weight or occupied[cell] == 0:
                continue
            x0 = (positions[block, 0] * 4 + (local >> 4)) * ratio
            y0 = (positions[block, 1] * 4 + ((local >> 2) & 3)) * ratio
            z0 = (positions[block, 2] * 4 + (local & 3)) * ratio
            for i in range(max(0, int(x0 - margin) >> 2), min(keep.shape[0] - 1, int(x0 + ratio + margin) >> 2) + 1):
                for j in range(
                    max(0, int(y0 - margin) >> 2), min(keep.shape[1] - 1, int(y0 + ratio + margin) >> 2) + 1
                ):
                    for k in range(
                        max(0, int(z0 - margin) >> 2), min(keep.shape[2] - 1, int(z0 + ratio + margin) >> 2) + 1
                    ):
                        keep[i, j, k] = True


@compiled
def resample(coarse, fine, positions, start, end):
    """Fill the blocks ``start..end`` of the volume ``fine``, at ``positions`` (B, 3) in its table, by trilinear interpolation of
    the coarser one."""
    table, density, features, ratio = coarse.table, coarse.density, coarse.features, coarse.voxel / fine.voxel
    new_density, new_features = fine.density, fine.features
    for block in range(max(1, start), end):
        for local in range(VOXELS):
            gx = (positions[block, 0] * 4 + (local >> 4)) / ratio
            gy = (positions[block, 1] * 4 + ((local >> 2) & 3)) / ratio
            gz = (positions[block, 2] * 4 + (local & 3)) / ratio
            ix, iy, iz = int(gx), int(gy), int(gz)
            v = block * VOXELS + local
            if ix >> 2 >= table.shape[0] or iy >> 2 >= table.shape[1] or iz >> 2 >= table.shape[2]:
                continue
            fx, fy, fz = gx - ix, gy - iy, gz - iz
            total = 0.0
            for k in range(8):
                a, b, c = k >> 2, (k >> 1) & 1, k & 1
                w = np.float32((fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz))
                x, y, z = ix + a, iy + b, iz + c
                if x >> 2 >= table.shape[0] or y >> 2 >= table.shape[1] or z >> 2 >= table.shape[2]:
                    continue
                owner = table[x >> 2, y >> 2, z >> 2]
                n = owner * VOXELS + ((x & 3) * 4 + (y & 3)) * 4 + (z & 3)
                new_density[v] += w * density[n]
                if owner > 0:
                    total += w
                    for f in range(FEATURES):
                        new_features[v, f] += w * features[n, f]
            if total > 0:
                for f in range(FEATURES):
                    new_features[v, f] /= total


@compiled
def count_free(volume, origins, targets, margin, free):
    """Count in ``free`` (V,) uint16 the sight lines through each voxel: from origins (K, 3) towards targets (K, 3), both
    relative to the centre, ending ``margin`` (at least, or 3 % of the distance) before."""
    inverse = 1.0 / volume.voxel
    bx = (1 + volume.shell) * volume.half[0] * inverse + 0.5
    by = (1 + volume.shell) * volume.half[1] * inverse + 0.5
    bz = (1 + volume.shell) * volume.half[2] * inverse + 0.5
    for k in range(origins.shape[0]):
        dx, dy, dz = targets[k, 0] - origins[k, 0], targets[k, 1] - origins[k, 1], targets[k, 2] - origins[k, 2]
        distance = math.sqrt(dx * dx + dy * dy + dz * dz)
        n = 1.0
        for axis in range(3):
            n = max(n, abs(targets[k, axis]) / volume.half[axis])
        # voxels of the outer shell are longer away from the centre
        deep = 2 * volume.voxel * n * n / volume.shell if n > 1 else 0.0
        end = distance - max(margin, 0.03 * distance, deep)
        last = -1
        t = 0.0
        while t < end:
            s = t / distance
            cx, cy, cz = contract(
                volume.half, volume.shell, origins[k, 0] + s * dx, origins[k, 1] + s * dy, origins[k, 2] + s * dz
            )
            ix, iy, iz = int(cx * inverse + bx), int(cy * inverse + by), int(cz * inverse + bz)
            t += 0.5 * volume.voxel
            if ix < 0 or iy < 0 or iz < 0:
                continue
            if ix >> 2 >= volume.table.shape[0] or iy >> 2 >= volume.table.shape[1] or iz >> 2 >= volume.table.shape[2]:
                continue
            block = volume.table[ix >> 2, iy >> 2, iz >> 2]
            v = block * VOXELS + ((ix & 3) * 4 + (iy & 3)) * 4 + (iz & 3)
            if block > 0 and v != last and free[v] < 60000:
                free[v] += 1
            last = v
