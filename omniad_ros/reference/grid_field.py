"""A trained grid field on disk and at inspection time: numpy and numba only, so that a node starts quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from omniad_ros.core.arrays import Expected, read_arrays
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_atomically, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.compiled import parallel
from omniad_ros.reference.coverage import seen
from omniad_ros.reference.field import Rendering
from omniad_ros.reference.grid import PARTS, STRIDE, Grid, table_shape
from omniad_ros.reference.marching import Rays, Rendered, Steps, render
from omniad_ros.reference.shading import DIRECTION, HIDDEN, shade
from omniad_ros.reference.voxels import FEATURES, SKY_HEIGHT, SKY_WIDTH, VOXELS

CHUNK = 1024
STEPS = Steps(STRIDE, floor=1e-3, stop=1e-2)
COVERED_OPACITY, COVERED_SPREAD = 0.7, 0.05
"""A pixel is covered where the ray is this opaque, its surface this well placed (relative to the distance), and `seen`."""

VERSION = 3
"""To be raised with every change of the kernels' constants: the same numbers would render another picture."""


MOST_PLACES = 1 << 27
"""Of a field's table, 512 MB: a hall of 200 m at 5 cm takes a tenth."""
SAMPLE_DEPTH = 1e-3, 1e3
"""Optical depths of a voxel of unit density between which a field is: those that are trained lie at about 1."""
Length = Annotated[float, msgspec.Meta(gt=1e-6, lt=1e6)]
Place = Annotated[float, msgspec.Meta(gt=-1e7, lt=1e7)]


_WEIGHTS = {
    "positions": Expected("i2", ("blocks", 3)), "kept": Expected("u1", ("bits",)), "density": Expected("f2", ("kept voxels",)),
    "features": Expected("u1", ("kept voxels", FEATURES)), "feature_low": Expected("f4", (FEATURES,)),
    "feature_step": Expected("f4", (FEATURES,)), "views": Expected("u1", ("blocks and none", PARTS)),
    "along": Expected("u4", ("blocks and none", PARTS)), "sky": Expected("f4", (SKY_HEIGHT, SKY_WIDTH, FEATURES)),
    "shader.0.weight": Expected("f4", (HIDDEN, FEATURES + DIRECTION)), "shader.0.bias": Expected("f4", (HIDDEN,)),
    "shader.2.weight": Expected("f4", (3, HIDDEN)), "shader.2.bias": Expected("f4", (3,)),
}  # fmt: skip
"""What `GridField.save` writes."""


class _Version(msgspec.Struct):
    version: int


class _FieldFile(msgspec.Struct):
    """field.json; what else a build noted there is passed over."""

    center: tuple[Place, Place, Place]
    half: tuple[Length, Length, Length]
    voxel: Length
    scale: Length
    table: tuple[int, int, int]
    near: Annotated[float, msgspec.Meta(ge=0, lt=1e4)]

    def check(self, file: Path) -> None:
        """Raise OmniadError where the numbers do not fit each other: rays would take steps without end."""
        expected = table_shape(np.array(self.half), self.voxel)
        if not np.array_equal(self.table, expected):
            raise OmniadError(
                f"{file} is damaged: its table, half and voxel do not fit each other; build the site again"
            )
        if math.prod(self.table) > MOST_PLACES or not SAMPLE_DEPTH[0] < self.scale * self.voxel < SAMPLE_DEPTH[1]:
            raise OmniadError(f"{file} is damaged: no field has a voxel of {self.voxel:g} m; build the site again")


@dataclass(frozen=True, eq=False)
class Hits:
    """What R rays end at: colour (R, 3) in [0, 1]; cell (R,) of the grid at the median, 0 where there is none; opacity (R,);
    distance (R,), the median in metres; spread (R,) of the weights around it, relative to it."""

    colour: np.ndarray
    cell: np.ndarray
    opacity: np.ndarray
    distance: np.ndarray
    spread: np.ndarray


class GridField:
    """Renders a `Grid` with its shader. ``near``: distance at which rays begin, in metres; steps: the lowest feature and the step to the
    next (C,) each, with which it was stored, so that it is stored again as it was; None where it never was."""

    def __init__(
        self, grid: Grid, shader: dict[str, np.ndarray], near: float, steps: tuple[np.ndarray, np.ndarray] | None = None
    ):
        self.grid, self.shader, self.near, self.steps = grid, shader, near, steps

    def rays(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """What rays from ``origins`` along unit ``directions``, both float32 (R, 3) in the map, end at."""
        count = len(origins)
        out = Rendered(
            np.empty((count, FEATURES), np.float32), np.empty((count, 3), np.float32), np.empty(count, np.int32)
        )
        colour = np.empty((count, 3), np.float32)
        volume, rays = self.grid.volume(), Rays(origins, directions, np.full(count, self.near), np.full(count, 0.5))

        def chunk(start, end):
            render(volume, STEPS, rays, out, start, end)
            colour[start:end] = shade(out.feature[start:end], directions[start:end], self.shader)

        parallel(chunk, count, CHUNK)
        return Hits(colour, out.cell, *out.scalar.T)

    def render(self, camera: Camera, pose: Pose) -> Rendering:
        """See `Field.render`."""
        local = camera.directions().reshape(-1, 3)
        length = np.linalg.norm(local, axis=1)
        directions = np.ascontiguousarray((local / length[:, None]) @ pose.rotation.T, np.float32)
        origins = np.ascontiguousarray(np.broadcast_to(pose.translation, directions.shape), np.float32)
        hits = self.rays(origins, directions)
        solid = (hits.opacity > COVERED_OPACITY) & (hits.spread < COVERED_SPREAD)
        covered = solid & seen(self.grid, hits.cell, directions)
        depth = np.where(covered, hits.distance / length, np.nan).astype(np.float32)
        shape = (camera.height, camera.width)
        return Rendering((hits.colour * 255 + 0.5).astype(np.uint8).reshape(*shape, 3), depth.reshape(shape))

    def save(self, directory: Path, info: dict) -> None:
        """Write field.json and weights.safetensors; only voxels that a rendering can touch are kept, as float16 and bytes."""
        from safetensors.numpy import save

        grid = self.grid
        kept = _used_voxels(grid)
        tensors = {
            "positions": grid.positions[1:].astype(np.int16), "kept": np.packbits(kept),
            "density": grid.density[kept].astype(np.float16), "views": grid.views, "along": grid.along, "sky": grid.sky,
            **_quantized(grid.features[kept], self.steps), **self.shader,
        }  # fmt: skip
        write_atomically(
            directory / "weights.safetensors", save({k: np.ascontiguousarray(v) for k, v in tensors.items()})
        )
        write_json(directory / "field.json", {
            "method": "grid-field", "version": VERSION, "center": grid.center.tolist(), "half": grid.half.tolist(), "voxel": grid.voxel,
            "scale": grid.scale, "table": list(grid.table.shape), "near": self.near, **info,
        })  # fmt: skip

    @staticmethod
    def load(directory: Path) -> GridField:
        """Raises OmniadError where the files are not a grid field."""
        weights = directory / "weights.safetensors"
        try:
            file = directory / "field.json"
            if read_json(file, _Version).version != VERSION:
                raise OmniadError(
                    f"{directory} holds a grid field of another version of omniad_ros; build the site again"
                )
            info = read_json(file, _FieldFile)
            info.check(file)
            tensors = read_arrays(weights, _WEIGHTS)
            positions = tensors["positions"].astype(np.int64)
            table = np.zeros(info.table, np.int32)
            if (positions < 0).any() or (positions >= info.table).any():
                raise OmniadError(f"{weights} has blocks outside the field; build the site again")
            table[tuple(positions.T)] = np.arange(1, len(positions) + 1)
            blocks = np.count_nonzero(table) + 1
            if not len(positions) + 1 == blocks == len(tensors["views"]):
                raise OmniadError(f"{weights} does not say of each block once where it is; build the site again")
            grid = Grid(info.center, info.half, info.voxel, info.scale, table, tensors["sky"])
            kept = np.unpackbits(tensors["kept"], count=blocks * VOXELS).astype(bool)
            if np.count_nonzero(kept) != len(tensors["density"]):
                raise OmniadError(f"{weights} has densities of other voxels than it keeps; build the site again")
            grid.density[kept] = tensors["density"]
            grid.features[kept] = tensors["features"] * tensors["feature_step"] + tensors["feature_low"]
            grid.views, grid.along = tensors["views"], tensors["along"]
            grid.occupy(1e-3)
            shader = {name: tensor for name, tensor in tensors.items() if name.startswith("shader.")}
            return GridField(grid, shader, info.near, (tensors["feature_low"], tensors["feature_step"]))
        except OmniadError:
            raise
        except Exception as error:
            raise OmniadError(
                f"{directory} holds no grid field that can be read ({error}); build the site again"
            ) from error


def _quantized(features: np.ndarray, steps: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Features (n, C) as bytes, in given steps, or in those between their outermost 0.1 percentiles."""
    if steps is None:
        low, high = np.percentile(features, [0.1, 99.9], axis=0) if len(features) else np.zeros((2, FEATURES))
        steps = low, np.maximum(high - low, 1e-6) / 255
    low, step = steps
    scaled = np.clip(np.rint((features - low) / step), 0, 255).astype(np.uint8)
    return {"features": scaled, "feature_low": low.astype(np.float32), "feature_step": step.astype(np.float32)}


def _used_voxels(grid: Grid) -> np.ndarray:
    """(B * 64,) bool: the voxels at the corners of occupied cells."""
    cells = np.flatnonzero(grid.occupied.astype(bool) & (np.arange(len(grid.occupied)) >= VOXELS))
    block, x, y, z = cells >> 6, (cells >> 4) & 3, (cells >> 2) & 3, cells & 3
    kept = np.zeros(len(grid.occupied), bool)
    for k in range(8):
        a, b, c = x + (k >> 2), y + ((k >> 1) & 1), z + (k & 1)
        owner = grid.neighbours[block, (a >> 2) * 4 + (b >> 2) * 2 + (c >> 2)].astype(np.int64)
        kept[owner * 64 + ((a & 3) * 4 + (b & 3)) * 4 + (c & 3)] = True
    kept[:VOXELS] = False
    return kept
