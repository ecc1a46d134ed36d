"""Trains a radiance field through nerfstudio and leaves JSON and safetensors: the only users of nerfstudio's trainer."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.images import resized, write_image
from omniad_ros.reference.configuration import check_method, method_config
from omniad_ros.reference.coverage import examine
from omniad_ros.reference.grid_field import GridField
from omniad_ros.reference.space import OBSERVATIONS
from omniad_ros.reference.trainer import CHECKPOINT, seeded, silent_nerfstudio, trainer
from omniad_ros.site import PosedImages, SparsePoints, write_transforms


def train_field(
    images: PosedImages, points: SparsePoints, train: Sequence[int], out: Path, method: str = "grid-field",
    options: Sequence[str] = (), progress: Progress = quiet, longest_side: int = 320,
) -> dict:  # fmt: skip
    """Train on ``images[train]`` only and write field.json and weights.safetensors into ``out``.

    images: with poses; points: may be empty; method: a nerfstudio method by name; options: as on nerfstudio's command line,
    such as ``("--max-num-iterations", "2000")``; longest_side: photographs are reduced to it.
    Returns what was trained: method, steps, seconds, views.
    Raises OmniadError where the input is unusable or the method unknown.
    """
    train = [int(i) for i in train]
    if len(train) < 3 or any(images.poses[i] is None for i in train):
        raise OmniadError("a radiance field needs at least three photographs with poses; map the survey first")
    check_method(method, options)
    progress(0.0, "preparing photographs")
    began = time.monotonic()
    data, camera = out / ".dataset", images.camera.fitted(longest_side)
    write_dataset(images, points, train, data, camera)
    poses = [images.poses[i] for i in train]
    run = _train_grid_field if method == "grid-field" else _train_other
    info = {"method": method, "views": len(train), **run(method, options, data, out, camera, poses, progress)}
    info["seconds"] = round(time.monotonic() - began, 1)
    for leftover in (data, out / ".nerfstudio"):
        shutil.rmtree(leftover, ignore_errors=True)
    (out / CHECKPOINT).unlink(missing_ok=True)
    progress(1.0, "radiance field trained")
    return info


def _train_grid_field(method, options, data, out, camera, poses, progress) -> dict:
    with silent_nerfstudio():
        config = method_config(method, options)
        steps = config.max_num_iterations
        config.pipeline.model.steps, config.pipeline.datamanager.growing_steps = steps, max(1, steps // 2)
        if config.pipeline.datamanager.seed is None:
            config.pipeline.datamanager.seed = config.machine.seed
        for group in config.optimizers.values():
            group["scheduler"].max_steps = steps
        parser = config.pipeline.datamanager.dataparser
        parser.orientation_method, parser.center_method, parser.auto_scale_poses, parser.load_3D_points = (
            "none",
            "none",
            False,
            False,
        )
        run = trainer(config, data, out, "cpu", part(progress, 0.02, 0.96))
        with seeded(config.machine.seed):
            run.setup()
            run.train()
    model = run.pipeline.model
    shader = {name: tensor.numpy() for name, tensor in model.state_dict().items() if name.startswith("shader.")}
    field = GridField(model.finish(), shader, 0.5 * model.space.near)
    progress(0.97, "counting the views of each surface")
    examine(field, camera.resized(max(1, camera.width // 2), max(1, camera.height // 2)), poses)
    field.save(out, {"steps": steps})
    return {"steps": steps}


def _train_other(method, options, data, out, camera, poses, progress) -> dict:
    import torch
    from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
    from nerfstudio.data.datamanagers.parallel_datamanager import ParallelDataManagerConfig

    from omniad_ros.reference.nerfstudio_field import NerfstudioField, place_in_unit_box

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with silent_nerfstudio():
        config = method_config(method, options)
        place_in_unit_box(config)
        if isinstance(config.pipeline.datamanager, ParallelDataManagerConfig):
            # its processes would be forked from ours, which has threads, and outlive the training
            config.pipeline.datamanager._target = VanillaDataManager
        run = trainer(config, data, out, device, part(progress, 0.02, 0.96))
        with seeded(config.machine.seed):
            run.setup()
            run.train()
        outputs = run.pipeline.datamanager.train_dataparser_outputs
        field = NerfstudioField(
            run.pipeline.model.eval(), outputs.dataparser_transform.numpy(), outputs.dataparser_scale
        )
        progress(0.97, "rendering the depth of each view")
        field.examine(camera.fitted(80), poses)
        field.save(out, {"method": method, "options": list(options), "views": len(poses)})
    return {"steps": run.steps}


def write_dataset(images: PosedImages, points: SparsePoints, train: Sequence[int], out: Path, camera) -> None:
    """A dataset in nerfstudio's format of ``images[train]``, resized to ``camera``, with the points they see."""
    from safetensors.numpy import save

    (out / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{i:06d}.png" for i in range(len(train))]
    for name, index in zip(names, train, strict=True):
        write_image(out / name, resized(images.image(index), camera.width, camera.height))
    subset = PosedImages(camera, out, tuple(names), tuple(images.poses[i] for i in train))
    split = {"train_filenames": names, "val_filenames": names[:1], "test_filenames": names[:1]}
    write_transforms(out / "transforms.json", subset, split)
    # nerfstudio sorts frames by name, which keeps this order
    place = np.full(len(images), -1)
    place[list(train)] = np.arange(len(train))
    kept = place[points.image.astype(np.int64)] >= 0
    scale = camera.width / images.camera.width
    observations = {
        "xyz": points.xyz.reshape(-1, 3), "rgb": points.rgb.reshape(-1, 3),
        "image": place[points.image[kept]].astype(np.int64), "point": points.point[kept].astype(np.int64),
        "pixel": (points.pixel.reshape(-1, 2)[kept] * scale).astype(np.float32),
    }  # fmt: skip
    observations = {name: np.ascontiguousarray(array) for name, array in observations.items()}
    (out / OBSERVATIONS).write_bytes(save(observations, {"names": json.dumps([Path(name).name for name in names])}))
