"""A sparse voxel grid as compiled code sees it: where a point lies in it, and what is there.

Shapes: V voxels in blocks of 4x4x4, B blocks (block 0 is the empty one), C features a voxel.
"""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np

from omniad_ros.reference.compiled import inlined

BLOCK = 4
VOXELS = BLOCK**3
FEATURES = 8
SKY_HEIGHT, SKY_WIDTH = 16, 32

Volume = namedtuple(
    "Volume",
    "center half shell voxel scale shift table coarse neighbours occupied visible density features sky",
)
"""A grid as the kernels see it; `Grid` says what each part is."""


@inlined
def contract(half, shell, x, y, z):
    """Position relative to the centre → the same inside the core box, squeezed into a shell around it outside."""
    n = max(abs(x) / half[0], abs(y) / half[1], abs(z) / half[2])
    if n <= 1.0:
        return x, y, z
    factor = (1.0 + shell * (1.0 - 1.0 / n)) / n
    return x * factor, y * factor, z * factor


@inlined
def corner(neighbours, block, x, y, z):
    """Index of the voxel (x, y, z) in 0..4 of a block; 4 lies in the next block."""
    owner = neighbours[block, (x >> 2) * 4 + (y >> 2) * 2 + (z >> 2)]
    return owner * 64 + ((x & 3) * 4 + (y & 3)) * 4 + (z & 3)


@inlined
def raw_density(volume, cell, fx, fy, fz):
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


@inlined
def add_feature(volume, cell, fx, fy, fz, weight, out):
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


@inlined
def sky_cell(dx, dy, dz):
    """Bilinear place of a direction in the equirectangular sky."""
    u = (math.atan2(dy, dx) / (2 * math.pi) + 0.5) * SKY_WIDTH - 0.5
    v = (math.asin(min(1.0, max(-1.0, dz))) / math.pi + 0.5) * SKY_HEIGHT - 0.5
    u0, v0 = math.floor(u), math.floor(v)
    return u0, v0, np.float32(u - u0), np.float32(v - v0)


@inlined
def add_sky(sky, dx, dy, dz, weight, out):
    """out += weight * feature of the sky in a direction."""
    u, v, fu, fv = sky_cell(dx, dy, dz)
    for k in range(4):
        i, j = k >> 1, k & 1
        w = weight * (fv if i else np.float32(1) - fv) * (fu if j else np.float32(1) - fu)
        row, column = min(SKY_HEIGHT - 1, max(0, v + i)), (u + j) % SKY_WIDTH
        for c in range(FEATURES):
            out[c] += w * sky[row, column, c]
