"""A length that the operator knows, for a survey that has no odometry: it makes the map metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from omniad_ros.core.feedback import OmniadError
from omniad_ros.mapping import colmap

NEAR = 0.03
"""A point of the map belongs to a pixel where it lies within this share of the image's width."""


@dataclass(frozen=True)
class KnownDistance:
    """metres: between the cameras of two survey images (a baseline), or between what two pixels (u, v) of them show."""

    images: tuple[str, str]
    metres: float
    pixels: tuple[tuple[float, float], tuple[float, float]] | None = None

    @property
    def kind(self) -> str:
        return "two cameras" if self.pixels is None else "two points"


def check_distance(distance: KnownDistance, names: Sequence[str]) -> None:
    """Raises OmniadError where its images are not among ``names``, or it is no length."""
    if not (np.isfinite(distance.metres) and distance.metres > 0):
        raise OmniadError(f"a known distance must be above 0 metres, not {distance.metres:g}")
    if distance.pixels is None and distance.images[0] == distance.images[1]:
        raise OmniadError("a baseline is between two images, but the same one was given twice")
    for image in distance.images:
        _index(names, image)


def scale_to(model: pycolmap.Reconstruction, distance: KnownDistance, names: Sequence[str]) -> None:
    """Bring a model to metres, in place. names: of its images, id 1 first. Raises OmniadError where it cannot tell the distance."""
    pixels = distance.pixels or (None, None)
    first, second = (_place(model, _index(names, image), pixel, image) for image, pixel in zip(distance.images, pixels))
    length = float(np.linalg.norm(first - second))
    if length < 1e-9:
        raise OmniadError("the known distance is between two places that are the same in the map")
    colmap.transform(model, distance.metres / length, np.eye(3), np.zeros(3))


def _index(names: Sequence[str], image: str) -> int:
    found = [i for i, name in enumerate(names) if Path(name).stem == Path(image).stem]
    if len(found) != 1:
        raise OmniadError(f"the survey has no image named '{image}' whose place could give the scale")
    return found[0]


def _place(model: pycolmap.Reconstruction, index: int, pixel: tuple[float, float] | None, name: str) -> np.ndarray:
    """Where an image's camera is, or what a pixel of it shows: at the median depth of the three nearest points of the map."""
    if index + 1 not in model.reg_image_ids():
        raise OmniadError(f"the image '{name}' is not part of the map, so it cannot give the scale; choose another")
    image = model.images[index + 1]
    pose, camera = colmap.pose_of(image), colmap.camera_of(model.cameras[image.camera_id])
    if pixel is None:
        return pose.translation
    seen = [p for p in image.points2D if p.has_point3D()]
    apart = np.array([np.hypot(*(p.xy - pixel)) for p in seen])
    near = [i for i in np.argsort(apart)[:3] if apart[i] < NEAR * camera.width]
    if not near:
        raise OmniadError(
            f"the map has no point near pixel {pixel[0]:g}, {pixel[1]:g} of '{name}'; choose a place with more texture"
        )
    depth = np.median([pose.inverse().apply(model.points3D[seen[i].point3D_id].xyz)[2] for i in near])
    ray = np.array([(pixel[0] - camera.cx) / camera.fx, (pixel[1] - camera.cy) / camera.fy, 1.0])
    return pose.apply(depth * ray)
