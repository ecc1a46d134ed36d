"""Trains a grid field again where its place has changed, and nowhere else: all other voxels stay what they are, bit for bit.

The finest grid is trained at once, from thin fog: what there is to learn is small, and new points of the map say where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omniad_ros.core.feedback import Progress, quiet
from omniad_ros.core.geometry import Box, Camera, Pose
from omniad_ros.core.images import resized, resized_map
from omniad_ros.reference.coverage import seen_by
from omniad_ros.reference.grid import SHELL, Grid
from omniad_ros.reference.grid_field import GridField
from omniad_ros.reference.marching import Rays
from omniad_ros.reference.model import GridModule, March, SparseAdam
from omniad_ros.reference.photographs import shows
from omniad_ros.reference.shading import harmonics
from omniad_ros.reference.space import contracted
from omniad_ros.reference.trainer import seeded
from omniad_ros.reference.voxels import BLOCK, VOXELS

MEASURED_SIDE = 80
"""Pixels of the longer side at which exposures are compared."""


@dataclass(frozen=True)
class RelearnOptions:
    """steps, rays: of the training, rays a step; rate, last_rate: of Adam, the first and the last; fog, most: opacity a sample that
    empty and solid voxels begin with, so that either can become the other; margin: voxels around what has changed; faint: weight
    below which a voxel is emptied at the end; opacity, distortion: weights of the losses of these names, as in `GridFieldModelConfig`."""

    steps: int = 300
    rays: int = 4096
    rate: float = 0.3
    last_rate: float = 0.02
    fog: float = 0.01
    most: float = 0.5
    margin: float = 2.0
    faint: float = 0.003
    opacity: float = 0.01
    distortion: float = 0.03
    lines: int = 2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Shot:
    """A photograph of the place as it is now: image uint8 RGB (h, w, 3); pose: ``map_from_camera``; usable: bool (h, w), the pixels that
    show what is normal."""

    image: np.ndarray
    pose: Pose
    usable: np.ndarray


@dataclass(frozen=True, eq=False)
class NewPoints:
    """Triangulated points that are new: xyz (P, 3) and rgb (P, 3) in [0, 1]; origins, targets (K, 3): sight lines to points that are
    seen, new ones and old ones."""

    xyz: np.ndarray
    rgb: np.ndarray
    origins: np.ndarray
    targets: np.ndarray


def relearn(
    field: GridField, camera: Camera, shots: Sequence[Shot], points: NewPoints, changed: Sequence[Box],
    progress: Progress = quiet, options: RelearnOptions | None = None,
) -> GridField:  # fmt: skip
    """The field with the boxes ``changed`` learnt from the shots, which are all of ``camera``. What lies there counts as seen by the
    shots alone."""
    options = options or RelearnOptions()
    grown = [box.grown(options.margin * field.grid.voxel) for box in changed]
    grid, region = _with_room(field.grid, grown)
    new = GridField(grid, field.shader, field.near, field.steps)
    if region.any():
        _prepare(grid, region, points, options)
        with seeded(options.seed):
            _train(new, camera, shots, grown, region, progress, options)
    progress(0.9, "counting the views of each surface")
    half = camera.resized(max(1, camera.width // 2), max(1, camera.height // 2))
    usable = [resized_map(s.usable, half.width, half.height) for s in shots]
    views, along = seen_by(new, half, [s.pose for s in shots], usable)
    grid.views[region], grid.along[region] = views[region], along[region]
    return new


def _with_room(old: Grid, boxes: Sequence[Box]) -> tuple[Grid, np.ndarray]:
    """A grid with blocks wherever the boxes are, and bool (B,) which blocks those are; the blocks that there were keep their numbers."""
    table, places = old.table.copy(), []
    for box in boxes:
        side = np.maximum(box.high - box.low, 1e-9)
        step = max(0.5 * BLOCK * old.voxel, float(side.max()) / 128)  # far out a block is larger than it is here
        axes = [np.linspace(a, b, int(np.ceil((b - a) / step)) + 1) for a, b in zip(box.low, box.high, strict=True)]
        inside = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        place = (contracted(inside - old.center, old.half, SHELL) + (1 + SHELL) * old.half) / (BLOCK * old.voxel)
        places.append(np.clip(place.astype(int), 0, np.array(table.shape) - 1))
    region = np.unique(np.concatenate(places), axis=0) if places else np.zeros((0, 3), int)
    missing = region[table[tuple(region.T)] == 0]
    table[tuple(missing.T)] = np.arange(len(old), len(old) + len(missing))
    grid = Grid(old.center, old.half, old.voxel, old.scale, table, old.sky.copy())
    count = len(old) * VOXELS
    grid.density[:count], grid.features[:count] = old.density, old.features
    grid.views[: len(old)], grid.along[: len(old)] = old.views, old.along
    inside = np.zeros(len(grid), bool)
    inside[table[tuple(region.T)]] = True
    grid.occupy(1e-3)
    return grid, inside


def _prepare(grid: Grid, region: np.ndarray, points: NewPoints, options: RelearnOptions) -> None:
    """Let the region's voxels be undecided, but where points say what is there, or that nothing is."""
    outside = ~np.repeat(region, VOXELS)
    before, features = grid.density.copy(), grid.features.copy()
    np.clip(grid.density, grid.raw_density(options.fog), grid.raw_density(options.most), out=grid.density)
    if len(points.xyz):
        grid.seed(points.xyz, points.rgb)
    grid.carve(points.origins, points.targets, options.lines)
    grid.density[outside], grid.features[outside] = before[outside], features[outside]
    grid.occupy(1e-3)


def _train(field, camera, shots, boxes, region, progress, options) -> None:
    grid = field.grid
    origins, directions, colours = _rays_through(field, camera, shots, boxes)
    if not len(origins):
        return
    module = GridModule(grid, camera.fx / grid.scale)  # a voxel is about a pixel at the typical distance
    shader = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in field.shader.items()}
    adam = SparseAdam([module.density, module.features], lr=options.rate, eps=1e-9)
    still, random = ~region, np.random.default_rng(options.seed)
    for step in range(options.steps):
        chosen = random.integers(0, len(origins), options.rays)
        rays = Rays(
            origins[chosen], directions[chosen], np.full(options.rays, 2 * field.near, np.float32),
            random.random(options.rays, np.float32),
        )  # fmt: skip
        target = np.zeros((options.rays, 2), np.float32)
        feature, scalar = March.apply(module.density, module.features, module.sky, module, rays, target, 3e-4)
        encoded = torch.stack(harmonics(torch.from_numpy(rays.directions)), 1)
        hidden = torch.relu(torch.cat([feature, encoded], 1) @ shader["shader.0.weight"].T + shader["shader.0.bias"])
        rgb = feature[:, :3] + hidden @ shader["shader.2.weight"].T + shader["shader.2.bias"]
        loss = torch.nn.functional.mse_loss(rgb, torch.from_numpy(colours[chosen]))
        loss = loss + options.distortion * scalar[:, 2].mean() + options.opacity * (1 - scalar[:, 0]).mean()
        loss.backward()
        module.touched[still] = 0  # what lies outside keeps its values
        adam.param_groups[0]["lr"] = options.rate * (options.last_rate / options.rate) ** (step / options.steps)
        adam.step()
        module.touched[:] = 0
        if (step + 1) % 50 == 0:
            grid.occupy(1e-3)
            grid.visible *= 0.7
        if step % 10 == 0:
            progress(
                0.9 * step / options.steps,
                f"training the field where the place changed, step {step} of {options.steps}",
            )
    within = np.repeat(region, VOXELS)
    grid.density[within & (_highest_around(grid) < options.faint)] = 0.0
    grid.occupy(1e-3)


def _highest_around(grid: Grid) -> np.ndarray:
    """(V,) how visible the cells at each voxel are, of its own block."""
    cells = grid.visible.reshape(-1, BLOCK, BLOCK, BLOCK)
    padded = np.pad(cells, ((0, 0), (1, 0), (1, 0), (1, 0)), mode="edge")
    return np.max(
        [padded[:, i : i + BLOCK, j : j + BLOCK, k : k + BLOCK] for i in (0, 1) for j in (0, 1) for k in (0, 1)], axis=0
    ).reshape(-1)


def _rays_through(field, camera, shots, boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins, unit directions and colours (R, 3) float32 of the usable pixels whose rays meet a box, in the field's exposure."""
    local = camera.directions()
    local /= np.linalg.norm(local, axis=-1, keepdims=True)
    found, nothing = [], np.full(local.shape[:2], np.nan, np.float32)
    for shot in shots:
        directions = (local @ shot.pose.rotation.T).astype(np.float32)
        met = shows(boxes, shot.pose, local, nothing)
        taken = met & shot.usable
        colours = (shot.image[taken] / 255 * _gain(field, camera, shot, shot.usable & ~met)).astype(np.float32)
        eye = np.broadcast_to(shot.pose.translation.astype(np.float32), colours.shape)
        found.append((eye, directions[taken], colours))
    if not found:
        return (np.zeros((0, 3), np.float32),) * 3
    return tuple(np.ascontiguousarray(np.concatenate(part)) for part in zip(*found, strict=True))


def _gain(field: GridField, camera: Camera, shot: Shot, compared: np.ndarray) -> np.ndarray:
    """(3,) what brings a shot to the field's exposure, by the pixels ``compared`` (h, w)."""
    small = camera.fitted(MEASURED_SIDE)
    where = resized_map(compared, small.width, small.height)
    if where.mean() < 0.1:
        return np.ones(3)
    rendered, seen = field.render(small, shot.pose).image[where], resized(shot.image, small.width, small.height)[where]
    return ((rendered.mean(0) + 1.0) / (seen.mean(0) + 1.0)).clip(0.5, 2.0)
