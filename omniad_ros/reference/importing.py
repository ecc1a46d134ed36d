"""Takes over a field that the user trained with nerfstudio himself (`ns-train`), on an explicit command.

Only here are nerfstudio's own files read, a YAML file that can name any class and a pickled checkpoint: import only runs
that you trained. What goes to the site is JSON and safetensors.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Pose
from omniad_ros.reference.configuration import method_config
from omniad_ros.reference.nerfstudio_field import NerfstudioField, place_in_unit_box
from omniad_ros.reference.trainer import silent_nerfstudio
from omniad_ros.site import PosedImages

LEAST_COMMON = 5
MOST_RESIDUAL = 0.02
"""Of the extent of the cameras' positions: how far the run's poses may lie from the map's after alignment."""


def import_field(
    images: PosedImages, run: Path, out: Path, progress: Progress = quiet, longest_side: int = 320
) -> dict:
    """Write field.json and weights.safetensors of a finished nerfstudio run into ``out``.

    images: the mapped survey; run: the run's config.yml or its directory; its data must still lie where it was trained. The
    run is brought into the map by the positions of the photographs that both know by name. Returns what was imported:
    method, steps, views, seconds, heldout (names of the images that the run did not train on).
    Raises OmniadError where the run cannot be read, does not fit the map, or cannot be rebuilt from its method's name.
    """
    import torch

    progress(0.0, "reading the nerfstudio run")
    began = time.monotonic()
    with silent_nerfstudio():
        config, state, step = _read_run(run)
        options = _differences(config)
        outputs = _dataparser_outputs(config)
        theirs = {
            path.name: pose
            for path, pose in zip(
                outputs.image_filenames, outputs.cameras.camera_to_worlds.double().numpy(), strict=True
            )
        }
        transform, scale = _align(images, theirs)
        rebuilt = method_config(config.method_name, options)
        place_in_unit_box(rebuilt)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = rebuilt.pipeline.model.setup(
            scene_box=outputs.scene_box, num_train_data=len(outputs.image_filenames), metadata={}, device=device,
            grad_scaler=None, seed_points=None,
        )  # fmt: skip
        wanted = {name for name, tensor in model.state_dict().items() if tensor.numel()}
        state = {name: tensor for name, tensor in state.items() if name in wanted}
        if set(state) != wanted:
            raise OmniadError(
                f"the checkpoint of {run} does not fit nerfstudio's {config.method_name}; was it trained by another version?"
            )
        model.load_state_dict(state, strict=False)
        field = NerfstudioField(model.to(device).eval(), transform, scale)
        trained = [i for i in range(len(images)) if Path(images.names[i]).name in theirs]
        progress(0.5, "rendering the depth of each view")
        field.examine(images.camera.fitted(longest_side).fitted(80), [images.poses[i] for i in trained])
        info = {"method": config.method_name, "views": len(outputs.image_filenames), "steps": step}
        field.save(out, {**info, "options": options})
    progress(1.0, "nerfstudio run imported")
    heldout = [name for i, name in enumerate(images.names) if i not in set(trained)]
    return {**info, "imported": True, "heldout": heldout, "seconds": round(time.monotonic() - began, 1)}


def _read_run(run: Path):
    """(config, the model's state, steps) of the latest checkpoint."""
    import torch
    import yaml
    from nerfstudio.engine.trainer import TrainerConfig

    path = run / "config.yml" if run.is_dir() else run
    checkpoints = sorted((path.parent / "nerfstudio_models").glob("step-*.ckpt"))
    if not path.is_file() or not checkpoints:
        raise OmniadError(f"{run} is no finished nerfstudio run: it needs config.yml and nerfstudio_models/step-*.ckpt")
    try:
        config = yaml.load(path.read_text(), Loader=yaml.Loader)
        loaded = torch.load(checkpoints[-1], map_location="cpu", weights_only=False)
        state = {
            name.removeprefix("_model."): value
            for name, value in loaded["pipeline"].items()
            if name.startswith("_model.")
        }
        step = int(loaded["step"]) + 1
    except Exception as error:
        raise OmniadError(f"{run} cannot be read by the installed nerfstudio ({error})") from error
    if not isinstance(config, TrainerConfig):
        raise OmniadError(f"{path} is not the configuration of a nerfstudio training")
    return config, state, step


def _dataparser_outputs(config):
    parser, data = config.pipeline.datamanager.dataparser, config.pipeline.datamanager.data or config.data
    if data is not None:
        parser.data = Path(data)
    try:
        return parser.setup().get_dataparser_outputs(split="train")
    except Exception as error:
        raise OmniadError(f"the data of the nerfstudio run cannot be read at {parser.data} ({error})") from error


def _differences(config) -> list[str]:
    """The run's model options that differ from its method's, as on nerfstudio's command line."""
    default = method_config(config.method_name, ()).pipeline.model
    options: list[str] = []

    def compare(name: str, mine, standard) -> None:
        if dataclasses.is_dataclass(mine) and dataclasses.is_dataclass(standard):
            for entry in dataclasses.fields(mine):
                if not entry.name.startswith("_") and hasattr(standard, entry.name):
                    compare(f"{name}.{entry.name}", getattr(mine, entry.name), getattr(standard, entry.name))
        elif mine != standard:
            try:
                value = mine if isinstance(mine, str) else json.dumps(mine)
            except TypeError:
                raise OmniadError(f"the run's option {name} cannot be kept in a site") from None
            options.extend((name.replace("_", "-"), value))

    compare("--pipeline.model", config.pipeline.model, default)
    return options


def _align(images: PosedImages, theirs: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """(transform (3, 4), scale) from the map to the run's coordinates, from the camera poses that both have."""
    pairs = [
        (pose, theirs[Path(name).name])
        for name, pose in zip(images.names, images.poses, strict=True)
        if Path(name).name in theirs and pose
    ]
    if len(pairs) < LEAST_COMMON:
        raise OmniadError(
            f"the nerfstudio run and the survey have {len(pairs)} photographs of the same name; it must be trained on the survey's images"
        )
    ours = np.array([pose.translation for pose, _ in pairs])
    others = np.array([Pose.from_opengl(np.vstack([matrix, [0, 0, 0, 1]])).translation for _, matrix in pairs])
    turns = np.array([matrix[:, :3] @ pose.opengl()[:3, :3].T for pose, matrix in pairs])
    u, _, vt = np.linalg.svd(turns.mean(0))  # the cameras' own rotations also settle positions on one line
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    centred, target = (ours - ours.mean(0)) @ rotation.T, others - others.mean(0)
    scale = float((centred * target).sum() / max(1e-12, (centred**2).sum()))
    residual = np.linalg.norm(scale * centred - target, axis=1)
    if scale <= 0 or np.median(residual) > MOST_RESIDUAL * np.linalg.norm(np.ptp(target, axis=0)):
        raise OmniadError("the poses of the nerfstudio run do not fit the map's; was it trained on this survey?")
    return np.hstack([rotation, (others.mean(0) / scale - ours.mean(0) @ rotation.T)[:, None]]), scale
