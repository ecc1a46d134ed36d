"""ALIKED (Zhao et al., 2023) by pycolmap as a feature source, where pycolmap can run it.

pycolmap's packages on PyPI are built without ONNX and cannot; a build with ONNX downloads the network when it is first used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.mapping.backend import ABSENT
from omniad_ros.mapping.features import Features, unit


@dataclass(frozen=True)
class AlikedOptions:
    """model: pycolmap's name of the network.
    ratio: a match must be so much nearer (in descriptor space) than the next keypoint.
    """

    model: Literal["ALIKED_N16ROT", "ALIKED_N32"] = "ALIKED_N16ROT"
    ratio: float = 0.9


class AlikedSource:
    """Raises OmniadError where pycolmap cannot run the network."""

    pairwise: ClassVar[bool] = True
    workers: ClassVar[int] = 1

    def __init__(self, options: AlikedOptions):
        self.options = options
        try:
            import pycolmap
        except ModuleNotFoundError:
            raise OmniadError(f"ALIKED needs pycolmap, {ABSENT}") from None
        extraction = pycolmap.FeatureExtractionOptions(getattr(pycolmap.FeatureExtractorType, options.model))
        try:
            self._extractor = pycolmap.FeatureExtractor.create(extraction, pycolmap.Device.auto)
        except Exception as error:  # built without ONNX, or its network is not there and cannot be downloaded
            raise OmniadError(
                f"pycolmap cannot run ALIKED here ({str(error).strip().rstrip('.')}); install a pycolmap that is built with ONNX, with the "
                "network to be downloaded once, or choose 'sift' or 'hloc/aliked-n16/aliked+lightglue'"
            ) from error

    def extract(self, image: np.ndarray) -> Features:
        height, width = image.shape[:2]
        keypoints, descriptors = self._extractor.extract_from_uint8_array(np.ascontiguousarray(image))
        import pycolmap

        keypoints = pycolmap.keypoints_to_matrix(keypoints)[:, :2].astype(np.float32)
        return Features(
            keypoints, unit(descriptors.to_float().data), np.ones(len(keypoints), np.float32), (width, height)
        )

    def match(self, first: Features, second: Features) -> np.ndarray:
        """Nearest neighbours of each other that pass the ratio test."""
        if min(len(first), len(second)) < 2:
            return np.empty((0, 2), int)
        similarity = first.descriptors @ second.descriptors.T
        rows, best, back = np.arange(len(first)), similarity.argmax(axis=1), similarity.argmax(axis=0)
        nearest = similarity[rows, best]
        similarity[rows, best] = -1.0
        distinct = 1.0 - nearest < self.options.ratio**2 * (1.0 - similarity.max(axis=1))
        kept = np.flatnonzero((back[best] == rows) & distinct)
        return np.stack([kept, best[kept]], axis=1)

    def look(self, image: np.ndarray) -> None:
        return None

    def describe(self) -> dict:
        return {"features": "aliked", "options": asdict(self.options)}
