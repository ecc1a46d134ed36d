"""The site bundle: the only place that knows its files.

A site is a directory of data, never code: JSON, images, HDF5, COLMAP's binary model and safetensors. `site.json` lists
the SHA-256 of every other file. A build adds one stage after the other; each is written into a hidden work directory
beside the final one and renamed when whole, so an interrupted build goes on with the stage it was in, and a finished
stage is never half there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import check_empty, disk_errors, read_json, sha256, write_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import read_image

FORMAT = "omniad-site"
VERSION = 1
STAGES = ("survey", "map", "radiance", "detector")
MAP_FRAME = "map"
LARGEST_SIDE = 1600
"""Pixels: larger images are reduced before anything looks at them; feature extraction gains nothing beyond, and needs minutes more."""
LONGEST_SIDE = 320
"""Pixels at which field, detector and inspection work where a site does not say otherwise."""


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


def write_transforms(path: Path, images: PosedImages, extra: dict | None = None) -> None:
    """Write poses in nerfstudio's transforms.json format, with image paths relative to it."""
    camera = images.camera
    frames = []
    for index, pose in enumerate(images.poses):
        frame = {"file_path": os.path.relpath(images.path(index), path.parent)}
        if pose is not None:
            frame["transform_matrix"] = pose.opengl().tolist()
        frames.append(frame)
    write_json(path, {
        "camera_model": "OPENCV", "w": camera.width, "h": camera.height,
        "fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, **(extra or {}), "frames": frames,
    })  # fmt: skip


def _read_own_transforms(path: Path) -> PosedImages:
    """Read back what `write_transforms` wrote (foreign files are the survey wing's)."""
    data = read_json(path)
    camera = Camera(data["w"], data["h"], data["fl_x"], data["fl_y"], data["cx"], data["cy"])
    poses = tuple(Pose.from_opengl(f["transform_matrix"]) if "transform_matrix" in f else None for f in data["frames"])
    return PosedImages(camera, path.parent, tuple(f["file_path"] for f in data["frames"]), poses)


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
        check_empty(path)
        site = cls(path, {"format": FORMAT, "version": VERSION, "source": source,
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
        manifest = read_json(path / "site.json")
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise OmniadError(f"{path / 'site.json'} does not describe a site")
        if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
            raise OmniadError(
                f"{path} was written by a newer omniad_ros (site format {manifest.get('version')}, this one reads up to {VERSION}); update omniad_ros"
            )
        if not all(isinstance(manifest.get(key), dict) for key in ("stages", "files", "frames")):
            raise OmniadError(f"{path / 'site.json'} is damaged; build the site again")
        missing = [stage for stage in STAGES if stage not in manifest["stages"]]
        if complete and missing:
            raise OmniadError(
                f"the site {path} is unfinished (no {missing[0]} yet); run the same 'omniad build' again to go on"
            )
        site = cls(path, manifest)
        if verify:
            site.verify()
        return site

    def verify(self) -> None:
        """Raise OmniadError where a file is missing, altered, or not listed."""
        root = self.path.resolve()
        for name, digest in self.manifest["files"].items():
            file = self.path / name
            if not file.resolve().is_relative_to(root):
                raise OmniadError(f"{self.path / 'site.json'} names a file outside the site: {name}")
            if not file.is_file():
                raise OmniadError(f"the site {self.path} misses {name}; copy it again or build the site again")
            if sha256(file) != digest:
                raise OmniadError(f"{file} was altered since the site was built; copy it again or build the site again")

        for stage in STAGES:
            for file in (self.path / stage).rglob("*"):
                if file.is_file() and file.relative_to(self.path).as_posix() not in self.manifest["files"]:
                    raise OmniadError(f"{file} is not listed in site.json; remove it or build the site again")

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
        work, final = self.path / f".{name}", self.path / name
        with disk_errors(self.path):
            work.mkdir(exist_ok=True)
            yield work
            for leftover in list(work.glob(".*")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            files = {k: v for k, v in self.manifest["files"].items() if not k.startswith(f"{name}/")}
            files |= {
                f"{name}/{file.relative_to(work).as_posix()}": sha256(file)
                for file in sorted(work.rglob("*"))
                if file.is_file()
            }
            manifest = {**self.manifest, "files": files, "stages": {**self.manifest["stages"], name: info}}
            if name == "survey":
                manifest["camera"] = _read_own_transforms(work / "transforms.json").camera.to_dict()
            # all that can fail for want of space comes before an old stage gives way
            write_json(self.path / ".site.json", manifest)
            shutil.rmtree(final, ignore_errors=True)
            work.rename(final)
            os.replace(self.path / ".site.json", self.path / "site.json")
            self.manifest = manifest

    @property
    def camera(self) -> Camera:
        return Camera.from_dict(self.manifest["camera"])

    @property
    def longest_side(self) -> int:
        """Working size: pixels of the longer side at which field, detector and inspection look at this place."""
        return int(self.manifest.get("longest_side", LONGEST_SIDE))

    def working_camera(self, camera: Camera) -> Camera:
        """The camera of a frame's reference view and comparison: rectified, at the working size."""
        return camera.undistorted().fitted(LARGEST_SIDE).fitted(self.longest_side)

    @property
    def map_dir(self) -> Path:
        return self.path / "map"

    @property
    def radiance_dir(self) -> Path:
        return self.path / "radiance"

    @property
    def detector_dir(self) -> Path:
        return self.path / "detector"

    @property
    def survey(self) -> PosedImages:
        """The survey's images with their prior poses."""
        return _read_own_transforms(self.path / "survey" / "transforms.json")

    @property
    def mapped(self) -> PosedImages:
        """The survey images that the map registered, with refined poses."""
        return _read_own_transforms(self.path / "map" / "transforms.json")

    @property
    def sparse_points(self) -> SparsePoints:
        from safetensors.numpy import load_file

        return SparsePoints(**load_file(self.path / "map" / "points.safetensors"))
