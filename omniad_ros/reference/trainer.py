"""nerfstudio's trainer as the build needs it: silent, with our progress, and with safetensors instead of pickled checkpoints."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omniad_ros.core.feedback import OmniadError, Progress
from omniad_ros.core.files import sha256, write_atomically

CHECKPOINT = ".checkpoint"
"""Within the output directory: an interrupted training goes on from it."""
CHECKPOINT_SECONDS = 30.0
MOMENTS = "optimizers/"
"""Prefix of the optimizers' tensors in a checkpoint."""


def method_config(method: str, options: Sequence[str]):
    """nerfstudio's configuration of a method (or of an installed plug-in) with options set.

    Raises OmniadError where there is no such method or option.
    """
    if method == "grid-field":
        from omniad_ros.reference.method import grid_field

        config = copy.deepcopy(grid_field.config)
    else:
        from nerfstudio.configs.method_configs import all_methods

        if method not in all_methods:
            raise OmniadError(f"nerfstudio has no method '{method}'; it has {', '.join(sorted(all_methods))}")
        config = copy.deepcopy(all_methods[method])
    _set_options(config, options)
    return config


def check_method(method: str, options: Sequence[str]) -> None:
    """Raise OmniadError where there is no such method or option, or it cannot be trained on this machine."""
    import torch

    with silent_nerfstudio():
        config = method_config(method, options)
    if config.max_num_iterations < 1:
        raise OmniadError(
            f"--max-num-iterations {config.max_num_iterations}: a field needs at least one step, and some thousands to be good"
        )
    if "splat" in method and not torch.cuda.is_available():
        raise OmniadError(f"'{method}' needs a CUDA GPU, and this machine has none; use --field grid-field")


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


def rebind(optimizers, groups: dict[str, list]) -> None:
    """Tell nerfstudio's optimizers of parameters that took the place of others; their moments start anew."""
    for name, parameters in groups.items():
        if any(old is not new for old, new in zip(optimizers.parameters[name], parameters, strict=True)):
            optimizers.optimizers[name].param_groups[0]["params"] = parameters
            optimizers.optimizers[name].state.clear()
            optimizers.parameters[name] = parameters


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


def _set_options(config, options: Sequence[str]) -> None:
    """Set ``--dotted.name value`` pairs on a nerfstudio config, converted to the type that is there."""
    words = [word for option in options for word in (option.split("=", 1) if option.startswith("--") else [option])]
    if len(words) % 2:
        raise OmniadError(f"nerfstudio's options come in pairs '--name value', not '{' '.join(options)}'")
    for name, value in zip(words[::2], words[1::2], strict=True):
        target = config
        *path, last = name.lstrip("-").replace("-", "_").split(".")
        for part in path:
            target = getattr(target, part, None)
        # names that begin with an underscore say what class to build: not for a site's field.json to choose
        if (
            not name.startswith("--")
            or any(part.startswith("_") for part in (*path, last))
            or not hasattr(target, last)
        ):
            raise OmniadError(f"nerfstudio's {config.method_name} has no option {name}")
        before = getattr(target, last)
        try:
            parsed = (
                value if isinstance(before, str) else json.loads(value.lower() if isinstance(before, bool) else value)
            )
            setattr(target, last, parsed if before is None else type(before)(parsed))
        except (TypeError, ValueError):
            raise OmniadError(f"'{value}' is no value for nerfstudio's option {name}") from None
