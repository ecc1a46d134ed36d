"""nerfstudio's transforms.json, as written by ns-process-data, NeRF's synthetic scenes, MAD, or other tools.

Tolerant about where image files lie and how intrinsics are written; strict about numbers.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import as_type, read_json
from omniad_ros.core.geometry import MAX_DISTANCE, Camera, Pose, Rectifier
from omniad_ros.core.images import MAX_SIDE, SUFFIXES, check_pictures, list_images, read_pictures, unique_names
from omniad_ros.recordings.messages import MAX_DISTORTION
from omniad_ros.recordings.source import SurveySource

VARIES = 0.1
"""Share by which focal lengths, and of the width by which principal points, may differ within one survey: focus, not zoom."""
FOCAL = 0.05, 50.0
"""Focal lengths, in multiples of the longer side, outside of which no lens is: they are in other units, or of other images."""
MOST_FRAMES = 100_000
"""More would be days of driving, of which nobody has built a site."""
MISSING = 0.4
"""A transforms.json of whose images a larger share is missing is refused: a copy that stopped half way."""
NAMES = ("transforms.json", "transforms_train.json", "train/transforms.json")
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV", "PERSPECTIVE")
FISHEYE_MODELS = ("OPENCV_FISHEYE", "FISHEYE")
Matrix = list[list[float]]


class Intrinsics(msgspec.Struct, frozen=True, kw_only=True):
    """A camera as nerfstudio writes it, for all frames or for one; what is not given is None."""

    fl_x: float | None = None
    fl_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    w: float | None = None
    h: float | None = None
    camera_angle_x: float | None = None
    camera_angle_y: float | None = None
    camera_model: str | None = None
    is_fisheye: bool | None = None
    k1: float | None = None
    k2: float | None = None
    k3: float | None = None
    k4: float | None = None
    k5: float | None = None
    k6: float | None = None
    p1: float | None = None
    p2: float | None = None

    def given(self) -> dict:
        """Those that are given, by name."""
        return {name: value for name in Intrinsics.__struct_fields__ if (value := getattr(self, name)) is not None}


class TransformsFrame(Intrinsics, frozen=True, kw_only=True):
    """One image. transform_matrix: camera-to-world in nerfstudio's convention."""

    file_path: str
    transform_matrix: Matrix | None = None
    mask_path: str | None = None


class Transforms(Intrinsics, frozen=True, kw_only=True):
    """nerfstudio's transforms.json; fields that are not named here are of no use to a survey."""

    frames: Annotated[list[TransformsFrame], msgspec.Meta(max_length=MOST_FRAMES)]
    test_filenames: list[str] = []


logger = logging.getLogger(__name__)


def find_transforms(directory: Path) -> Path | None:
    """The transforms.json of a dataset's normal images, or None."""
    return next((directory / name for name in NAMES if (directory / name).is_file()), None)


def read_transforms(path: Path, root: Path, progress: Progress = quiet) -> SurveySource:
    """A survey from a transforms.json; ``root`` is the dataset's folder, in which its images are looked for.

    Poses are used as they are (what nerfstudio notes as ``applied_transform`` is part of them already). Where there is
    a ``test`` folder, as in the MAD layout, its frames are left out.
    Raises OmniadError for broken JSON, missing files, missing or different intrinsics, and poses that are none.
    """
    data = load_transforms(path)
    finder = ImageFinder(path.parent, root)
    found = [(frame, finder.find(frame.file_path)) for frame in data.frames]
    tests = root / "test"
    if tests.is_dir():
        found = [(f, p) for f, p in found if not _is_test(f, p, tests)] or found
    missing = [frame.file_path for frame, image in found if image is None]
    if len(missing) > MISSING * len(found):
        raise OmniadError(f"{path} names {len(missing)} image(s) that are not there, the first is {missing[0]}")
    if missing:  # instant-ngp and nerfstudio leave them out as well: their own example set has some
        logger.warning(
            "%s names %d images that are not there: left out (the first is %s)", path, len(missing), missing[0]
        )
        found = [(frame, image) for frame, image in found if image is not None]
    if not found:
        raise OmniadError(f"no images in {path}: its 'frames' list names none of normal images")
    found = _once_each(found, path)
    frames, images = [f for f, _ in found], [p for _, p in found]
    width, height, plain = check_pictures(images, progress, upright=False)
    if upright := _turned(data, width, height):
        width, height, plain = check_pictures(images, upright=True)
    cameras = read_cameras(data, frames, (width, height), path)
    camera = common_camera(cameras, path)
    poses = tuple(read_pose(frame, path) for frame in frames)
    say_masks(frames, path)
    if plain := plain and all(_alike([camera, own]) for own in dict.fromkeys(cameras)):
        pictures = partial(read_pictures, images, upright)
    else:
        pictures = partial(_brought_to, camera, cameras, images, upright)
    return SurveySource(
        root, "transforms", camera, "file", unique_names(images, None if plain else ".png"), poses, tuple(images),
        pictures, tuple(images) if plain else (), upright,
    )  # fmt: skip


def _brought_to(camera: Camera, cameras: list[Camera], images: list[Path], upright: bool) -> Iterator[np.ndarray]:
    for own, image in zip(cameras, read_pictures(images, upright), strict=True):
        yield Rectifier(own, camera)(image) if own != camera else image


def _once_each(found: list[tuple[TransformsFrame, Path]], path: Path) -> list[tuple[TransformsFrame, Path]]:
    """Without frames that repeat another one. Raises OmniadError where one image has several poses."""
    kept: dict[Path, TransformsFrame] = {}
    for frame, image in found:
        if kept.setdefault(image, frame).transform_matrix != frame.transform_matrix:
            raise OmniadError(f"{path} gives {frame.file_path} twice, with different poses")
    return [(frame, image) for image, frame in kept.items()]


def _turned(data: Transforms, width: int, height: int) -> bool:
    """Whether w and h are those of the upright images where photographs are stored lying down (as COLMAP and nerfstudio use them)."""
    w, h = data.w or 0, data.h or 0
    given = 0 < w <= MAX_SIDE and 0 < h <= MAX_SIDE
    return given and abs(w * height - h * width) > 0.01 * w * height and abs(w * width - h * height) < 0.01 * w * width


def _is_test(frame: TransformsFrame, image: Path | None, tests: Path) -> bool:
    named = frame.file_path.lstrip("./").startswith("test/")
    return named or (image is not None and image.is_relative_to(tests))


def load_transforms(path: Path) -> Transforms:
    """A transforms.json. Raises OmniadError, one sentence, where it is none; numbers need not be finite yet."""
    return as_transforms(read_json(path), path)


def as_transforms(data, path: Path) -> Transforms:
    """Parsed JSON as `Transforms`. Raises OmniadError where it is something else."""
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise OmniadError(f"{path} has no list of 'frames' as nerfstudio writes it")
    if not all(isinstance(frame.get("file_path"), str) for frame in frames):
        raise OmniadError(f"{path} has frames without a file_path")
    return as_type(data, str(path), Transforms)


def read_pose(frame: TransformsFrame, path: Path) -> Pose | None:
    """A frame's pose, None where it has none. Raises OmniadError where it is not finite or no rotation."""
    if frame.transform_matrix is None:
        return None
    name = frame.file_path
    try:
        matrix = np.asarray(frame.transform_matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise OmniadError(f"{path}: the transform_matrix of {name} is no matrix of numbers") from None
    if matrix.shape not in ((3, 4), (4, 4)):
        raise OmniadError(
            f"{path}: the transform_matrix of {name} must be 4x4, not {'x'.join(map(str, matrix.shape)) or 'a number'}"
        )
    if not np.isfinite(matrix).all():
        raise OmniadError(f"{path}: the transform_matrix of {name} is not finite")
    if np.abs(matrix[:3, 3]).max() > MAX_DISTANCE:
        raise OmniadError(f"{path}: the transform_matrix of {name} is farther away than any place on earth")
    if np.abs(matrix[:3, :3]).max() > MAX_DISTANCE:
        raise OmniadError(f"{path}: the transform_matrix of {name} is no rotation")
    singular = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if singular.max() - singular.min() < 0.01 * singular.max() and abs(singular.mean() - 1) > 0.01:
        raise OmniadError(
            f"{path}: the rotation part of {name}'s transform_matrix carries a scale of {singular.mean():.4g}; divide it by that"
        )
    if len(matrix) == 4 and not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-3):
        raise OmniadError(f"{path}: the last row of {name}'s transform_matrix must be 0 0 0 1")
    try:
        return Pose.from_opengl(matrix)
    except ValueError as error:
        raise OmniadError(f"{path}: the transform_matrix of {name} is no pose: {error}") from None


def read_cameras(data: Transforms, frames: list[TransformsFrame], size: tuple[int, int], path: Path) -> list[Camera]:
    """The camera of each frame, for images of ``size`` (width, height). Raises OmniadError where it is not given."""
    shared, own = data.given(), [frame.given() for frame in frames]
    keys = [tuple(sorted(extra.items())) for extra in own]
    built = {key: _camera({**shared, **dict(key)}, size, path) for key in dict.fromkeys(keys)}
    return [built[key] for key in keys]


def _values(cameras: list[Camera]) -> np.ndarray:
    return np.array([[c.fx, c.fy, c.cx, c.cy] for c in cameras])


def _alike(cameras: list[Camera]) -> bool:
    """Whether no image looks different by which of these cameras it is taken for."""
    values = _values(cameras)
    distortions = {(c.distortion_model, tuple(np.round(c.distortion, 6))) for c in cameras}
    low, high = values.min(0), values.max(0)
    return len(distortions) == 1 and bool((high - low <= 1e-3 * np.maximum(1.0, np.abs(low))).all())


def say_masks(frames: list[TransformsFrame], path: Path) -> None:
    """Warn where masks come with the images: what they hide is learnt as a part of the normal place."""
    masked = sum(bool(frame.mask_path) for frame in frames)
    if masked:
        logger.warning("%s names masks for %d of its %d images: they are not used", path, masked, len(frames))


def common_camera(cameras: list[Camera], path: Path) -> Camera:
    """The one camera of all frames; where the lens was focused or steadied meanwhile, a pinhole that shows no more than each of them.

    Raises OmniadError where they differ by more than that.
    """
    first = cameras[0]
    if _alike(cameras):
        return first
    values = _values(cameras)
    low, high = values.min(0), values.max(0)
    if (high[:2] > (1 + VARIES) * low[:2]).any() or (high[2:] - low[2:] > VARIES * first.width).any():
        raise OmniadError(
            f"{path}: its frames have different intrinsics; a survey must come from one camera with a fixed zoom"
        )
    middle = np.median(values[:, 2:], axis=0)
    logger.info(
        "the frames' intrinsics vary (focal length by %.1f %%): all images are brought to one camera",
        100 * (high[0] / low[0] - 1),
    )
    return Camera(first.width, first.height, *high[:2].tolist(), *middle.tolist())


def _camera(values: dict, size: tuple[int, int], path: Path) -> Camera:
    width, height = size
    model = str(values.pop("camera_model", "OPENCV")).upper()
    fisheye = model in FISHEYE_MODELS or values.pop("is_fisheye", False) is True
    if model not in PINHOLE_MODELS + FISHEYE_MODELS:
        raise OmniadError(
            f"{path}: camera_model {model} is not supported, only {', '.join(PINHOLE_MODELS + FISHEYE_MODELS)}"
        )
    if not all(math.isfinite(value) for value in values.values()):
        raise OmniadError(f"{path}: its intrinsics are not finite")
    w, h = values.get("w", width), values.get("h", height)
    if w < 1 or h < 1:
        raise OmniadError(f"{path}: w and h must be positive")
    if max(w, h) > MAX_SIDE:
        raise OmniadError(f"{path} says that images are {w:g}x{h:g}, which no camera's are")
    for name, value in values.items():
        if name[0] in "kp" and abs(value) > MAX_DISTORTION:
            raise OmniadError(f"{path}: the distortion {name} is {value:.3g}, which no lens has")
    fx = values.get("fl_x") or _focal(values.get("camera_angle_x"), w)
    fy = values.get("fl_y") or _focal(values.get("camera_angle_y"), h)
    if not (fx or fy):
        raise OmniadError(f"{path} has no intrinsics: expected fl_x (and fl_y, cx, cy) or camera_angle_x")
    sx, sy = width / w, height / h
    if abs(sx / sy - 1) > 0.01:
        raise OmniadError(f"{path} says that images are {w:.0f}x{h:.0f}, but they are {width}x{height}")
    try:
        _check_place(values, (w, h), (fx or fy, fy or fx), path)
        camera = Camera(
            width, height, (fx or fy) * sx, (fy or fx) * sy, values.get("cx", w / 2) * sx, values.get("cy", h / 2) * sy
        )
        camera = _with_distortion(camera, model, fisheye, values, path)
        camera.check_distortion()
        return camera
    except ValueError as error:
        raise OmniadError(f"{path}: {error}") from None


def _check_place(values: dict, size: tuple[float, float], focal: tuple[float, float], path: Path) -> None:
    """Raise OmniadError where intrinsics in pixels cannot be those of images of this size (width, height)."""
    given = "" if "w" in values and "h" in values else "; are they those of larger images? Give w and h, too"
    for name, side in (("cx", size[0]), ("cy", size[1])):
        if name in values and not 0 < values[name] < side:
            raise OmniadError(
                f"{path}: {name} {values[name]:g} does not lie in images of {size[0]:.0f}x{size[1]:.0f} pixels{given}"
            )
    low, high = FOCAL[0] * max(size), FOCAL[1] * max(size)
    if not all(low < value < high for value in focal):
        raise OmniadError(
            f"{path}: a focal length of {focal[0]:g} pixels is none of images of {size[0]:.0f}x{size[1]:.0f} pixels{given}"
        )


def _focal(angle: float | None, side: float) -> float | None:
    return 0.5 * side / math.tan(0.5 * angle) if angle and 0 < angle < math.pi else None


def _with_distortion(camera: Camera, model: str, fisheye: bool, values: dict, path: Path) -> Camera:
    k = [values.get(f"k{i}", 0.0) for i in range(1, 7)]
    p = [values.get("p1", 0.0), values.get("p2", 0.0)]
    if fisheye:
        # also with zero coefficients: the equidistant projection itself is no pinhole
        return replace(camera, distortion_model="equidistant", distortion=tuple(k[:4]))
    if not any(k + p):
        return camera
    if model == "FULL_OPENCV":
        return replace(camera, distortion_model="rational_polynomial", distortion=(k[0], k[1], *p, *k[2:]))
    if any(k[3:]):
        raise OmniadError(f"{path}: a distortion k4 needs camera_model FULL_OPENCV or OPENCV_FISHEYE")
    return replace(camera, distortion_model="plumb_bob", distortion=(k[0], k[1], *p, k[2]))


class ImageFinder:
    """Finds the image that a file_path means: as written, without a suffix, below the dataset's root, or by its name alone."""

    def __init__(self, *bases: Path):
        self.bases = tuple(dict.fromkeys(bases))
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, file_path: str) -> Path | None:
        """The existing file, or None."""
        relative = Path(file_path.replace("\\", "/"))
        if not relative.name:
            return None
        for base in self.bases:
            for candidate in (
                base / relative,
                *(base / f"{relative}{suffix}" for suffix in (*SUFFIXES, ".JPG", ".PNG")),
            ):
                with contextlib.suppress(OSError):  # a name that is too long, a folder that may not be looked into
                    if candidate.is_file():
                        return candidate
        same_name = self._named(relative.name)
        return same_name[0] if len(same_name) == 1 else None

    def _named(self, name: str) -> list[Path]:
        if self._by_name is None:
            self._by_name = {}
            for base in self.bases:
                for place in (base, base / "images", base / "train", base / "train" / "good"):
                    for image in list_images(place) if place.is_dir() else ():
                        for key in {image.name, image.stem}:
                            paths = self._by_name.setdefault(key, [])
                            if image not in paths:
                                paths.append(image)
        return self._by_name.get(name, [])
