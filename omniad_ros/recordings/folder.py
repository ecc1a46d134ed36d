"""A plain folder of photographs: no poses, and a camera known from EXIF or guessed. What lies among them and is none is said."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import READ, check_pictures, list_images, other_pictures, read_pictures, unique_names
from omniad_ros.recordings.source import SurveySource

ASSUMED_FOV_DEGREES = 60.0
EXIF_IFD, FOCAL_35MM = 0x8769, 0xA405
MASK_ENDS, MASK_STARTS = ("_mask", ".mask", "-mask", "_masks", ".jpg", ".jpeg", ".png"), ("mask_", "mask-")
"""How masks are named after their images; COLMAP's are called ``NNN.jpg.png``."""
COLMAP_PLACES = ("sparse/0", "sparse", "colmap/sparse/0", "colmap", ".", "model", "dense/sparse")
PLACES = (".", "images", "train/good", "train", "rgb", "color")

logger = logging.getLogger(__name__)


def read_folder(path: Path, progress: Progress = quiet) -> SurveySource:
    """A survey without poses from the images in ``path`` (or its ``images`` or ``train/good`` folder).

    Raises OmniadError where there are none, or they differ in size.
    """
    places = [path / place for place in PLACES if (path / place).is_dir()]
    folder = next((place for place in places if list_images(place)), None)
    unread = next((found for place in places if (found := other_pictures(place))), [])
    if folder is None:
        looked = f"looked for transforms.json, and for pictures in {', '.join(PLACES)}"
        there = f"; {unread[0].name} is of a format that is not read, convert it to JPEG" if unread else ""
        raise OmniadError(f"no images in {path}: {looked}{there}")
    files = normal_images(folder)
    say_unread(folder)
    say_unused_model(path)
    width, height, plain = check_pictures(files, progress)
    camera, known_from = guess_camera(files[0], width, height)
    return SurveySource(
        path, "images", camera, known_from, unique_names(files, None if plain else ".png"), (None,) * len(files), tuple(files),
        lambda: read_pictures(files), tuple(files) if plain else (),
    )  # fmt: skip


def normal_images(folder: Path) -> list[Path]:
    """The images of a folder without the masks among them, which are said: ``NNN_mask.png`` beside ``NNN.jpg``."""
    files = list_images(folder)
    stems = {file.stem.lower() for file in files}
    masks = [file for file in files if any(stem in stems for stem in _masked(file.stem.lower()))]
    depths = [file for file in files if re.search(r"[._-]depth$", file.stem.lower())]
    for kind, found in (("masks", masks), ("depth maps", depths)):
        if found and len(found) < len(files):
            said = "%s holds %d %s beside its images: they are not used, nor taken for images (the first is %s)"
            logger.warning(said, folder, len(found), kind, found[0].name)
            files = [file for file in files if file not in found]
    return files


def _masked(stem: str) -> list[str]:
    """What the image is called that a file of this name is the mask of, if it is one."""
    ends = [stem.removesuffix(end) for end in MASK_ENDS if stem.endswith(end)]
    return ends + [stem.removeprefix(start) for start in MASK_STARTS if stem.startswith(start)]


def say_unread(folder: Path) -> None:
    """Warn of pictures in formats that are not read."""
    if unread := other_pictures(folder):
        said = "%s holds %d %s pictures, a format that is not read: they are left out; convert them to JPEG"
        logger.warning(said, folder, len(unread), unread[0].suffix.lstrip(".").upper())


def say_unused_model(path: Path) -> None:
    """Warn of a COLMAP model beside the images: its poses would be of use as a transforms.json."""
    for place in COLMAP_PLACES:
        if any((path / place / f"images.{kind}").is_file() for kind in ("bin", "txt")):
            said = "%s is a COLMAP model, which is not read: the poses are found anew (ns-process-data makes a transforms.json of it)"
            logger.warning(said, path / place)
            return


def guess_camera(picture: Path, width: int, height: int) -> tuple[Camera, str]:
    """A pinhole camera from a photograph's EXIF focal length, else `assumed_camera`; and which, "exif" or "guess"."""
    from PIL import Image

    with Image.open(picture, formats=READ) as image:
        focal_35mm = image.getexif().get_ifd(EXIF_IFD).get(FOCAL_35MM, 0)
    if focal_35mm and np.isfinite(float(focal_35mm)) and float(focal_35mm) > 0:
        focal = float(focal_35mm) * np.hypot(width, height) / np.hypot(36.0, 24.0)
        return Camera(width, height, focal, focal, width / 2, height / 2), "exif"
    return assumed_camera(width, height), "guess"


def assumed_camera(width: int, height: int) -> Camera:
    """A pinhole camera that sees 60 degrees along its longest side."""
    focal = 0.5 * max(width, height) / np.tan(np.radians(ASSUMED_FOV_DEGREES) / 2)
    return Camera(width, height, focal, focal, width / 2, height / 2)
