"""nerfstudio's trainer as the build needs it: silent, with our progress, and with safetensors instead of pickled checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from omniad_ros.core.feedback import Progress
from omniad_ros.core.files import sha256, write_atomically
from omniad_ros.reference.optimizing import rebind

CHECKPOINT = ".checkpoint"
"""Within the output directory: an interrupted training goes on from it."""
CHECKPOINT_SECONDS = 30.0
MOMENTS = "optimizers/"
"""Prefix of the optimizers' tensors in a checkpoint."""


def trainer(config, data: Path, out: Path, device: str, progress: Progress, work: Callable[[float], float] = float):
    """nerfstudio's trainer of ``config`` on the dataset at ``data``, with its checkpoint in ``out``; not yet set up.

    work: the share of the whole time that a share of the steps takes, for the time left.
    """
    from nerfstudio.engine.trainer import Trainer

    class SiteTrainer(Trainer):
        """Reports progress and the time left; goes on from its own checkpoint, which is safetensors."""

        def _load_checkpoint(self):
            self.steps = self.config.max_num_iterations
            self._start_step = _read_checkpoint(out / CHECKPOINT, identity, self)
            # the base class counts iterations from the start step
            self.config.max_num_iterations -= self._start_step
            for scheduler in self.optimizers.schedulers.values():
                scheduler.last_epoch = self._start_step - 1
                scheduler.step()
            self.began = self.saved = time.monotonic()

        def train_iteration(self, step):
            if step % 20 == 0:
                self._report(step)
            if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
                _write_checkpoint(out / CHECKPOINT, identity, step, self)
                self.saved = time.monotonic()
            return super().train_iteration(step)

        def _report(self, step):
            done, before = work(step / self.steps), work(self._start_step / self.steps)
            message = f"training the radiance field, step {step} of {self.steps}"
            if done - before > 0.03:
                left = (time.monotonic() - self.began) * (1 - done) / (done - before)
                message += f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
            progress(done, message)

        def save_checkpoint(self, step):
            """Nothing: nerfstudio's own are pickles."""

    config._target = SiteTrainer
    config.vis, config.output_dir, config.data, config.timestamp = "none", out / ".nerfstudio", data, "run"
    config.pipeline.datamanager.data = data
    config.viewer.quit_on_train_completion = True
    config.logging.local_writer.enable = False
    config.machine.device_type = device
    identity = hashlib.sha256(repr((config.max_num_iterations, config.pipeline, _listing(data))).encode()).hexdigest()
    return config.setup(local_rank=0, world_size=1)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers start from ``seed`` inside, and go on outside as if nothing had been drawn."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def silent_nerfstudio() -> Iterator[None]:
    """nerfstudio's console and warnings are quiet inside, and its models do without LPIPS, whose weights are a download."""
    import torch
    from nerfstudio.utils.rich_utils import CONSOLE

    before, CONSOLE.quiet = CONSOLE.quiet, True
    lpips, name = sys.modules.get("torchmetrics.image.lpip"), "torchmetrics.image.lpip"
    stub = types.ModuleType(name)
    stub.LearnedPerceptualImagePatchSimilarity = lambda *args, **kwargs: torch.nn.Identity()
    sys.modules[name] = stub
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        CONSOLE.quiet = before
        if lpips is None:
            del sys.modules[name]
        else:
            sys.modules[name] = lpips


def _write_checkpoint(path: Path, identity: str, step: int, run) -> None:
    """The model and its optimizers' moments, so that an interruption costs nothing but the steps since."""
    from safetensors.torch import save

    moments = {f"{MOMENTS}{name}": moment for name, moment in _moments(run.optimizers).items()}
    write_atomically(path, save(tensors(run.pipeline.model) | moments, {"identity": identity, "step": str(step)}))


def _read_checkpoint(path: Path, identity: str, run) -> int:
    """The step to go on with: 0 where there is no checkpoint of this very training."""
    from safetensors import SafetensorError, safe_open

    model = run.pipeline.model
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
    except (OSError, SafetensorError):
        return 0
    moments = {name.removeprefix(MOMENTS): state.pop(name) for name in list(state) if name.startswith(MOMENTS)}
    if metadata.get("identity") != identity or set(state) != set(tensors(model)):
        return 0
    model.load_state_dict(state, strict=False)
    rebind(run.optimizers, run.pipeline.get_param_groups())
    for name, optimizer in run.optimizers.optimizers.items():
        restored = optimizer.state_dict()
        for moment, tensor in moments.items():
            group, parameter, key = moment.split("/")
            if group == name:
                restored["state"].setdefault(int(parameter), {})[key] = tensor
        optimizer.load_state_dict(restored)
    return int(metadata["step"])


def _moments(optimizers) -> dict:
    """The tensors that the optimizers keep of each parameter, as ``group/parameter/key``."""
    import torch

    return {
        f"{name}/{parameter}/{key}": tensor.detach().cpu().contiguous().clone()
        for name, optimizer in optimizers.optimizers.items()
        for parameter, kept in optimizer.state_dict()["state"].items()
        for key, tensor in kept.items()
        if isinstance(tensor, torch.Tensor)
    }


def tensors(model) -> dict:
    """The model's state as tensors that share no memory, for safetensors."""
    return {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in model.state_dict().items()
        if tensor.numel()
    }


def _listing(data: Path) -> list[tuple[str, str]]:
    return [(path.name, sha256(path)) for path in sorted(data.rglob("*")) if path.is_file()]
