"""Radiance fields: train one through nerfstudio, load it, render colour, depth and coverage."""

from omniad_ros.reference.views import Field, Rendering, StillField, novel_poses

__all__ = [
    "Field",
    "Rendering",
    "StillField",
    "check_method",
    "default_method",
    "import_field",
    "load_field",
    "novel_poses",
    "train_field",
]


def default_method() -> str:
    """``nerfacto`` where there is a GPU that CUDA can use, else ``grid-field``."""
    import torch

    return "nerfacto" if torch.cuda.is_available() else "grid-field"


def check_method(method: str, options=()) -> None:
    """Raise OmniadError where nerfstudio has no such method or option, or this machine cannot train it."""
    from omniad_ros.reference.trainer import check_method

    check_method(method, options)


def train_field(*args, **kwargs) -> dict:
    """See `omniad_ros.reference.training.train_field`."""
    from omniad_ros.reference.training import train_field

    return train_field(*args, **kwargs)


def import_field(*args, **kwargs) -> dict:
    """See `omniad_ros.reference.importing.import_field`."""
    from omniad_ros.reference.importing import import_field

    return import_field(*args, **kwargs)


def load_field(radiance_dir) -> Field:
    """The field in a site's radiance directory, rendered once where the camera stands still. Raises OmniadError where there is none that can be read."""
    from pathlib import Path

    from omniad_ros.core.files import read_json

    radiance_dir = Path(radiance_dir)
    if read_json(radiance_dir / "field.json").get("method") == "grid-field":
        from omniad_ros.reference.grid_field import GridField

        return StillField(GridField.load(radiance_dir))
    from omniad_ros.reference.nerfstudio_field import NerfstudioField

    return StillField(NerfstudioField.load(radiance_dir))
