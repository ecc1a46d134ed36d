"""The sparse voxel grid of the grid field: density and features in blocks of 4x4x4 voxels, only where there is matter.

A core box has cubic voxels; the rest of the world is squeezed into a shell around it (as in mip-NeRF 360,
arXiv 2111.12077, with the maximum norm). Behind everything lies a small equirectangular sky.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from omniad_ros.reference.compiled import parallel
from omniad_ros.reference.space import Cameras, Space, contracted, expanded, view_count
from omniad_ros.reference.updates import alive_blocks, count_free, occupy, resample
from omniad_ros.reference.voxels import BLOCK, FEATURES, SKY_HEIGHT, SKY_WIDTH, VOXELS, Volume

SHELL = 0.5
PARTS = 8
"""Coverage is known for each eighth of a block."""
STRIDE = 0.75
"""Samples are this many voxels apart along a ray."""
SHIFT = math.log(math.expm1(2e-4))
"""Added to the raw density before softplus, so that raw 0 is transparent (DVGO, arXiv 2111.11215)."""

CARVED = -10.0
"""Raw density where there is surely nothing."""


class Grid:
    """center, half (3,): the core box; shell: width of the outer shell relative to the box; voxel: size of a voxel;
    scale: optical depth a metre of unit density; table (X, Y, Z) int32: block at each place, 0 where there is none;
    density (B * 64,), features (B * 64, C), sky: the learnt values; occupied (B * 64,) uint8: cells worth sampling;
    visible (B * 64,): greatest weight of each cell in recent renderings;
    views (B, 8) uint8 and along (B, 8) uint32: what `coverage.examine` found.
    """

    def __init__(self, center, half, voxel: float, scale: float, table: np.ndarray, sky: np.ndarray | None = None):
        self.center, self.half = np.asarray(center, np.float64), np.asarray(half, np.float64)
        self.voxel, self.scale, self.table = float(voxel), float(scale), table
        count = int(table.max(initial=0)) + 1
        self.density = np.zeros(count * VOXELS, np.float32)
        self.features = np.zeros((count * VOXELS, FEATURES), np.float32)
        self.sky = np.zeros((SKY_HEIGHT, SKY_WIDTH, FEATURES), np.float32) if sky is None else sky
        self.sky[..., :3] = 0.5 if sky is None else sky[..., :3]
        self.features[:, :3] = 0.5
        self.occupied = np.ones(count * VOXELS, np.uint8)
        self.visible = np.zeros(count * VOXELS, np.float32)
        self.views = np.zeros((count, PARTS), np.uint8)
        self.along = np.zeros((count, PARTS), np.uint32)
        self.positions = block_positions(table)
        self.neighbours = _neighbours(table, self.positions)
        self.coarse = _coarse(table)

    def __len__(self) -> int:
        return len(self.positions)

    @staticmethod
    def create(space: Space, voxel: float, finest: float, cameras: Cameras) -> Grid:
        """A transparent grid that covers all space that enough cameras see."""
        table = _allowed(space, voxel, cameras, np.ones(table_shape(space.half, voxel), bool))
        return Grid(space.center, space.half, voxel, 1.0 / finest, table)

    def refined(self, space: Space, voxel: float, cameras: Cameras, weight: float, most_blocks: int) -> Grid:
        """A finer grid where this one is visible, filled from it; coarser than ``voxel`` where it would be too large;
        itself where nothing is visible yet."""
        while True:
            keep = np.zeros(table_shape(self.half, voxel), bool)
            alive_blocks(self.volume(), self.positions, weight, self.voxel / voxel, keep)
            wanted = int(keep.sum())
            if wanted <= 1.3 * most_blocks:
                table = _allowed(space, voxel, cameras, keep)
                wanted = int(table.max(initial=0))
            if wanted <= most_blocks:
                break
            voxel *= max(1.02, min(1.5, (wanted / most_blocks) ** 0.4))
        if wanted == 0:
            return self
        grid = Grid(self.center, self.half, voxel, self.scale, table, self.sky)
        grid.density[:] = 0
        grid.features[:] = 0
        parallel(partial(resample, self.volume(), grid.volume(), grid.positions), len(grid), 512)
        grid.occupy(1e-3)
        return grid

    def occupy(self, alpha: float) -> None:
        """Skip cells that are more transparent than ``alpha`` a sample from now on."""
        parallel(partial(occupy, self.volume(), self.raw_density(alpha)), len(self), 2048)

    def raw_density(self, alpha: float) -> float:
        """The raw density of which a sample has this opacity."""
        thickness = self.scale * STRIDE * self.voxel
        return math.log(math.expm1(min(30.0, -math.log1p(-alpha) / thickness))) - SHIFT

    def clear(self, positions: np.ndarray, radius: float) -> None:
        """Empty the balls around the cameras: the robot was there."""
        from scipy.spatial import cKDTree

        tree = cKDTree(positions)
        blocks = np.flatnonzero(tree.query(self.block_centers())[0] < radius + 2 * math.sqrt(3) * self.voxel)
        local = np.stack(np.meshgrid(*[np.arange(BLOCK)] * 3, indexing="ij"), -1).reshape(-1, 3)
        places = (self.positions[blocks][:, None] * BLOCK + local) * self.voxel - (1 + SHELL) * self.half
        voxels = self.center + expanded(places.reshape(-1, 3), self.half, SHELL)
        inside = tree.query(voxels)[0] < radius
        self.density[(blocks[:, None] * VOXELS + np.arange(VOXELS)).reshape(-1)[inside]] = CARVED

    def carve(self, origins: np.ndarray, targets: np.ndarray, lines: int = 3) -> None:
        """Empty the voxels that sight lines (K, 3) to triangulated points pass: at least ``lines`` of them, and no point near."""
        if not len(origins):
            return
        free = np.zeros(len(self.density), np.uint16)
        count_free(self.volume(), origins - self.center, targets - self.center, 2 * self.voxel, free)
        free[self._around(targets)] = 0
        self.density[free >= lines] = CARVED

    def seed(self, xyz: np.ndarray, rgb: np.ndarray, alpha: float = 0.3) -> None:
        """Begin with matter of the right colour at triangulated points (P, 3), rgb (P, 3) in [0, 1]."""
        near = self._around(xyz).reshape(27, -1)
        self.density[near[near > 0]] = self.raw_density(alpha)
        for voxels in near:
            self.features[voxels, :3] = rgb

    def _around(self, xyz: np.ndarray) -> np.ndarray:
        """(27 * P,) voxels at and around points; 0 where there is no block."""
        place = (contracted(xyz - self.center, self.half, SHELL) + (1 + SHELL) * self.half) / self.voxel
        steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 1, 3)
        place = np.clip(np.rint(place)[None].astype(int) + steps, 0, np.array(self.table.shape) * BLOCK - 1).reshape(
            -1, 3
        )
        block = self.table[tuple((place // BLOCK).T)]
        x, y, z = (place % BLOCK).T
        return np.where(block > 0, block * VOXELS + (x * 4 + y) * 4 + z, 0)

    def volume(self) -> Volume:
        return Volume(
            self.center, self.half, SHELL, self.voxel, self.scale, SHIFT, self.table, self.coarse, self.neighbours,
            self.occupied, self.visible, self.density, self.features, self.sky,
        )  # fmt: skip

    def block_centers(self) -> np.ndarray:
        """(B, 3) centre of each block in the map."""
        return self.center + expanded(_centers(self.positions, self.half, self.voxel), self.half, SHELL)


def table_shape(half: np.ndarray, voxel: float) -> tuple[int, ...]:
    return tuple(int(n) for n in np.ceil(2 * (1 + SHELL) * np.asarray(half) / (voxel * BLOCK)).astype(int) + 1)


def _centers(positions: np.ndarray, half: np.ndarray, voxel: float) -> np.ndarray:
    return (positions + 0.5) * (BLOCK * voxel) - (1 + SHELL) * np.asarray(half)


def _allowed(space: Space, voxel: float, cameras: Cameras, keep: np.ndarray) -> np.ndarray:
    """Number the kept blocks that enough cameras see: three inside the core, one outside. Returns the table."""
    places = np.argwhere(keep)
    centers = _centers(places, space.half, voxel)
    outside = np.abs(centers / space.half).max(1) > 1
    count = view_count(space.center + expanded(centers, space.half, SHELL), cameras, space.near)
    places = places[count >= np.where(outside, 1, min(3, len(cameras.position)))]
    table = np.zeros(keep.shape, np.int32)
    table[tuple(places.T)] = np.arange(1, len(places) + 1)
    return table


def block_positions(table: np.ndarray) -> np.ndarray:
    """(B, 3) int32 place of each block in the table; row 0 belongs to the empty block."""
    places = np.argwhere(table > 0)
    positions = np.zeros((len(places) + 1, 3), np.int32)
    positions[table[tuple(places.T)]] = places
    return positions


def _neighbours(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(B, 8) int32 blocks at +0/+1 in x, y, z."""
    padded = np.pad(table, ((0, 1), (0, 1), (0, 1)))
    offsets = np.array([[k >> 2, (k >> 1) & 1, k & 1] for k in range(8)])
    places = positions[:, None] + offsets
    neighbours = padded[places[..., 0], places[..., 1], places[..., 2]].astype(np.int32)
    neighbours[0] = 0
    return neighbours


def _coarse(table: np.ndarray) -> np.ndarray:
    """uint8: which cubes of 4x4x4 blocks hold any."""
    pad = [(0, -n % 4) for n in table.shape]
    filled = np.pad(table > 0, pad)
    x, y, z = (n // 4 for n in filled.shape)
    return filled.reshape(x, 4, y, 4, z, 4).any(axis=(1, 3, 5)).astype(np.uint8)
