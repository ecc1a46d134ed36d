"""The site bundle: the only place that knows its files.

A site is a directory of data, never code: JSON, images, HDF5, COLMAP's binary model and safetensors. `site.json` lists
the SHA-256 of every other file. A build adds one stage after the other; each is written into a hidden work directory
beside the final one and renamed when whole, so an interrupted build goes on with the stage it was in, and a finished
stage is never half there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from omniad_ros.core.arrays import Expected, read_arrays
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_empty, disk_errors, hashes, read_json, regular_files, sha256, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import MAX_SIDE, read_image

logger = logging.getLogger(__name__)

FORMAT = "omniad-site"
PLAIN, VERSION = 1, 2
"""Formats of site.json: one whose stages lie in folders of their own names, and one that says where they lie (`versions`)."""
STAGES = ("survey", "map", "radiance", "detector")
VERSIONS = "versions"
"""The folder of a site in which its later versions lie, and what each version is."""
MAP_FRAME = "map"
LARGEST_SIDE = 1600
"""Pixels: larger images are reduced before anything looks at them; feature extraction gains nothing beyond, and needs minutes more."""
LONGEST_SIDE = 320
"""Pixels at which field, detector and inspection work where a site does not say otherwise."""
DETAIL_SIDE, DETAIL_WORTH = 1280, 1.25
"""Pixels at most at which a second look is taken, and how many times the working size they must be for it to pay."""
SMALLEST_SIDE = 64
"""Pixels: with less the detector's coarsest layer has nothing to look at."""

WorkingSize = Annotated[int, msgspec.Meta(ge=SMALLEST_SIDE, le=MAX_SIDE)]
Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
Row = tuple[float, float, float, float]


class _Head(msgspec.Struct):
    """What says whether a site.json can be read at all: these two stay in every version."""

    format: str
    version: Annotated[int, msgspec.Meta(ge=1)]


class _Manifest(_Head, kw_only=True, omit_defaults=True):
    """site.json. longest_side is absent from sites that were built before it was noted; folders: of the stages that do not lie
    under their own names; the rest is said in `versions.Version`."""

    source: str
    frames: dict[str, str]
    stages: dict[str, dict]
    files: dict[str, str]
    camera: Camera | None = None
    longest_side: WorkingSize | None = None
    folders: dict[str, str] = {}
    number: Annotated[int, msgspec.Meta(ge=1)] = 1
    made: float = 0.0
    changes: str = ""
    taken_in: list[int] = []


class _DetectorOptions(msgspec.Struct):
    longest_side: WorkingSize = LONGEST_SIDE


class _Detector(msgspec.Struct):
    """Of detector.json, what a site without a working size was built at."""

    options: _DetectorOptions = msgspec.field(default_factory=_DetectorOptions)


class _Frame(msgspec.Struct):
    file_path: str
    transform_matrix: tuple[Row, Row, Row, Row] | None = None


class _Transforms(msgspec.Struct):
    """What `write_transforms` writes."""

    w: Side
    h: Side
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    frames: Annotated[list[_Frame], msgspec.Meta(min_length=1)]


_POINTS = {
    "xyz": Expected("f4", ("points", 3)), "rgb": Expected("u1", ("points", 3)), "image": Expected("i4", ("observations",)),
    "point": Expected("i4", ("observations",)), "pixel": Expected("f4", ("observations", 2)),
}  # fmt: skip


@dataclass(frozen=True)
class PosedImages:
    """Images of one pinhole camera, with poses: a survey with its prior poses, or the mapped images with refined ones.

    Image ``i`` is ``root / names[i]``; ``poses[i]`` is ``map_from_camera``, or None where a survey has no odometry.
    """

    camera: Camera
    root: Path
    names: tuple[str, ...]
    poses: tuple[Pose | None, ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / self.names[index]

    def image(self, index: int) -> np.ndarray:
        """uint8 RGB (H, W, 3)."""
        return read_image(self.path(index))

    def subset(self, indices) -> PosedImages:
        indices = [int(i) for i in indices]
        return dataclasses.replace(
            self, names=tuple(self.names[i] for i in indices), poses=tuple(self.poses[i] for i in indices)
        )


@dataclass(frozen=True)
class SparsePoints:
    """The map's triangulated points, and which image saw which.

    xyz: (P, 3) float32, map frame; rgb: (P, 3) uint8; image, point: (K,) int32 indices of each observation into
    `Site.mapped` and into ``xyz``; pixel: (K, 2) float32, half-integer pixel centres.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    image: np.ndarray
    point: np.ndarray
    pixel: np.ndarray


def write_transforms(
    path: Path, images: PosedImages, extra: dict | None = None, cameras: Sequence[Camera] = ()
) -> None:
    """Write poses in nerfstudio's transforms.json format, with image paths relative to it.

    cameras: one an image, where they differ.
    """
    frames = []
    for index, pose in enumerate(images.poses):
        frame = {"file_path": os.path.relpath(images.path(index), path.parent)}
        if pose is not None:
            frame["transform_matrix"] = pose.opengl().tolist()
        frames.append({**frame, **(_intrinsics(cameras[index]) if cameras else {})})
    write_json(path, {"camera_model": "OPENCV", **_intrinsics(images.camera), **(extra or {}), "frames": frames})


def _intrinsics(camera: Camera) -> dict:
    return {
        "w": camera.width, "h": camera.height, "fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy
    }  # fmt: skip


def read_transforms(path: Path, inside: Path | None = None) -> PosedImages:
    """Read back what `write_transforms` wrote (`recordings` reads foreign files).

    inside: the folder outside which no image may lie. Raises OmniadError where the file is damaged or names others.
    """
    data = _read(path, _Transforms)
    names = tuple(frame.file_path for frame in data.frames)
    for name in names:
        if inside is not None and not _stays_in(inside, path.parent, name):
            raise OmniadError(f"{path} names an image outside the site: {name}")
    poses = []
    for frame in data.frames:
        try:
            matrix = frame.transform_matrix
            poses.append(None if matrix is None else Pose.from_opengl(np.array(matrix)))
        except ValueError as error:
            raise OmniadError(f"{path} is damaged at {frame.file_path}: {error}; build the site again") from None
    try:
        camera = Camera(data.w, data.h, data.fl_x, data.fl_y, data.cx, data.cy)
        camera.check_pinhole()
    except ValueError as error:
        raise OmniadError(f"{path} is damaged: {error}; build the site again") from None
    return PosedImages(camera, path.parent, names, tuple(poses))


def read_points(path: Path, images: int) -> SparsePoints:
    """The `SparsePoints` of a map with so many images. Raises OmniadError where the file is missing or damaged."""
    arrays = read_arrays(path, _POINTS)
    for key, count in (("image", images), ("point", len(arrays["xyz"]))):
        if not ((arrays[key] >= 0) & (arrays[key] < count)).all():
            raise OmniadError(f"{path} is damaged: {key} holds numbers that point nowhere; build the site again")
    return SparsePoints(**arrays)


def _read(path: Path, type):
    try:
        return read_json(path, type)
    except OmniadError as error:
        raise OmniadError(f"{error}; copy the site again or build it again") from None


def _stays_in(folder: Path, base: Path, name: str) -> bool:
    """Whether a relative name, seen from ``base`` and with its "..", stays in a folder; links are not followed."""
    place = Path(os.path.abspath(base / name))
    return not Path(name).is_absolute() and "\0" not in name and place.is_relative_to(os.path.abspath(folder))


class Site:
    """A site on disk. Make one with `Site.create` and `stage`; open a finished one with `Site.open`."""

    def __init__(self, path: Path, manifest: dict):
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: Path | str, source: str, longest_side: int = LONGEST_SIDE) -> Site:
        """A new site, or the unfinished one of the same ``source`` (a fingerprint of the survey) to go on with.

        Raises OmniadError where the directory holds anything else; nothing is changed then.
        """
        path = Path(path)
        if (path / "site.json").is_file():
            site = cls.open(path, complete=False, verify=False)
            if site.manifest["source"] != source:
                raise OmniadError(
                    f"{path} holds the site of another survey or other options; choose an empty output folder"
                )
            return site
        if longest_side < SMALLEST_SIDE:
            raise OmniadError(f"a site's longest side must be at least {SMALLEST_SIDE} pixels, not {longest_side}")
        check_empty(path)
        site = cls(path, {"format": FORMAT, "version": PLAIN, "source": source,
                          "longest_side": longest_side,
            "frames": {"map": MAP_FRAME, "camera": "optical"}, "camera": None, "stages": {}, "files": {}})  # fmt: skip
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "site.json", site.manifest)
        return site

    @classmethod
    def open(cls, path: Path | str, complete: bool = True, verify: bool = True) -> Site:
        """Open a site.

        complete: refuse a site whose build is unfinished; verify: refuse a missing or altered file.
        Raises OmniadError with one sentence.
        """
        path = Path(path)
        if not (path / "site.json").is_file():
            raise OmniadError(
                f"{path} is not a site: it has no site.json (build one with 'omniad build SURVEY --out {path}')"
            )
        manifest = cls.read_manifest(path / "site.json")
        missing = [stage for stage in STAGES if stage not in manifest["stages"]]
        if complete and missing:
            raise OmniadError(
                f"the site {path} is unfinished (no {missing[0]} yet); run the same 'omniad build' again to go on"
            )
        site = cls(path, manifest)
        if verify:
            site.verify()
        return site

    @staticmethod
    def read_manifest(file: Path, path: Path | None = None) -> dict:
        """What a site.json says, of the site that lies at ``path``, or where the file does. Raises OmniadError."""
        path = path or file.parent
        head = _read(file, _Head)
        if head.format != FORMAT:
            raise OmniadError(f"{file} does not describe a site")
        if head.version > VERSION:
            raise OmniadError(
                f"{path} was written by a newer omniad_ros (site format {head.version}, this one reads up to {VERSION}); update omniad_ros"
            )
        manifest = _read(file, _Manifest)
        for name in (*manifest.files, *manifest.folders.values()):
            if not _stays_in(path, path, name):
                raise OmniadError(f"{file} names a file outside the site: {name}")
        if "survey" in manifest.stages and manifest.camera is None:
            raise OmniadError(f"{file} is damaged: it has a survey and no camera; build the site again")
        try:
            if manifest.camera is not None:
                manifest.camera.check_pinhole()
        except ValueError as error:
            raise OmniadError(f"{file} is damaged: {error}; build the site again") from None
        return {"camera": None, **msgspec.to_builtins(manifest)}

    def verify(self) -> None:
        """Raise OmniadError where a file is missing, altered, or not listed."""
        found = {file.relative_to(self.path).as_posix(): file for file in regular_files(self.path)}
        for name, digest in self.manifest["files"].items():
            file = self.path / name
            if name not in found:
                raise OmniadError(f"the site {self.path} misses {name}; copy it again or build the site again")
            if sha256(file) != digest:
                raise OmniadError(f"{file} was altered since the site was built; copy it again or build the site again")
        unlisted = {name: file for name, file in found.items() if name not in self.manifest["files"]}
        for name, file in unlisted.items():
            if any(name.startswith(f"{self.folder(stage)}/") for stage in STAGES):
                raise OmniadError(f"{file} is not listed in site.json; remove it or build the site again")
        beside = [file for name, file in unlisted.items() if name != "site.json" and not self._known(name)]
        if beside:  # a report, say, of somebody who stood in the site's folder
            logger.warning("%s is not a part of the site, and is not looked at", beside[0])

    def _known(self, name: str) -> bool:
        """Whether an unlisted file is what an interrupted stage left, to go on with, or another version's."""
        top = name.partition("/")[0]
        return top.startswith(".site.json") or top in {VERSIONS, *STAGES, *(f".{stage}" for stage in STAGES)}

    def folder(self, stage: str) -> str:
        """Where a stage lies, relative to the site: under its own name, but in later versions."""
        return self.manifest.get("folders", {}).get(stage, stage)

    def has(self, stage: str) -> bool:
        return stage in self.manifest["stages"]

    def info(self, stage: str) -> dict:
        """What the build noted about a finished stage."""
        return self.manifest["stages"][stage]

    @contextlib.contextmanager
    def stage(self, name: str, info: dict | None = None) -> Iterator[Path]:
        """The directory in which a stage is written; renamed into place and hashed when the block ends well.

        After an interruption the next build gets the same directory again, so long work may keep a checkpoint there;
        names at its top that begin with '.' are removed at the end. ``info`` may be filled by the block; it goes to site.json.
        """
        info = {} if info is None else info
        folder = self.folder(name)
        work, final = self.path / f".{name}", self.path / folder
        with disk_errors(self.path):
            work.mkdir(exist_ok=True)
            yield work
            for leftover in list(work.glob(".*")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            files = {k: v for k, v in self.manifest["files"].items() if not k.startswith(f"{folder}/")}
            files |= hashes(work, folder)
            manifest = {**self.manifest, "files": files, "stages": {**self.manifest["stages"], name: info}}
            if name == "survey":
                manifest["camera"] = read_transforms(work / "transforms.json", self.path).camera.to_dict()
            # all that can fail for want of space comes before an old stage gives way
            write_json(self.path / ".site.json", manifest)
            shutil.rmtree(final, ignore_errors=True)
            work.rename(final)
            os.replace(self.path / ".site.json", self.path / "site.json")
            self.manifest = manifest
            kept = self.path / VERSIONS / str(manifest.get("number", 1)) / "site.json"
            if kept.is_file():
                write_json(kept, manifest)

    @property
    def camera(self) -> Camera:
        return Camera.from_dict(self.manifest["camera"])

    @property
    def longest_side(self) -> int:
        """Working size: pixels of the longer side at which field, detector and inspection look at this place."""
        noted = self.manifest.get("longest_side")
        if noted is None:
            detector = self.detector_dir / "detector.json"
            noted = _read(detector, _Detector).options.longest_side if detector.is_file() else LONGEST_SIDE
        return noted

    def working_camera(self, camera: Camera, longest_side: int | None = None) -> Camera:
        """The camera of a frame's reference view and comparison: rectified, at the working size, or another where it is given."""
        return camera.undistorted().fitted(LARGEST_SIDE).fitted(longest_side or self.longest_side)

    def detail_camera(self, camera: Camera, longest_side: int = DETAIL_SIDE) -> Camera | None:
        """The camera of a frame's second look: as large as frame and survey are, ``longest_side`` at most; None where that is
        hardly larger than the working size."""
        side = min(longest_side, max(self.camera.width, self.camera.height))
        detail = camera.undistorted().fitted(LARGEST_SIDE).fitted(side)
        return detail if max(detail.width, detail.height) >= DETAIL_WORTH * self.longest_side else None

    @property
    def map_dir(self) -> Path:
        return self.path / self.folder("map")

    @property
    def radiance_dir(self) -> Path:
        return self.path / self.folder("radiance")

    @property
    def detector_dir(self) -> Path:
        return self.path / self.folder("detector")

    @property
    def survey(self) -> PosedImages:
        """The survey's images with their prior poses."""
        return read_transforms(self.path / self.folder("survey") / "transforms.json", self.path)

    @property
    def mapped(self) -> PosedImages:
        """The survey images that the map registered, with refined poses."""
        images = read_transforms(self.map_dir / "transforms.json", self.path)
        if None in images.poses:
            raise OmniadError(f"{self.map_dir / 'transforms.json'} is damaged: a pose is missing; build the site again")
        return images

    @property
    def sparse_points(self) -> SparsePoints:
        return read_points(self.map_dir / "points.safetensors", len(self.mapped))
