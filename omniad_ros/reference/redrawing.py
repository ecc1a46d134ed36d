"""Compiled passes that carry photographs and their depths over to another view.

Shapes: a view of (h, w) pixels, S photographs of (H, W) pixels; depths in metres, NaN where unknown.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from omniad_ros.reference.compiled import compiled_with_nan, inlined_with_nan
from omniad_ros.reference.visibility import PAST, SURFACE, project, sees

LEAST_DEPTH = 1e-2
"""Metres before a camera from which it sees anything."""


class Sight(NamedTuple):
    """What a view looks at: depth (h, w), and rays (h, w, 3) in the map's axes, whose component along the optical axis is 1."""

    depth: np.ndarray
    rays: np.ndarray


class Source(NamedTuple):
    """A photograph beside a view: intrinsics fx fy cx cy; turn (3, 3) map_from_photograph; shift (3,) from the photograph to
    the view, in the map's axes; depth (H, W)."""

    intrinsics: tuple[float, float, float, float]
    turn: np.ndarray
    shift: np.ndarray
    depth: np.ndarray


class Sums(NamedTuple):
    """What photographs add up to: colour (h, w, 3) and weight (h, w), float32; count (h, w) of photographs and false_alarm
    (h, w), the highest of theirs, uint8."""

    colour: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    false_alarm: np.ndarray

    @staticmethod
    def zero(height: int, width: int) -> Sums:
        maps = np.zeros((2, height, width), np.uint8)
        return Sums(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32), maps[0], maps[1])


class Warp(NamedTuple):
    """From photographs to a view: the intrinsics fx fy cx cy of both; turns (S, 3, 3) and shifts (S, 3), view_from_photograph."""

    source: tuple[float, float, float, float]
    target: tuple[float, float, float, float]
    turns: np.ndarray
    shifts: np.ndarray


@compiled_with_nan
def weigh(sight, source, tolerance, pixels, weight):
    """Where a photograph shows what a view looks at, and how much it is to count there, by angle and distance; 0 where it does
    not see it. Fills pixels (2, h, w), columns and rows with pixel centres at integers, and weight (h, w)."""
    depth, rays, turn, shift = sight.depth, sight.rays, source.turn, source.shift
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            pixels[0, i, j] = pixels[1, i, j] = -1.0
            weight[i, j] = 0.0
            d = depth[i, j]
            if not d > 0:
                continue
            ax, ay, az = rays[i, j, 0] * d, rays[i, j, 1] * d, rays[i, j, 2] * d
            bx, by, bz = ax + shift[0], ay + shift[1], az + shift[2]
            z = turn[0, 2] * bx + turn[1, 2] * by + turn[2, 2] * bz
            if z < LEAST_DEPTH:
                continue
            x, y = (
                turn[0, 0] * bx + turn[1, 0] * by + turn[2, 0] * bz,
                turn[0, 1] * bx + turn[1, 1] * by + turn[2, 1] * bz,
            )
            u, v = project(source.intrinsics, x, y, z)
            pixels[0, i, j], pixels[1, i, j] = u, v
            if sees(source.depth, u, v, z, tolerance) != SURFACE:
                continue
            distance, there = math.sqrt(ax * ax + ay * ay + az * az), math.sqrt(bx * bx + by * by + bz * bz)
            cosine = (ax * bx + ay * by + az * bz) / max(distance * there, 1e-9)
            coarser = max(there / max(distance, 1e-9), 1.0)
            # from another side a surface shines otherwise, from farther away it is coarser
            weight[i, j] = 1.0 / (1e-3 + 2.0 * min(max(1.0 - cosine, 0.0), 2.0) * coarser * coarser)


@compiled_with_nan
def blend(reference, seen, raised, own, most_gain, sums):
    """Add a photograph's colours ``seen`` (h, w, 3) and its false alarms ``raised`` (h, w) where its weight ``own`` (h, w) is
    above 0.

    The photographs' exposures may differ; the field's ``reference`` (h, w, 3) has one for all, which they are brought to, by
    a factor of ``most_gain`` at most.
    """
    gain = np.empty(3, np.float32)
    for c in range(3):
        mine, theirs, pixels = 0.0, 0.0, 1
        for i in range(own.shape[0]):
            for j in range(own.shape[1]):
                if own[i, j] > 0:
                    mine, theirs, pixels = mine + reference[i, j, c], theirs + seen[i, j, c], pixels + 1
        gain[c] = min(max((mine / pixels + 1) / (theirs / pixels + 1), 1.0 / most_gain), most_gain)
    for i in range(own.shape[0]):
        for j in range(own.shape[1]):
            if own[i, j] > 0:
                for c in range(3):
                    sums.colour[i, j, c] += own[i, j] * gain[c] * seen[i, j, c]
                sums.weight[i, j] += own[i, j]
                sums.count[i, j] += 1
                sums.false_alarm[i, j] = max(sums.false_alarm[i, j], raised[i, j])


@compiled_with_nan
def draw(sums, out):
    """Put the mean colours into ``out`` uint8 (h, w, 3) where there is any weight."""
    colour, weight = sums.colour, sums.weight
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if weight[i, j] > 0:
                for c in range(3):
                    out[i, j, c] = np.uint8(min(max(colour[i, j, c] / weight[i, j] + np.float32(0.5), 0), 255))


@compiled_with_nan
def carry_depth(depth, warp, index, out):
    """Draw the depth (H, W) of the photograph ``index`` of a `Warp` as the view has it into ``out`` (h, w), infinite where
    nothing falls."""
    out[:] = np.inf
    height, width = out.shape
    turn, shift, source = warp.turns[index], warp.shifts[index], warp.source
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            d = depth[i, j]
            if not d > 0:
                continue
            x, y = (j + 0.5 - source[2]) / source[0] * d, (i + 0.5 - source[3]) / source[1] * d
            z = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * d + shift[2]
            if z < LEAST_DEPTH:
                continue
            u, v = project(
                warp.target,
                turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * d + shift[0],
                turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * d + shift[1],
                z,
            )
            if u < -1 or v < -1 or u >= width or v >= height:
                continue
            row, column = math.floor(v), math.floor(u)
            for k in range(max(row, 0), min(row + 2, height)):
                for m in range(max(column, 0), min(column + 2, width)):
                    out[k, m] = min(out[k, m], z)


@compiled_with_nan
def agreed_depth(depth, carried, depths, warp, tolerance):
    """``depth`` (h, w), but the nearest on which two of ``carried`` (S, h, w) agree where it is unknown, or where two of the
    photographs' ``depths`` (S, H, W) see past it and fewer than two see it."""
    result = depth.copy()
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            d = depth[i, j]
            if d > 0:
                seen = 0
                for s in range(carried.shape[0]):
                    seen += abs(carried[s, i, j] - d) < tolerance.relative * d
                if seen >= 2 or _passing(i, j, d, depths, warp, tolerance) < 2:
                    continue
            agreed = _nearest_agreed(carried[:, i, j], tolerance)
            if agreed < np.inf:
                result[i, j] = agreed
    return result


@inlined_with_nan
def _passing(i, j, d, depths, warp, tolerance):
    """How many photographs see past what the view has at ``d`` metres in row i, column j."""
    target, past = warp.target, 0
    x, y = (j + 0.5 - target[2]) / target[0] * d, (i + 0.5 - target[3]) / target[1] * d
    for s in range(depths.shape[0]):
        turn, shift = warp.turns[s], warp.shifts[s]
        a, b, c = x - shift[0], y - shift[1], d - shift[2]
        z = turn[0, 2] * a + turn[1, 2] * b + turn[2, 2] * c
        if z < LEAST_DEPTH:
            continue
        across = turn[0, 0] * a + turn[1, 0] * b + turn[2, 0] * c
        down = turn[0, 1] * a + turn[1, 1] * b + turn[2, 1] * c
        u, v = project(warp.source, across, down, z)
        past += sees(depths[s], u, v, z, tolerance) == PAST
    return past


@inlined_with_nan
def _nearest_agreed(depths, tolerance):
    """The nearest of the depths (S,) beside which another lies; infinite where there is none."""
    best = np.inf
    for s in range(depths.shape[0]):
        if depths[s] >= best:
            continue
        for t in range(depths.shape[0]):
            if t != s and depths[s] <= depths[t] <= depths[s] * (1 + tolerance.relative):
                best = depths[s]
                break
    return best
