"""Local features: where a picture has points that can be found again, what they look like, and how a map keeps them.

A feature source turns an image into `Features` (see `omniad_ros.mapping.sources`); everything after that is the same for
every source. Features of the survey are kept in an HDF5 file in hloc's layout, so either side can read the other's files.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import h5py
import msgspec
import numpy as np

from omniad_ros.core.arrays import is_sound
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_regular, decode_json

KEYPOINT_ORIGIN = 0.5
"""hloc stores keypoints with pixel centres at integers; this package has them at half-integers, as COLMAP does."""

ROOM = 16 << 20
"""Bytes that stay free on a disk: what HDF5 keeps in memory of a file until it is closed."""
STORED = ("keypoints", "scores", "descriptors", "image_size")
MODEL, FEATURES, LOOKS = "sfm", "features.h5", "global-features.h5"
"""A map's parts: COLMAP's model, the local features and the global ones of its images."""


@dataclass(frozen=True)
class Features:
    """Local features of one image.

    keypoints: (N, 2) float32 pixels, pixel centres at half-integers; descriptors: (N, D) float32, unit length;
    scores: (N,) float32, larger is better; size: (width, height) of the image in pixels; extra: what else a matcher
    asks for, such as scales and orientations, each (N, ...).
    """

    keypoints: np.ndarray
    descriptors: np.ndarray
    scores: np.ndarray
    size: tuple[int, int]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True)
class Tolerances:
    """Pixels that keypoints may be off, for images of one size: the larger the image, the coarser its keypoints.

    exact: poses whose epipolar lines typically pass so close are as good as the keypoints can tell.
    """

    match: float
    reprojection: float
    exact: float

    @staticmethod
    def for_size(width: int, height: int) -> Tolerances:
        scale = max(1.0, max(width, height) / 640)
        return Tolerances(match=2.5 * scale, reprojection=3.0 * scale, exact=0.5 * scale)


class FeatureSource(Protocol):
    """A kind of features: all that the map and the localizer need to know of it.

    pairwise: images are matched with each other by `match`; otherwise descriptors are compared by their distance.
    workers: in how many threads `extract` may be called at once; 0 for as many as there are cores.
    """

    pairwise: bool
    workers: int

    def extract(self, image: np.ndarray) -> Features:
        """Features of a uint8 RGB image (H, W, 3)."""

    def match(self, first: Features, second: Features) -> np.ndarray:
        """Matches (M, 2) of keypoint indices; only where the source is ``pairwise``."""

    def look(self, image: np.ndarray) -> np.ndarray | None:
        """Global descriptor (K,), unit length, of a uint8 RGB image; None where retrieval is to go by the local ones."""

    def describe(self) -> dict:
        """The source's `Description` as JSON can hold it; `open_source` makes the same source from it."""


class Description(msgspec.Struct):
    """Which features a map holds: the source's name, and its options as JSON."""

    features: str
    options: msgspec.Raw = msgspec.Raw(b"{}")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) scaled to unit length; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def is_sift(features: Features) -> bool:
    """Whether descriptors are histograms as SIFT's, which bytes hold as well as floats do."""
    return features.descriptors.shape[1] == 128 and (len(features) == 0 or features.descriptors.min() >= 0)


def quantised(descriptors: np.ndarray) -> np.ndarray:
    """RootSIFT-like descriptors (N, D) in [0, 0.5) as COLMAP's bytes: uint8(512 * value)."""
    return np.clip(np.round(descriptors * 512.0), 0, 255).astype(np.uint8)


def open_features(path: Path, mode: str = "r") -> h5py.File:
    """Open a feature file. Raises OmniadError where it is missing or damaged, or has data outside of itself."""
    try:
        if mode == "r":
            check_regular(path)
        file = h5py.File(path, mode)
    except OSError as error:
        raise OmniadError(f"{path} is missing or cannot be read as HDF5; build the site again") from error
    if mode == "r":
        try:
            if _check_inside(file, path) > path.stat().st_size:
                raise OmniadError(f"{path} unpacks to more than it holds; build the site again")
        except BaseException as error:
            file.close()
            if isinstance(error, (RuntimeError, ValueError, KeyError, OSError)):  # HDF5's own of what is damaged
                raise OmniadError(f"{path} is damaged ({error}); build the site again") from error
            raise
    return file


def _check_inside(group: h5py.Group, path: Path, depth: int = 2) -> int:
    """Bytes of all data of a group, as they would lie in memory: nobody packs features, and a few bytes can stand for gigabytes.

    Raise OmniadError where HDF5 data lie outside their file: an external link or storage reads whatever it names.
    depth: of groups; hloc's layout has one an image, and an image's name may have folders.
    """
    size = 0
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise OmniadError(f"{path} links {group.name.rstrip('/')}/{name} to other data; nothing outside it is read")
        item = group[name]
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise OmniadError(f"{path} has the data of {item.name} in another file; nothing outside it is read")
            size += item.size * item.dtype.itemsize
        elif depth == 0 or not isinstance(item, h5py.Group):
            raise OmniadError(f"{path} is not laid out as a file of features: {item.name} is too deep")
        else:
            size += _check_inside(item, path, depth - 1)
    return size


def stored_array(file: h5py.File, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of numbers of a feature file; shape: None for sides of any length.

    Raises OmniadError where it is missing, of another shape, or holds what is no number.
    """
    try:
        item = file[name]
        fits = isinstance(item, h5py.Dataset) and item.dtype.kind in "uif" and len(item.shape) == len(shape)
        fits = fits and all(wanted in (None, side) for wanted, side in zip(shape, item.shape, strict=True))
        values = item[()] if fits else None
    except (KeyError, ValueError, TypeError, OSError, RuntimeError):  # HDF5's own of what is missing or damaged
        values = None
    if values is None or (values.dtype.kind == "f" and not is_sound(values)):
        wanted = "x".join("N" if side is None else str(side) for side in shape)
        raise OmniadError(
            f"{file.filename} is damaged: {name} is missing or is no {wanted} array of numbers; build the site again"
        )
    return values


def check_room(file: h5py.File, size: int) -> None:
    """Raise OSError, as a full disk does, where so many bytes more will not fit: HDF5 crashes when it cannot write what it holds."""
    if shutil.disk_usage(Path(file.filename).parent).free < size + ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.filename)


def write_features(file: h5py.File, name: str, features: Features) -> None:
    """Add an image's features in hloc's layout: keypoints (N, 2), scores (N,), descriptors (D, N), image_size (2,).

    Raises OSError where the disk is full.
    """
    check_room(file, features.descriptors.nbytes + features.keypoints.nbytes)
    group = file.create_group(name)
    group["keypoints"] = features.keypoints - np.float32(KEYPOINT_ORIGIN)
    group["scores"] = features.scores.astype(np.float16)
    group["descriptors"] = (
        quantised(features.descriptors) if is_sift(features) else features.descriptors.astype(np.float16)
    ).T
    group["image_size"] = np.array(features.size)
    for key, values in features.extra.items():
        group[key] = values


def read_features(file: h5py.File, name: str) -> Features:
    """Features of an image from hloc's layout (bytes, half or single precision). Raises OmniadError where they are damaged."""
    keypoints = stored_array(file, f"{name}/keypoints", (None, 2)).astype(np.float32) + np.float32(KEYPOINT_ORIGIN)
    count, group = len(keypoints), file[name]
    scores = stored_array(file, f"{name}/scores", (count,)) if "scores" in group else np.ones(count)
    descriptors = unit(stored_array(file, f"{name}/descriptors", (None, count)).T.astype(np.float32))
    extra = {key: group[key][()] for key in group if key not in STORED}
    size = stored_array(file, f"{name}/image_size", (2,))
    return Features(keypoints, descriptors, scores.astype(np.float32), tuple(int(side) for side in size), extra)


class StoredFeatures(Sequence):
    """The features of named images, read from a feature file when asked for; the last used stay in memory."""

    def __init__(self, path: Path, names: Sequence[str]):
        self._path, self._names = path, names
        self._read = functools.lru_cache(maxsize=128)(self._read_uncached)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Features:
        return self._read(int(index))

    def _read_uncached(self, index: int) -> Features:
        with open_features(self._path) as file:
            return read_features(file, self._names[index])


def read_vocabulary(file: h5py.File) -> np.ndarray | None:
    """(words, D) float32 of a file of global features; None where they are another network's. Raises OmniadError."""
    try:
        words = file.attrs.get("vocabulary")
    except (OSError, ValueError, TypeError):  # HDF5's own of what is damaged
        words = ""
    if words is None:
        return None
    if not isinstance(words, np.ndarray) or words.ndim != 2 or words.dtype.kind != "f" or not is_sound(words):
        raise OmniadError(f"{file.filename} is damaged: its vocabulary is none; build the site again")
    return words.astype(np.float32)


def write_description(file: h5py.File, source: FeatureSource) -> None:
    file.attrs["source"] = json.dumps(source.describe())


def read_description(file: h5py.File) -> Description:
    """Raises OmniadError where a feature file does not say which features it holds."""
    try:
        text = file.attrs.get("source")
    except (OSError, ValueError, TypeError):  # HDF5's own of what is damaged
        text = None
    if not isinstance(text, str):
        raise OmniadError(f"{file.filename} does not say which features it holds; build the site again")
    return decode_json(text, f"the kind of features in {file.filename}", Description)
