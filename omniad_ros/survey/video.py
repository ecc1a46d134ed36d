"""Keyframes of a video: a new one each time the picture has moved on, the sharpest of its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.feedback import OmniadError, Progress, quiet
from omniad_ros.geometry import Camera
from omniad_ros.survey.folder import ASSUMED_FOV_DEGREES, logger
from omniad_ros.survey.source import SurveySource

SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mjpeg")


@dataclass(frozen=True)
class KeyframeOptions:
    """When a picture has moved on.

    motion: median displacement of tracked corners, as a fraction of the image width; kept: fraction of corners that may be
    lost before the view counts as new; width: pixels at which motion and sharpness are judged; most: keyframes at most.
    """

    motion: float = 0.06
    kept: float = 0.6
    width: int = 320
    most: int = 600


class KeyframeSelector:
    """Chooses keyframes from a stream of images, by motion and sharpness.

    Feed every image with `add`; it returns the index of a finished keyframe or None; `finish` returns the last one.
    """

    def __init__(self, options: KeyframeOptions = KeyframeOptions()):
        self.options = options
        self._reference = self._corners = None
        self._best: tuple[float, int] | None = None
        self._moved = False

    def add(self, index: int, image: np.ndarray) -> int | None:
        """image: uint8 RGB (H, W, 3). Returns the index of the keyframe that this image closes, if any."""
        import cv2

        height = max(1, round(image.shape[0] * self.options.width / image.shape[1]))
        grey = cv2.cvtColor(cv2.resize(image, (self.options.width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        if self._reference is None:
            self._start(grey, sharpness, index)
            return None
        moved = self._motion(grey)
        if moved < self.options.motion:
            # the view is still that of the last keyframe: the sharpest picture of it is kept
            if sharpness > self._best[0] and moved < 0.5 * self.options.motion:
                self._best = (sharpness, index)
            return None
        chosen = self._best[1]
        self._start(grey, sharpness, index)
        return chosen

    def finish(self) -> int | None:
        return None if self._best is None else self._best[1]

    def _start(self, grey: np.ndarray, sharpness: float, index: int) -> None:
        import cv2

        self._reference, self._best = grey, (sharpness, index)
        self._corners = cv2.goodFeaturesToTrack(grey, 200, 0.01, 7)

    def _motion(self, grey: np.ndarray) -> float:
        import cv2

        if self._corners is None:
            return float("inf")
        moved, status, _ = cv2.calcOpticalFlowPyrLK(self._reference, grey, self._corners, None, winSize=(21, 21), maxLevel=4)
        kept = status.ravel() == 1
        if kept.mean() < self.options.kept:
            return float("inf")
        return float(np.median(np.linalg.norm(moved[kept] - self._corners[kept], axis=-1))) / self.options.width


def read_video(path: Path, progress: Progress = quiet, options: KeyframeOptions = KeyframeOptions()) -> SurveySource:
    """A survey without poses from a video's keyframes; its camera is assumed to see 60 degrees, said in the log.

    Raises OmniadError where the video cannot be read or shows one view only.
    """
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
    if len(chosen) > options.most:
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, options.most).round().astype(int)]
    logger.warning("a video says nothing about its camera: assuming a field of view of %.0f degrees", ASSUMED_FOV_DEGREES)
    focal = 0.5 * max(size) / np.tan(np.radians(ASSUMED_FOV_DEGREES) / 2)
    names = tuple(f"{index:06d}.jpg" for index in chosen)
    keep = frozenset(chosen)

    def open_images() -> Iterator[np.ndarray]:
        return (image for index, image in enumerate(_frames(path)) if index in keep)

    camera = Camera(*size, focal, focal, size[0] / 2, size[1] / 2)
    return SurveySource(path, "video", camera, "guess", names, (None,) * len(names), (path,), open_images)


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
