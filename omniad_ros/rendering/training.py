"""Trains a radiance field through nerfstudio and leaves JSON and safetensors: the only users of nerfstudio's trainer."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from omniad_ros.feedback import OmniadError, Progress, quiet
from omniad_ros.rendering.grid_field import GridField
from omniad_ros.site import PosedImages, SparsePoints, write_image, write_transforms


def train_field(
    images: PosedImages, points: SparsePoints, train: Sequence[int], out: Path, method: str = "grid-field",
    options: Sequence[str] = (), progress: Progress = quiet, longest_side: int = 320,
) -> dict:  # fmt: skip
    """Train on ``images[train]`` only and write field.json and weights.safetensors into ``out``.

    images: with poses; points: may be empty; method: a nerfstudio method by name; options: as on nerfstudio's command line,
    such as ``("--max-num-iterations", "2000")``; longest_side: photographs are reduced to it.
    Returns what was trained: method, views, steps, seconds, psnr of the last batches.
    Raises OmniadError where the input is unusable or the method unknown.
    """
    train = [int(i) for i in train]
    if len(train) < 3 or any(images.poses[i] is None for i in train):
        raise OmniadError("a radiance field needs at least three photographs with poses; map the survey first")
    if method != "grid-field":
        raise OmniadError(f"training '{method}' is not supported yet; use --field grid-field")
    progress(0.0, "preparing photographs")
    began = time.monotonic()
    data = out / ".dataset"
    camera = images.camera.fitted(longest_side)
    write_dataset(images, points, train, data, camera)
    with silent_nerfstudio():
        trainer = _trainer(data, out, options, progress)
        trainer.setup()
        trainer.train()
        model = trainer.pipeline.model
        field = GridField(model.field.grid, {k: v.detach().numpy() for k, v in model.state_dict().items() if k.startswith("shader.")},
                          0.5 * model.space.near)  # fmt: skip
        progress(0.97, "counting the views of each surface")
        field.count_views(camera.resized(max(1, camera.width // 2), max(1, camera.height // 2)), [images.poses[i] for i in train])
        info = {"steps": trainer.config.max_num_iterations, "seconds": round(time.monotonic() - began, 1), "views": len(train)}
        field.save(out, info)
    for leftover in (data, out / ".nerfstudio"):
        shutil.rmtree(leftover, ignore_errors=True)
    progress(1.0, "radiance field trained")
    return {"method": method, **info}


def write_dataset(images: PosedImages, points: SparsePoints, train: Sequence[int], out: Path, camera) -> None:
    """A dataset in nerfstudio's format of ``images[train]``, resized to ``camera``, with the points they see."""
    import cv2

    (out / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{i:06d}.png" for i in range(len(train))]
    for name, index in zip(names, train, strict=True):
        image = images.image(index)
        if image.shape[:2] != (camera.height, camera.width):
            image = cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        write_image(out / name, image)
    subset = PosedImages(camera, out, tuple(names), tuple(images.poses[i] for i in train))
    split = {"train_filenames": names, "val_filenames": names[:1], "test_filenames": names[:1]}
    write_transforms(out / "transforms.json", subset, split)
    # nerfstudio sorts frames by name, which keeps this order
    place = np.full(len(images), -1)
    place[list(train)] = np.arange(len(train))
    kept = place[points.image] >= 0 if len(points.image) else np.zeros(0, bool)
    scale = camera.width / images.camera.width
    np.savez(out / "observations.npz", names=np.array([Path(n).name for n in names]), xyz=points.xyz.reshape(-1, 3), rgb=points.rgb.reshape(-1, 3),
             image=place[points.image[kept]] if len(kept) else np.zeros(0, np.int64),
             point=points.point[kept] if len(kept) else np.zeros(0, np.int64),
             pixel=(points.pixel[kept] if len(kept) else np.zeros((0, 2))) * scale)  # fmt: skip


@contextlib.contextmanager
def silent_nerfstudio() -> Iterator[None]:
    """nerfstudio's console stays quiet inside."""
    from nerfstudio.utils.rich_utils import CONSOLE

    before, CONSOLE.quiet = CONSOLE.quiet, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        CONSOLE.quiet = before


def _trainer(data: Path, out: Path, options: Sequence[str], progress: Progress):
    import copy

    from nerfstudio.engine.trainer import Trainer

    from omniad_ros.rendering.method import grid_field

    class SiteTrainer(Trainer):
        """Reports progress, and leaves no pickled checkpoints."""

        def train_iteration(self, step):
            if step % 20 == 0:
                progress(0.02 + 0.95 * step / self.config.max_num_iterations, f"training the radiance field, step {step}")
            return super().train_iteration(step)

        def save_checkpoint(self, step):
            pass

    config = copy.deepcopy(grid_field.config)
    config._target = SiteTrainer
    config.vis, config.output_dir, config.data = "none", out / ".nerfstudio", data
    config.pipeline.datamanager.data = data
    parser = config.pipeline.datamanager.dataparser
    parser.orientation_method, parser.center_method, parser.auto_scale_poses, parser.load_3D_points = "none", "none", False, False
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.machine.device_type = "cpu"
    for name, value in zip(options[::2], options[1::2], strict=True):
        _set(config, name, value)
    config.pipeline.model.steps = config.max_num_iterations
    config.pipeline.datamanager.growing_steps = max(1, config.max_num_iterations // 2)
    for group in config.optimizers.values():
        if group["scheduler"]:
            group["scheduler"].max_steps = config.max_num_iterations
    config.timestamp = "run"
    return config.setup(local_rank=0, world_size=1)


def _set(config, name: str, value: str) -> None:
    """Set a dotted nerfstudio option on its config."""
    target = config
    *path, last = name.lstrip("-").replace("-", "_").split(".")
    try:
        for part in path:
            target = getattr(target, part)
        before = getattr(target, last)
    except AttributeError:
        raise OmniadError(f"nerfstudio's grid-field has no option {name}") from None
    setattr(target, last, type(before)(json.loads(value)) if not isinstance(before, str) else value)
