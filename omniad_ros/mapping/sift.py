"""SIFT as a feature source: the one that is always there, and needs no GPU."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated, ClassVar

import cv2
import msgspec
import numpy as np

from omniad_ros.core.images import MAX_SIDE
from omniad_ros.mapping.backend import backend
from omniad_ros.mapping.features import Features, unit


@dataclass(frozen=True)
class SiftOptions:
    """max_features: at most so many keypoints an image, largest scale first.
    peak_threshold: contrast below which a keypoint is dropped (on grey values in [0, 1]).
    working_side: images are analysed at about so many pixels on their longest side: larger ones from `max_side` on
    are shrunk, those under 0.75 of it are enlarged twofold by SIFT's first octave.
    """

    max_features: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 2000
    peak_threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.003
    working_side: Annotated[int, msgspec.Meta(ge=16, le=MAX_SIDE)] = 640
    max_side: Annotated[int, msgspec.Meta(ge=16, le=MAX_SIDE)] = 1024


@dataclass(frozen=True)
class SiftSource:
    """SIFT (Lowe, 2004) on the CPU, described as RootSIFT (Arandjelović and Zisserman, 2012)."""

    options: SiftOptions = field(default_factory=SiftOptions)
    pairwise: ClassVar[bool] = False
    workers: ClassVar[int] = 0

    def extract(self, image: np.ndarray) -> Features:
        height, width = image.shape[:2]
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = min(1.0, self.options.max_side / max(height, width))
        if scale < 1.0:
            grey = cv2.resize(grey, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        enlarged = max(grey.shape) < 0.75 * self.options.working_side
        keypoints, descriptors = backend.sift(grey, self.options.max_features, self.options.peak_threshold, enlarged)
        x_scale, y_scale = width / grey.shape[1], height / grey.shape[0]
        return Features(
            keypoints * np.float32([x_scale, y_scale]),
            unit(descriptors),
            np.ones(len(keypoints), np.float32),
            (width, height),
        )

    def match(self, first: Features, second: Features) -> np.ndarray:
        raise NotImplementedError("SIFT is matched by descriptor distance")

    def look(self, image: np.ndarray) -> None:
        return None

    def describe(self) -> dict:
        return {"features": "sift", "options": asdict(self.options)}
