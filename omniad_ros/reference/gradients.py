"""Rays that a grid field learns from: rendered forwards, with their samples kept, and backwards into the grid's gradients.

Shapes: R rays, S samples kept a ray, V voxels, B blocks, C features a voxel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from omniad_ros.reference.compiled import compiled, inlined
from omniad_ros.reference.marching import SAMPLES, Kept, Rays, march, one_ray
from omniad_ros.reference.voxels import FEATURES, SKY_HEIGHT, SKY_WIDTH, add_feature, add_sky, corner, sky_cell


class Samples(NamedTuple):
    """What is kept of R rays for the gradients: count (R,) int32 of samples; cell (R, S), place (R, S, 3), weight (R, S, 3) and
    depth (R, S, 2) as of `Kept`."""

    count: np.ndarray
    cell: np.ndarray
    place: np.ndarray
    weight: np.ndarray
    depth: np.ndarray

    @staticmethod
    def room(rays: int) -> Samples:
        """Memory for so many rays."""
        return Samples(
            np.empty(rays, np.int32), np.empty((rays, SAMPLES), np.int32), np.empty((rays, SAMPLES, 3), np.float32),
            np.empty((rays, SAMPLES, 3), np.float32), np.empty((rays, SAMPLES, 2), np.float32),
        )  # fmt: skip


class Batch(NamedTuple):
    """Training rays: target (R, 2), the distance at which each is known to end and its tolerance (0: unknown); length: unit of
    the distortion loss, in metres."""

    rays: Rays
    samples: Samples
    target: np.ndarray
    length: float


class Composed(NamedTuple):
    """What `forward` gives: feature (R, C) composited with the sky behind; scalar (R, 4): opacity, expected distance, distortion
    (mip-NeRF 360, arXiv 2111.12077), weight away from the target. Also its gradients."""

    feature: np.ndarray
    scalar: np.ndarray


class GridGradient(NamedTuple):
    """density (V,), features (V, C), sky: added to by `backward`."""

    density: np.ndarray
    features: np.ndarray
    sky: np.ndarray


@compiled
def forward(volume, steps, batch, touched, out, start, end):
    """Render the training rays ``start..end`` into ``out`` (`Composed`), keep their samples for `backward`, and note in
    ``touched`` (B,) which blocks they met."""
    samples, length = batch.samples, batch.length
    for r in range(start, end):
        ray = one_ray(volume, batch.rays, r)
        kept = Kept(samples.cell[r], samples.place[r], samples.weight[r], samples.depth[r])
        n, rest = march(volume, steps, ray, kept)
        samples.count[r] = n
        feature = out.feature[r]
        feature[:] = 0
        distance = distortion = misplaced = 0.0
        target, tolerance = batch.target[r, 0], batch.target[r, 1]
        sum_w = sum_wt = 0.0
        for i in range(n):
            cell, w = kept.cell[i], kept.weight[i, 0]
            add_feature(volume, cell, kept.place[i, 0], kept.place[i, 1], kept.place[i, 2], w, feature)
            distance += w * kept.depth[i, 0]
            along = kept.depth[i, 1] / length
            distortion += 2 * w * (along * sum_w - sum_wt) + w * w * steps.stride * volume.voxel / length / 3
            sum_w += w
            sum_wt += w * along
            if target > 0 and abs(kept.depth[i, 0] - target) > tolerance:
                misplaced += w
            if w > volume.visible[cell]:
                volume.visible[cell] = w
            _touch(volume, cell, touched)
        add_sky(volume.sky, ray.dx, ray.dy, ray.dz, np.float32(rest), feature)
        out.scalar[r, 0], out.scalar[r, 1], out.scalar[r, 2] = 1 - rest, distance, distortion
        out.scalar[r, 3] = misplaced + (rest if target > 0 else 0.0)


@inlined
def _touch(volume, cell, touched):
    """Note the blocks that a cell has corners in."""
    block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
    for q in range(8):
        if (x == 3 or q < 4) and (y == 3 or (q & 2) == 0) and (z == 3 or (q & 1) == 0):
            touched[volume.neighbours[block, q]] = 1


@compiled
def backward(volume, steps, batch, rest, given, gradient, start, end):
    """Add the gradients of rays ``start..end`` of `forward` to ``gradient`` (`GridGradient`).

    rest (R,): transmittance left behind each; given: gradients of `Composed`. Threads add without locks: two rays seldom
    meet in one voxel at the same time, and a lost addition is one ray's worth of noise.
    """
    samples = batch.samples
    gains = np.empty(samples.cell.shape[1], np.float32)
    sky = np.zeros(FEATURES, np.float32)
    for r in range(start, end):
        _gains(volume, steps, batch, given, r, gains)
        direction = batch.rays.directions[r]
        dx, dy, dz = direction[0], direction[1], direction[2]
        sky[:] = 0
        add_sky(volume.sky, dx, dy, dz, np.float32(1), sky)
        gain = 0.0
        for c in range(FEATURES):
            gain += sky[c] * given.feature[r, c]
        if batch.target[r, 0] > 0:
            gain += given.scalar[r, 3]
        behind = rest[r] * gain
        if rest[r] > 1e-3:
            _add_to_sky(dx, dy, dz, rest[r], given.feature[r], gradient.sky)
        for i in range(samples.count[r] - 1, -1, -1):
            w = samples.weight[r, i, 0]
            density = np.float32((samples.weight[r, i, 1] * gains[i] - behind) * samples.weight[r, i, 2])
            behind += w * gains[i]
            _add_to_cell(volume, samples.cell[r, i], samples.place[r, i], density, w, given.feature[r], gradient)


@compiled
def _gains(volume, steps, batch, given, r, gains):
    """d loss / d weight of each of a ray's samples, into ``gains`` (S,)."""
    samples, length = batch.samples, batch.length
    colour = np.zeros(FEATURES, np.float32)
    n, target, tolerance = samples.count[r], batch.target[r, 0], batch.target[r, 1]
    sum_w = sum_wt = 0.0
    for i in range(n):
        sum_w += samples.weight[r, i, 0]
        sum_wt += samples.weight[r, i, 0] * samples.depth[r, i, 1] / length
    before_w = before_wt = 0.0
    for i in range(n):
        colour[:] = 0
        place = samples.place[r, i]
        add_feature(volume, samples.cell[r, i], place[0], place[1], place[2], np.float32(1), colour)
        gain = given.scalar[r, 0] + given.scalar[r, 1] * samples.depth[r, i, 0]
        for c in range(FEATURES):
            gain += colour[c] * given.feature[r, c]
        w, along = samples.weight[r, i, 0], samples.depth[r, i, 1] / length
        after_w, after_wt = sum_w - before_w - w, sum_wt - before_wt - w * along
        spread = 2 * (along * before_w - before_wt + after_wt - along * after_w)
        gain += given.scalar[r, 2] * (spread + 2 * w * steps.stride * volume.voxel / length / 3)
        before_w += w
        before_wt += w * along
        if target > 0 and abs(samples.depth[r, i, 0] - target) > tolerance:
            gain += given.scalar[r, 3]
        gains[i] = gain


@inlined
def _add_to_sky(dx, dy, dz, rest, feature, sky):
    u, v, fu, fv = sky_cell(dx, dy, dz)
    for k in range(4):
        i, j = k >> 1, k & 1
        w = rest * (fv if i else np.float32(1) - fv) * (fu if j else np.float32(1) - fu)
        row, column = min(SKY_HEIGHT - 1, max(0, v + i)), (u + j) % SKY_WIDTH
        for c in range(FEATURES):
            sky[row, column, c] += w * feature[c]


@inlined
def _add_to_cell(volume, cell, place, density, weight, feature, gradient):
    """Spread a sample's gradients over the eight corners of its cell."""
    fx, fy, fz = place[0], place[1], place[2]
    block, x, y, z = cell >> 6, (cell >> 4) & 3, (cell >> 2) & 3, cell & 3
    for k in range(8):
        a, b, c = k >> 2, (k >> 1) & 1, k & 1
        part = (fx if a else np.float32(1) - fx) * (fy if b else np.float32(1) - fy) * (fz if c else np.float32(1) - fz)
        voxel = corner(volume.neighbours, block, x + a, y + b, z + c)
        gradient.density[voxel] += part * density
        share = part * weight
        for f in range(FEATURES):
            gradient.features[voxel, f] += share * feature[f]
