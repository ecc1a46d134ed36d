"""The grid field as a nerfstudio model: numba kernels inside an autograd function, a sparse Adam, coarse-to-fine stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from torch import Tensor, nn

from omniad_ros.reference.compiled import parallel
from omniad_ros.reference.gradients import Batch, Composed, GridGradient, Samples, backward, forward
from omniad_ros.reference.grid import STRIDE, Grid
from omniad_ros.reference.marching import Rays, Steps
from omniad_ros.reference.optimizing import rebind
from omniad_ros.reference.shading import DIRECTION, HIDDEN, harmonics
from omniad_ros.reference.space import Cameras, survey_space
from omniad_ros.reference.updates import AdamOptions, Learnt, adam, smooth
from omniad_ros.reference.voxels import FEATURES

CHUNK = 256
STOP = 1e-3
"""Transmittance at which a training ray ends."""
FOG = 2e-4
"""Opacity a sample below which cells are skipped at first: what begins as thin fog may yet become a surface."""


class March(torch.autograd.Function):
    """Composite rays through the grid. The grid's gradients are sparse and are added in place to its
    parameters' ``grad``; the sky's is returned."""

    @staticmethod
    def forward(ctx, density, features, sky, module, rays, target, floor):
        count, volume, steps = len(rays.origins), module.grid.volume(), Steps(STRIDE, floor, STOP)
        batch = Batch(rays, module.samples_for(count), target, module.length)
        out = Composed(np.empty((count, FEATURES), np.float32), np.empty((count, 4), np.float32))
        parallel(lambda a, b: forward(volume, steps, batch, module.touched, out, a, b), count, CHUNK)
        ctx.saved = module, volume, steps, batch, 1 - out.scalar[:, 0]
        return torch.from_numpy(out.feature), torch.from_numpy(out.scalar)

    @staticmethod
    def backward(ctx, grad_feature, grad_scalar):
        module, volume, steps, batch, rest = ctx.saved
        given = Composed(grad_feature.contiguous().numpy(), grad_scalar.contiguous().numpy())
        sky = np.zeros_like(volume.sky)
        gradient = GridGradient(module.density.grad.numpy(), module.features.grad.numpy(), sky)
        parallel(lambda a, b: backward(volume, steps, batch, rest, given, gradient, a, b), len(rest), CHUNK)
        return None, None, torch.from_numpy(sky), *(None,) * 4


class GridModule(nn.Module):
    """Holds a `Grid`'s values as parameters that share its memory."""

    def __init__(self, grid: Grid, length: float):
        super().__init__()
        self.length = length
        self.samples = None
        self.set_grid(grid)

    def set_grid(self, grid: Grid) -> None:
        self.grid = grid
        # what `_load_from_state_dict` needs to make a grid of the same shape
        self.register_buffer("positions", torch.from_numpy(grid.positions))
        self.register_buffer("visible", torch.from_numpy(grid.visible))
        self.register_buffer("occupied", torch.from_numpy(grid.occupied))
        self.register_buffer(
            "frame", torch.from_numpy(np.array([*grid.center, *grid.half, grid.voxel, grid.scale, *grid.table.shape]))
        )
        self.density, self.features, self.sky = (self._shared(a) for a in (grid.density, grid.features, grid.sky))
        self.touched = np.zeros(len(grid), np.uint8)
        self.density.touched = self.features.touched = self.touched
        self.features.rate = 0.2

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        positions, frame = state_dict[prefix + "positions"].numpy(), state_dict[prefix + "frame"].double().numpy()
        table = np.zeros(frame[8:].astype(int), np.int32)
        table[tuple(positions[1:].T)] = np.arange(1, len(positions))
        self.set_grid(Grid(frame[:3], frame[3:6], frame[6], frame[7], table))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @staticmethod
    def _shared(array: np.ndarray) -> nn.Parameter:
        parameter = nn.Parameter(torch.from_numpy(array))
        parameter.grad = torch.zeros_like(parameter)
        return parameter

    def samples_for(self, rays: int) -> Samples:
        """Memory for the samples of a batch, kept from step to step."""
        if self.samples is None or len(self.samples.count) < rays:
            self.samples = Samples.room(rays)
        return self.samples

    def smooth(self, density: float, features: float) -> None:
        """Smooth what the last batch touched."""
        for values, share in ((self.grid.density[:, None], density), (self.grid.features, features)):
            if share > 0:
                parallel(partial(smooth, self.grid.neighbours, values, self.touched, share), len(self.grid), 2048)


class SparseAdam(torch.optim.Optimizer):
    """Adam that only visits the blocks of a grid that the last batch touched (``parameter.touched``)."""

    def __init__(self, params, lr: float, eps: float, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(params, {"lr": lr, "eps": eps, "betas": betas})

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: `step` clears what it used, and gradients elsewhere are zero."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                touched = parameter.touched
                values, gradients = (t.detach().numpy().reshape(len(touched), -1) for t in (parameter, parameter.grad))
                state = self.state[parameter]
                if not state:
                    state["first"], state["second"] = torch.zeros(values.shape), torch.zeros(values.shape)
                learnt = Learnt(values, gradients, state["first"].numpy(), state["second"].numpy(), touched)
                options = AdamOptions(group["lr"] * getattr(parameter, "rate", 1.0), beta1, beta2, group["eps"])
                parallel(partial(adam, learnt, options), len(touched), 512)


@dataclass
class SparseAdamConfig(OptimizerConfig):
    """Adam for sparse grids."""

    _target: type = SparseAdam
    eps: float = 1e-9


@dataclass
class GridFieldModelConfig(ModelConfig):
    """A radiance field for CPUs: sparse voxel grid, deferred shading, coarse to fine."""

    _target: type = field(default_factory=lambda: GridFieldModel)
    enable_collider: bool = False
    voxel_pixels: float = 1.2
    """Size of the finest voxels, in pixels at the typical distance."""
    coarsest: int = 96
    """Voxels along the longest side of the core box at first."""
    milestones: tuple[float, ...] = (0.125, 0.275, 0.5)
    """Fractions of the training at which the grid is refined."""
    steps: int = 2500
    """Length of the training that ``milestones`` refer to (set to max_num_iterations by the trainer)."""
    most_blocks: int = 60000
    """Memory bound: blocks of 64 voxels."""
    distortion: float = 0.03
    """Weight of the distortion loss."""
    depth: float = 0.2
    """Weight of the loss on rays that end at a triangulated point."""
    opacity: float = 0.01
    """Weight of the loss on what shines through: without it, far walls of little texture stay holes before the sky."""
    smooth_density: float = 0.0
    smooth_features: float = 0.0
    """Share by which touched voxels move towards their neighbours after each step."""
    exposure: float = 0.05
    """Weight that pulls each photograph's exposure to the mean."""


class GridFieldModel(Model):
    """nerfstudio model; needs the metadata that `GridFieldDataManager` gives to its training dataset."""

    config: GridFieldModelConfig

    def populate_modules(self):
        super().populate_modules()
        metadata = self.kwargs["metadata"]
        self.cameras: Cameras = metadata["space_cameras"]
        self.points = metadata["space_points"]
        xyz, image, point = (self.points[key] for key in ("xyz", "image", "point"))
        self.space = survey_space(self.cameras, xyz, image, point)
        lines = slice(None) if metadata["sight_lines"] else slice(0)
        self.sight_lines = self.cameras.position[image[lines]], xyz[point[lines]]
        self.finest = self.config.voxel_pixels * self.space.footprint
        first = 2 * float(self.space.half.max()) / self.config.coarsest
        last = min(self.finest, first)
        stages = len(self.config.milestones)
        self.voxels = [first * (last / first) ** (i / stages) for i in range(stages + 1)]
        grid = Grid.create(self.space, first, self.finest, self.cameras)
        grid.seed(xyz, self.points["rgb"])
        self.empty(grid)
        grid.occupy(1e-5)
        self.field = GridModule(grid, self.space.distance)
        self.shader = nn.Sequential(nn.Linear(FEATURES + DIRECTION, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))
        nn.init.zeros_(self.shader[2].weight)
        nn.init.zeros_(self.shader[2].bias)
        self.log_exposure = nn.Parameter(torch.zeros(self.num_train_data, 3))
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))

    def empty(self, grid: Grid) -> None:
        """Remove matter where the photographs prove that there is none."""
        grid.carve(*self.sight_lines)
        grid.clear(self.cameras.position, self.space.near)

    def finish(self) -> Grid:
        """The grid to keep: without what no photograph shows."""
        grid = self.field.grid.refined(self.space, self.field.grid.voxel, self.cameras, 0.003, len(self.field.grid))
        self.empty(grid)
        grid.occupy(1e-3)
        return grid

    def get_param_groups(self):
        return {
            "grid": [self.field.density, self.field.features], "sky": [self.field.sky],
            "shader": list(self.shader.parameters()), "exposure": [self.log_exposure],
        }  # fmt: skip

    def get_training_callbacks(self, training_callback_attributes: TrainingCallbackAttributes):
        optimizers = training_callback_attributes.optimizers
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self.before_step, 1),
            TrainingCallback(
                [TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self.after_step, 1, kwargs={"optimizers": optimizers}
            ),
        ]

    def before_step(self, step: int) -> None:
        self.random = np.random.default_rng(step)  # the same samples after an interruption

    def after_step(self, optimizers, step: int) -> None:
        self.field.smooth(self.config.smooth_density, self.config.smooth_features)
        self.field.touched[:] = 0
        done = (step + 1) / self.config.steps
        stage = int(self.stage)
        if stage < len(self.config.milestones) and done >= self.config.milestones[stage]:
            self.stage += 1
            self.refine(self.voxels[stage + 1], optimizers)
        elif (step + 1) % 64 == 0 and (stage > 0 or done > 0.6 * self.config.milestones[0]):
            self.field.grid.occupy(1e-3 if stage > 0 else FOG)
            self.field.grid.visible *= 0.7

    def refine(self, voxel: float, optimizers) -> None:
        grid = self.field.grid.refined(self.space, voxel, self.cameras, 0.005, self.config.most_blocks)
        self.empty(grid)
        grid.occupy(1e-3)
        self.field.set_grid(grid)
        rebind(optimizers, self.get_param_groups())

    def get_outputs(self, ray_bundle: RayBundle):
        origins = np.ascontiguousarray(ray_bundle.origins.numpy(), np.float32).reshape(-1, 3)
        directions = np.ascontiguousarray(ray_bundle.directions.numpy(), np.float32).reshape(-1, 3)
        rays = len(origins)
        target = ray_bundle.metadata.get("target")
        target = np.zeros((rays, 2), np.float32) if target is None else target.numpy()
        target[:, 1] = np.maximum(target[:, 1], 1.5 * self.field.grid.voxel)
        near = np.full(rays, self.space.near, np.float32)
        jitter = self.random.random(rays, np.float32) if self.training else np.full(rays, 0.5, np.float32)
        floor = (1e-5, 1e-4, 3e-4, 1e-3)[min(int(self.stage), 3)]
        module = self.field
        feature, scalar = March.apply(
            module.density, module.features, module.sky, module, Rays(origins, directions, near, jitter), target, floor
        )
        encoded = torch.stack(harmonics(torch.from_numpy(directions)), 1)
        rgb = feature[:, :3] + self.shader(torch.cat([feature, encoded], 1))
        if self.training:
            rgb = rgb * torch.exp(self.log_exposure[ray_bundle.camera_indices.reshape(-1)])
        return {
            "rgb": rgb,
            "accumulation": scalar[:, :1],
            "depth": scalar[:, 1:2],
            "distortion": scalar[:, 2],
            "misplaced": scalar[:, 3],
            "opacity": scalar[:, 0],
        }

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict[str, Tensor]:
        rgb = batch["image"].to(outputs["rgb"])
        return {
            "rgb": nn.functional.mse_loss(outputs["rgb"], rgb),
            "distortion": self.config.distortion * outputs["distortion"].mean(),
            "depth": self.config.depth * outputs["misplaced"].mean(),
            "open": self.config.opacity * (1 - outputs["opacity"]).mean(),
            "exposure": self.config.exposure * (self.log_exposure.mean(0) ** 2).sum()
            + 1e-4 * (self.log_exposure**2).mean(),
        }

    def get_metrics_dict(self, outputs, batch) -> dict[str, Tensor]:
        rgb = batch["image"].to(outputs["rgb"])
        return {"psnr": -10 * torch.log10(nn.functional.mse_loss(outputs["rgb"].detach(), rgb))}

    def get_image_metrics_and_images(self, outputs, batch):
        truth, rgb = batch["image"].to(outputs["rgb"]), outputs["rgb"].clamp(0, 1)
        psnr = -10 * torch.log10(nn.functional.mse_loss(rgb, truth))
        return {"psnr": float(psnr)}, {"img": torch.cat([truth, rgb], 1)}
