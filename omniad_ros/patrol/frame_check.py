"""Is a frame fit to be inspected? A covered lens, a black, white, frozen or blurred frame is the camera's fault.

Such a frame must be said as such, and must not be reported as an anomaly of the place. One that is only somewhat blurred, by
a robot that turns, still shows what is large.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from omniad_ros.core.geometry import Pose, pose_of, rows_of
from omniad_ros.site import PosedImages

SIDE = 160


@dataclass(frozen=True)
class FrameCheckOptions:
    """What is no picture of a place any more.

    dark, bright: grey values that 99 % of a black, or of a white frame do not pass; light: share of the darkest survey image's mean grey
    below which a frame is too dark; contrast: standard deviation of
    grey below which nothing is to be seen, in one cell of a grid; covered: share of such cells; sharpness: share of the
    least sharp survey image's sharpness below which a frame is blurred; hopeless: below which it shows nothing any more; moved: metres (or tens of degrees) after which two frames cannot be equal.
    """

    dark: float = 18.0
    bright: float = 245.0
    light: float = 0.2
    contrast: float = 3.0
    covered: float = 0.7
    sharpness: float = 0.5
    hopeless: float = 0.25
    moved: float = 0.05


class FrameVerdict(NamedTuple):
    """reason: why a frame cannot be trusted, one phrase, empty where it can; hopeless: it must not even be looked at."""

    reason: str
    hopeless: bool


SOUND = FrameVerdict("", False)


class SavedFrameCheck(msgspec.Struct):
    """A `FrameCheck` as JSON holds it: the last frame's digest, and where the robot was at the first frame like it (4, 4)."""

    digest: bytes | None
    seen_at: list[list[float]] | None


class FrameCheck:
    """Judges the frames of one camera, one after the other; ``survey`` shows how sharp frames of the place are."""

    def __init__(self, survey: PosedImages | None = None, options: FrameCheckOptions | None = None):
        self.options = options or FrameCheckOptions()
        self.least_sharpness = self.least_light = 0.0
        if survey is not None and len(survey):
            chosen = np.linspace(0, len(survey) - 1, min(len(survey), 24)).round().astype(int)
            greys = [_grey(survey.image(int(i))) for i in chosen]
            self.least_sharpness = min(map(_sharpness, greys))
            self.least_light = min(float(grey.mean()) for grey in greys)
        self.reset()

    def reset(self) -> None:
        self._digest: bytes | None = None
        self._seen_at: Pose | None = None

    def saved(self) -> SavedFrameCheck:
        """What `restore` needs to go on."""
        return SavedFrameCheck(self._digest, rows_of(self._seen_at))

    def restore(self, saved: SavedFrameCheck) -> None:
        """Go on where another one was saved. Raises ValueError where a pose is none."""
        self._digest = saved.digest
        self._seen_at = pose_of(saved.seen_at)

    def __call__(self, image: np.ndarray, odom_from_base: Pose | None = None) -> FrameVerdict:
        """Judge a frame (uint8 RGB, H x W x 3)."""
        if self._frozen(image, odom_from_base):
            return FrameVerdict("the camera's image is frozen: it stays the same while the robot moves", True)
        grey, options = _grey(image), self.options
        if np.percentile(grey, 99) < options.dark:
            return FrameVerdict("the image is black: the lens is covered or there is no light", True)
        if np.percentile(grey, 1) > options.bright:
            return FrameVerdict("the image is white: the camera is blinded or overexposed", True)
        if grey.mean() < options.light * self.least_light:
            share = 100 * float(grey.mean()) / self.least_light
            return FrameVerdict(f"the image is too dark: {share:.0f} % of the survey's darkest; is there light?", True)
        if _flat_share(grey, options.contrast) > options.covered:
            return FrameVerdict("the image shows nothing: the lens is covered or dirty", True)
        sharpness = _sharpness(grey)
        if sharpness < options.sharpness * self.least_sharpness:
            reason = "the image is blurred: the lens is out of focus or dirty, or the robot too fast"
            return FrameVerdict(reason, sharpness < options.hopeless * self.least_sharpness)
        return SOUND

    def _frozen(self, image: np.ndarray, odom_from_base: Pose | None) -> bool:
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        if digest != self._digest:
            self._digest, self._seen_at = digest, odom_from_base
            return False
        if odom_from_base is None or self._seen_at is None:
            return False
        metres, degrees = odom_from_base.distance(self._seen_at)
        return metres + 0.1 * degrees * self.options.moved > self.options.moved


def _grey(image: np.ndarray) -> np.ndarray:
    """float32 grey, reduced so that sensor noise and sub-pixel blur do not count."""
    import cv2

    scale = SIDE / max(image.shape[:2])
    size = max(8, round(image.shape[1] * scale)), max(8, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)


def _sharpness(grey: np.ndarray) -> float:
    """Strength of the sharpest edges: 99th percentile of the Laplacian, over the contrast of the whole."""
    import cv2

    contrast = float(np.percentile(grey, 98) - np.percentile(grey, 2))
    return float(np.percentile(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), 99)) / max(contrast, 1.0)


def _flat_share(grey: np.ndarray, contrast: float) -> float:
    rows, columns = grey.shape[0] // 8, grey.shape[1] // 8
    cells = grey[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8)
    return float((cells.std(axis=(1, 3)) < contrast).mean())
