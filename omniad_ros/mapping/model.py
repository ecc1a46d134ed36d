"""The model of a map as COLMAP stores it, read without COLMAP: which images are in it, where, and what they saw of which point.

Only COLMAP's binary images.bin is read; a map's points stand beside it (`omniad_ros.site.read_points`). The numbers are
those that pycolmap reads, bit for bit.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_regular
from omniad_ros.core.geometry import Pose

IMAGES = "images.bin"
HEAD = struct.Struct("<I7dI")  # id, quaternion wxyz and translation of cam_from_world, camera's id
KEYPOINT = np.dtype([("pixel", "<f8", 2), ("point", "<u8")])
NO_POINT = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class MappedImage:
    """An image of a model, and what it observed of the model's points.

    keypoint: (N,) indices of its keypoints; pixel: (N, 2) float32, where they are; point: (N,) COLMAP's ids of the points.
    """

    name: str
    pose: Pose
    keypoint: np.ndarray
    pixel: np.ndarray
    point: np.ndarray


def read_model(directory: Path) -> list[MappedImage]:
    """The images of the model in a directory, by their ids. Raises OmniadError where it is missing or damaged."""
    path = directory / IMAGES
    try:
        check_regular(path)
        images = _images(path.read_bytes())
        if not images:
            raise ValueError("it has no image")
    except (OSError, ValueError, struct.error) as error:
        raise OmniadError(f"the map in {directory.parent} cannot be read ({error}); build the site again") from error
    return [images[number] for number in sorted(images)]


def _images(data: bytes) -> dict[int, MappedImage]:
    """Raises ValueError or struct.error where the bytes are no images.bin."""
    (count,), offset, images = struct.unpack_from("<Q", data), 8, {}
    for _ in range(count):
        number, *numbers, _ = HEAD.unpack_from(data, offset)
        end = data.index(b"\0", offset + HEAD.size)
        name = data[offset + HEAD.size : end].decode()
        (keypoints,) = struct.unpack_from("<Q", data, end + 1)
        if keypoints > len(data) // KEYPOINT.itemsize:
            raise ValueError(f"{IMAGES} ends before the keypoints of {name}")
        table = np.frombuffer(data, KEYPOINT, keypoints, end + 9)
        offset = end + 9 + table.nbytes
        seen = np.flatnonzero(table["point"] != NO_POINT)
        pose = Pose.from_matrix(_matrix(*numbers)).inverse()
        images[number] = MappedImage(name, pose, seen, table["pixel"][seen].astype(np.float32), table["point"][seen])
    if offset != len(data):
        raise ValueError(f"{IMAGES} has {len(data) - offset} bytes too many")
    return images


def _matrix(w: float, x: float, y: float, z: float, *translation: float) -> np.ndarray:
    """(3, 4) of a unit quaternion and a translation, in the order of operations of Eigen, which COLMAP uses."""
    x2, y2, z2 = 2.0 * x, 2.0 * y, 2.0 * z
    wx, wy, wz = x2 * w, y2 * w, z2 * w
    xx, xy, xz = x2 * x, y2 * x, z2 * x
    yy, yz, zz = y2 * y, z2 * y, z2 * z
    rotation = [[1 - (yy + zz), xy - wz, xz + wy], [xy + wz, 1 - (xx + zz), yz - wx], [xz - wy, yz + wx, 1 - (xx + yy)]]
    return np.column_stack([np.array(rotation), translation])
