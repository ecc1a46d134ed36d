"""Surveys out of a video file: its keyframes, without poses and by an assumed camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import check_regular
from omniad_ros.recordings.folder import assumed_camera
from omniad_ros.recordings.keyframes import KeyframeOptions, KeyframeSelector
from omniad_ros.recordings.source import SurveySource

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mjpeg")


def read_video(path: Path, progress: Progress = quiet, options: KeyframeOptions | None = None) -> SurveySource:
    """A survey without poses from a video's keyframes; its camera is assumed.

    Raises OmniadError where the video cannot be read or shows one view only.
    """
    check_regular(path)
    options = options or KeyframeOptions()
    total = max(1, _frame_count(path))
    selector, chosen, size = KeyframeSelector(options), [], None
    for index, image in enumerate(_frames(path)):
        size = image.shape[1], image.shape[0]
        if (keyframe := selector.add(index, image)) is not None:
            chosen.append(keyframe)
        progress(min(1.0, (index + 1) / total), f"choosing keyframes of {path.name}: {len(chosen)}")
    if (keyframe := selector.finish()) is not None:
        chosen.append(keyframe)
    if size is None:
        raise OmniadError(f"{path} is not a video that can be read")
    chosen = options.thinned(chosen)
    names = tuple(f"{index:06d}.jpg" for index in chosen)
    keep = frozenset(chosen)

    def open_images() -> Iterator[np.ndarray]:
        return (image for index, image in enumerate(_frames(path)) if index in keep)

    return SurveySource(
        path, "video", assumed_camera(*size), "guess", names, (None,) * len(names), (path,), open_images
    )


def _frame_count(path: Path) -> int:
    import cv2

    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


def _frames(path: Path) -> Iterator[np.ndarray]:
    import cv2

    capture = cv2.VideoCapture(str(path))
    try:
        while True:
            ok, image = capture.read()
            if not ok:
                return
            yield np.ascontiguousarray(image[..., ::-1])
    finally:
        capture.release()
