"""Radiance fields: train one through nerfstudio, load it, render colour, depth and coverage."""

from omniad_ros.rendering.views import Field, Rendering, novel_poses

__all__ = ["Field", "Rendering", "load_field", "novel_poses", "train_field"]


def train_field(*args, **kwargs) -> dict:
    """See `omniad_ros.rendering.training.train_field`."""
    from omniad_ros.rendering.training import train_field

    return train_field(*args, **kwargs)


def load_field(radiance_dir) -> Field:
    """The field in a site's radiance directory. Raises OmniadError where there is none that can be read."""
    from pathlib import Path

    from omniad_ros.feedback import OmniadError
    from omniad_ros.site import read_json

    radiance_dir = Path(radiance_dir)
    method = read_json(radiance_dir / "field.json").get("method")
    if method != "grid-field":
        raise OmniadError(f"{radiance_dir} holds a field of nerfstudio's '{method}', which cannot be rendered here yet")
    from omniad_ros.rendering.grid_field import GridField

    return GridField.load(radiance_dir)
