"""Keyframes of a stream of images: a new one each time the picture has moved on, the sharpest of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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

    def thinned(self, chosen: list[int]) -> list[int]:
        """At most ``most`` of the chosen indices, evenly."""
        if len(chosen) <= self.most:
            return chosen
        return [chosen[i] for i in np.linspace(0, len(chosen) - 1, self.most).round().astype(int)]


class KeyframeSelector:
    """Chooses keyframes from a stream of images, by motion and sharpness.

    Feed every image with `add`; it returns the index of a finished keyframe or None; `finish` returns the last one.
    """

    def __init__(self, options: KeyframeOptions | None = None):
        self.options = options or KeyframeOptions()
        self._reference = self._corners = None
        self._best: tuple[float, int] | None = None
        self._moved = False

    def add(self, index: int, image: np.ndarray) -> int | None:
        """image: uint8 RGB (H, W, 3). Returns the index of the keyframe that this image closes, if any."""
        import cv2

        height = max(1, round(image.shape[0] * self.options.width / image.shape[1]))
        grey = cv2.cvtColor(
            cv2.resize(image, (self.options.width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
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
        moved, status, _ = cv2.calcOpticalFlowPyrLK(
            self._reference, grey, self._corners, None, winSize=(21, 21), maxLevel=4
        )
        kept = status.ravel() == 1
        if kept.mean() < self.options.kept:
            return float("inf")
        return float(np.median(np.linalg.norm(moved[kept] - self._corners[kept], axis=-1))) / self.options.width
