"""Photographs of the latest patrols of a site, with poses and heatmaps, from which the site can learn what was accepted since."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import msgspec
import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import decode_json, disk_errors, write_atomically
from omniad_ros.core.geometry import Camera, Pose, pose_of, rows_of
from omniad_ros.core.images import encode_jpeg, read_image, resized
from omniad_ros.patrol.session import PatrolFrame

FOLDER, FRAMES = "patrols_photographs", "frames.jsonl"
PATROLS = 3
"""Of which photographs are kept, the latest ones of a site."""
RUNNING = 3600.0
"""Seconds without a new photograph after which a patrol is over for certain."""
MOST = 300
"""Of one patrol: of a longer one every n-th is kept."""
MOVED, TURNED = 0.08, 5.0
"""Metres and degrees from one to the next."""
QUALITY, HEAT_SIDE = 95, 320


class _Row(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{6}$")]
    pose: list[list[float]]
    camera: Camera


@dataclass(frozen=True, eq=False)
class KeptPhotograph:
    """file: the rectified frame, of ``camera``; pose: ``map_from_camera``; heat: uint8 (h, w), what the frame alone said, in steps of
    1/255 of a probability."""

    file: Path
    camera: Camera
    pose: Pose
    heat: np.ndarray


def photographs_of(site: Path, patrol: int) -> Path:
    """The folder of a patrol's photographs."""
    place = Path(site).resolve()
    return place.parent / FOLDER / place.name / str(patrol)


class PhotographKeeper:
    """Writes the photographs of one patrol. Used from one thread."""

    def __init__(self, site: Path, patrol: int):
        self.folder = photographs_of(site, patrol)
        self._rows: list[bytes] = []
        self._last: Pose | None = None
        self._spacing = 1.0
        with self._said(), disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / FRAMES).is_file():  # a patrol that was cut off goes on
                self._rows = (self.folder / FRAMES).read_bytes().splitlines()
            self._forget_old()

    def _forget_old(self) -> None:
        """Remove the photographs of older patrols, but not of those that other robots may be on."""
        folders = [folder for folder in self.folder.parent.iterdir() if folder.name.isdecimal()]
        for folder in sorted(folders, key=lambda folder: int(folder.name))[:-PATROLS]:
            if time.time() - folder.stat().st_mtime > RUNNING:
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, frame: PatrolFrame) -> None:
        """Keep a frame where it was taken from somewhere else than the last one. Raises OmniadError where it cannot be written."""
        inspection = frame.inspection
        if inspection.state != "ok" or inspection.raw is None or not self._is_elsewhere(inspection.pose):
            return
        name, small = f"{self._number():06d}", frame.camera.fitted(HEAT_SIDE)
        heat = np.uint8(np.round(255 * resized(inspection.raw, small.width, small.height)))
        with self._said(), disk_errors(self.folder):
            write_atomically(self.folder / f"{name}.jpg", encode_jpeg(frame.image, quality=QUALITY))
            write_atomically(self.folder / f"{name}.png", cv2.imencode(".png", heat)[1].tobytes())
            row = {"name": name, "pose": rows_of(inspection.pose), "camera": frame.camera.to_dict()}
            self._rows.append(json.dumps(row).encode())
            dropped = self._rows[1::2] if len(self._rows) > MOST else []
            if dropped:
                self._rows, self._spacing = self._rows[::2], 2 * self._spacing
            write_atomically(self.folder / FRAMES, b"\n".join(self._rows) + b"\n")
            for row in dropped:
                for suffix in ("jpg", "png"):
                    (self.folder / f"{json.loads(row)['name']}.{suffix}").unlink(missing_ok=True)
        self._last = inspection.pose

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OmniadError(f"{self.folder} cannot be written: {error.strerror or error}") from error

    def _number(self) -> int:
        return int(json.loads(self._rows[-1])["name"]) + 1 if self._rows else 1

    def _is_elsewhere(self, pose: Pose) -> bool:
        if self._last is None:
            return True
        metres, degrees = pose.distance(self._last)
        return metres >= self._spacing * MOVED or degrees >= self._spacing * TURNED


def kept_photographs(folder: Path) -> Iterator[KeptPhotograph]:
    """What `PhotographKeeper` kept of a patrol. Raises OmniadError where that is damaged."""
    try:
        lines = (folder / FRAMES).read_bytes().splitlines()
    except OSError:
        raise OmniadError(f"{folder} has no photographs of a patrol") from None
    for number, line in enumerate(lines, 1):
        row = decode_json(line, f"line {number} of {folder / FRAMES}", _Row)
        heat = cv2.imread(str(folder / f"{row.name}.png"), cv2.IMREAD_GRAYSCALE)
        try:
            pose = pose_of(row.pose)
            row.camera.check_pinhole()
        except ValueError as error:
            raise OmniadError(f"line {number} of {folder / FRAMES} is damaged: {error}") from None
        if heat is None:
            raise OmniadError(f"{folder / row.name}.png is missing or damaged")
        yield KeptPhotograph(folder / f"{row.name}.jpg", row.camera, pose, heat)


def photograph_count(folder: Path) -> int:
    """How many photographs were kept in a folder; 0 where there is none."""
    try:
        return len((folder / FRAMES).read_bytes().splitlines())
    except OSError:
        return 0


def image_of(photograph: KeptPhotograph) -> np.ndarray:
    """uint8 RGB (H, W, 3). Raises OmniadError where the file cannot be read, or is not of the photograph's camera."""
    image = read_image(photograph.file)
    if image.shape[:2] != (photograph.camera.height, photograph.camera.width):
        raise OmniadError(f"{photograph.file} is damaged: it is not of its camera's size")
    return image
