"""Radiance fields: train one through nerfstudio, load it, and make a frame's reference view of it and of the photographs."""

from importlib import import_module

_PLACES = {
    "Field": "field", "Rendering": "field", "novel_poses": "novel", "Photographs": "photographs",
    "ReferenceRenderer": "renderer", "load_field": "renderer", "ReferenceView": "view",
}  # fmt: skip
__all__ = [*_PLACES, "check_method", "default_method", "import_field", "train_field"]


def __getattr__(name: str):
    """What imports compilers comes when it is asked for."""
    if name not in _PLACES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def default_method() -> str:
    """``nerfacto`` where there is a GPU that CUDA can use, else ``grid-field``."""
    import torch

    return "nerfacto" if torch.cuda.is_available() else "grid-field"


def check_method(method: str, options=()) -> None:
    """Raise OmniadError where nerfstudio has no such method or option, or this machine cannot train it."""
    from omniad_ros.reference.configuration import check_method

    check_method(method, options)


def train_field(*args, **kwargs) -> dict:
    """See `omniad_ros.reference.training.train_field`."""
    from omniad_ros.reference.training import train_field

    return train_field(*args, **kwargs)


def import_field(*args, **kwargs) -> dict:
    """See `omniad_ros.reference.importing.import_field`."""
    from omniad_ros.reference.importing import import_field

    return import_field(*args, **kwargs)
