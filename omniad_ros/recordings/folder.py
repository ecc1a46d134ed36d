"""A plain folder of photographs: no poses, and a camera known from EXIF or guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import check_pictures, list_images, read_pictures, unique_names
from omniad_ros.recordings.source import SurveySource

ASSUMED_FOV_DEGREES = 60.0
EXIF_IFD, FOCAL_35MM = 0x8769, 0xA405
PLACES = (".", "images", "train/good", "train", "rgb", "color")


def read_folder(path: Path, progress: Progress = quiet) -> SurveySource:
    """A survey without poses from the images in ``path`` (or its ``images`` or ``train/good`` folder).

    Raises OmniadError where there are none, or they differ in size.
    """
    files = next((found for place in PLACES if (path / place).is_dir() and (found := list_images(path / place))), None)
    if not files:
        raise OmniadError(f"no images in {path}: looked for transforms.json, and for pictures in {', '.join(PLACES)}")
    width, height, plain = check_pictures(files, progress)
    camera, known_from = guess_camera(files[0], width, height)
    return SurveySource(
        path, "images", camera, known_from, unique_names(files, None if plain else ".png"), (None,) * len(files), tuple(files),
        lambda: read_pictures(files), tuple(files) if plain else (),
    )  # fmt: skip


def guess_camera(picture: Path, width: int, height: int) -> tuple[Camera, str]:
    """A pinhole camera from a photograph's EXIF focal length, else `assumed_camera`; and which, "exif" or "guess"."""
    from PIL import Image

    with Image.open(picture) as image:
        focal_35mm = image.getexif().get_ifd(EXIF_IFD).get(FOCAL_35MM, 0)
    if focal_35mm and np.isfinite(float(focal_35mm)) and float(focal_35mm) > 0:
        focal = float(focal_35mm) * np.hypot(width, height) / np.hypot(36.0, 24.0)
        return Camera(width, height, focal, focal, width / 2, height / 2), "exif"
    return assumed_camera(width, height), "guess"


def assumed_camera(width: int, height: int) -> Camera:
    """A pinhole camera that sees 60 degrees along its longest side."""
    focal = 0.5 * max(width, height) / np.tan(np.radians(ASSUMED_FOV_DEGREES) / 2)
    return Camera(width, height, focal, focal, width / 2, height / 2)
