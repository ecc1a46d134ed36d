"""Surveys: which reader a path is for, and how what was read is written; a bad one is refused before anything is on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import check_empty
from omniad_ros.core.geometry import Rectifier
from omniad_ros.core.images import resized, write_image
from omniad_ros.recordings import bag, folder, transforms, video
from omniad_ros.recordings.source import FrameSource, SurveySource
from omniad_ros.site import LARGEST_SIDE, PosedImages, write_transforms

logger = logging.getLogger(__name__)


def read_survey(path: Path | str, progress: Progress = quiet, options: bag.BagOptions | None = None) -> SurveySource:
    """Look through a survey; nothing is written.

    path: a folder with nerfstudio's transforms.json (or such a file itself), a dataset in the MAD layout, a plain folder of
    images, a video file, or a rosbag2 (its folder, or an .mcap or .db3 file); options: which topics of a bag are read.
    Raises OmniadError, one sentence, where it cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise OmniadError(f"the survey {path} does not exist")
    if bag.is_bag(path):
        return bag.read_bag(path, options, progress)
    if path.is_file() and path.suffix.lower() == ".json":
        return transforms.read_transforms(path, path.parent, progress)
    if path.is_file() and path.suffix.lower() in video.SUFFIXES:
        return video.read_video(path, progress)
    if path.suffix == ".bag":
        raise OmniadError(
            f"{path} is a bag of ROS 1; convert it with 'rosbags-convert --src {path} --dst FOLDER' and give that folder"
        )
    if path.is_file():
        raise OmniadError(f"{path} is no survey: expected a folder, a transforms.json, a video or a rosbag2")
    found = transforms.find_transforms(path)
    return transforms.read_transforms(found, path, progress) if found else folder.read_folder(path, progress)


def open_frames(path: Path | str, options: bag.BagOptions | None = None, progress: Progress = quiet) -> FrameSource:
    """The frames of a recorded patrol: of a bag all of them, of a video its keyframes, of a folder its images.

    Raises OmniadError where there are none.
    """
    path = Path(path)
    if not path.exists():
        raise OmniadError(f"{path} does not exist")
    return bag.open_bag(path, options) if bag.is_bag(path) else read_survey(path, progress).patrol()


def write_survey(source: SurveySource, directory: Path, progress: Progress = quiet) -> PosedImages:
    """Write a survey's images, undistorted, and their transforms.json into a directory.

    Files that an interrupted call left there are replaced. Raises OmniadError where an image cannot be read.
    """
    if source.camera_from != "file":
        known = "EXIF gives" if source.camera_from == "exif" else "assuming"
        focal = source.camera.fx / max(source.camera.width, source.camera.height)
        fov = 2 * np.degrees(np.arctan(0.5 / focal))
        said = "the survey says nothing of its camera: %s a field of view of %.0f degrees, to be refined"
        logger.warning(said, known, fov)
    rectify = Rectifier(source.camera)
    camera = rectify.camera.fitted(LARGEST_SIDE)
    images = directory / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    as_is = rectify.maps is None and camera == rectify.camera and source.originals and all(source.originals)
    for index, (name, image) in enumerate(zip(source.names, source.originals if as_is else source.open_images())):
        if as_is:
            shutil.copyfile(image, images / name)
        else:
            write_image(images / name, resized(rectify(image), camera.width, camera.height))
        progress((index + 1) / len(source), f"survey image {index + 1} of {len(source)}")
    survey = PosedImages(camera, directory, tuple(f"images/{name}" for name in source.names), source.poses)
    write_transforms(directory / "transforms.json", survey, {"camera_from": source.camera_from})
    return survey


def written_pixel(source: SurveySource, pixel: tuple[float, float]) -> tuple[float, float]:
    """Where a pixel (u, v) of a survey's image as it was given lies in the undistorted one that `write_survey` writes."""
    import cv2

    camera = source.camera
    if camera.distortion_model != "none":
        undistort = cv2.fisheye.undistortPoints if camera.distortion_model == "equidistant" else cv2.undistortPoints
        k = camera.opencv_matrix()
        pixel = undistort(np.array([[pixel]], float), k, np.array(camera.distortion), P=k)[0, 0]
    scale = camera.undistorted().fitted(LARGEST_SIDE).width / camera.width
    return float(pixel[0] * scale), float(pixel[1] * scale)


def export_survey(source: SurveySource, out: Path, progress: Progress = quiet) -> PosedImages:
    """Write a survey into a folder of its own (what `omniad survey BAG --out SURVEY` does): all of it, or nothing.

    Raises OmniadError where ``out`` holds something, or an image cannot be read.
    """
    check_empty(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        survey = write_survey(source, Path(work) / "survey", progress)
        (Path(work) / "survey").replace(out)
    return replace(survey, root=out)


def fingerprint(source: SurveySource) -> str:
    """Hex digest of a survey's content (images, intrinsics, poses), the same wherever the survey lies."""
    digest = hashlib.sha256()
    poses = [None if pose is None else (pose.matrix().round(6) + 0.0).tolist() for pose in source.poses]
    digest.update(json.dumps([source.camera.to_dict(), source.names, poses]).encode())
    for file in source.files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
