"""hloc (Sarlin et al., 2019) as a feature source: its extractors, matchers and retrieval by its own configuration names.

hloc's programs work on files; a robot's frames come one by one. So this module takes hloc's models and configurations,
and runs them on one image or pair in memory, with the same preparation as hloc's programs.
"""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict, dataclass
from typing import ClassVar

import cv2
import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.mapping.features import KEYPOINT_ORIGIN, Features, unit

INSTALL = (
    "git clone --recursive https://github.com/cvg/Hierarchical-Localization && pip install ./Hierarchical-Localization"
)
NOT_EXTRA = ("keypoints", "scores", "keypoint_scores", "descriptors", "image_size")


@dataclass(frozen=True)
class HlocOptions:
    """hloc's names of the local features, of their matcher, and of the retrieval (empty: by the local features)."""

    extractor: str
    matcher: str
    retrieval: str = ""


class HlocSource:
    """Features, matches and global descriptors by hloc. Models are loaded when first used, on the GPU if there is one.

    Raises OmniadError where hloc is not installed, or has no configuration of such a name.
    """

    pairwise: ClassVar[bool] = True
    workers: ClassVar[int] = 1

    def __init__(self, options: HlocOptions):
        self.options = options
        extract_features, match_features = _hloc()
        self._extraction = _configuration(extract_features.confs, options.extractor, "extractor")
        self._matching = _configuration(match_features.confs, options.matcher, "matcher")
        self._retrieval = (
            _configuration(extract_features.confs, options.retrieval, "retrieval") if options.retrieval else None
        )

    def extract(self, image: np.ndarray) -> Features:
        tensor = _prepared(image, self._extraction["preprocessing"])
        found = _run(self._extractor, {"image": tensor}, self.options.extractor)
        height, width = image.shape[:2]
        scale = np.array([width / tensor.shape[-1], height / tensor.shape[-2]], np.float32)
        # hloc takes all keypoints to have pixel centres at integers; those of COLMAP's SIFT have them at half-integers
        origin = 0.0 if self._extraction["model"]["name"] == "dog" else KEYPOINT_ORIGIN
        scores = found.get("scores", found.get("keypoint_scores"))
        extra = {
            key: value for key, value in found.items() if key not in NOT_EXTRA and len(value) == len(found["keypoints"])
        }
        if "scales" in extra:
            extra["scales"] = extra["scales"] * scale.mean()
        return Features(
            ((found["keypoints"] + origin) * scale).astype(np.float32),
            unit(found["descriptors"].T.astype(np.float32)),
            np.ones(len(found["keypoints"]), np.float32) if scores is None else scores.astype(np.float32),
            (width, height),
            extra,
        )

    def match(self, first: Features, second: Features) -> np.ndarray:
        if len(first) == 0 or len(second) == 0:
            return np.empty((0, 2), int)
        data = {**_as_hloc(first, "0"), **_as_hloc(second, "1")}
        target = _run(self._matcher, data, self.options.matcher)["matches0"]
        matched = np.flatnonzero(target > -1)
        return np.stack([matched, target[matched].astype(int)], axis=1)

    def look(self, image: np.ndarray) -> np.ndarray | None:
        if self._retrieval is None:
            return None
        tensor = _prepared(image, self._retrieval["preprocessing"])
        return unit(
            _run(self._looker, {"image": tensor}, self.options.retrieval)["global_descriptor"].astype(np.float32)
        )

    def describe(self) -> dict:
        return {"features": "hloc", "options": asdict(self.options)}

    @functools.cached_property
    def _extractor(self):
        from hloc import extractors

        return _model(extractors, self._extraction["model"], self.options.extractor)

    @functools.cached_property
    def _matcher(self):
        from hloc import matchers

        return _model(matchers, self._matching["model"], self.options.matcher)

    @functools.cached_property
    def _looker(self):
        from hloc import extractors

        return _model(extractors, self._retrieval["model"], self.options.retrieval)


def _hloc():
    """hloc's modules with the configurations."""
    try:
        from hloc import extract_features, match_features
    except ImportError as error:
        raise OmniadError(
            f"hloc's features need hloc, and its import failed ({error}); install it with '{INSTALL}'"
        ) from error
    logging.getLogger("hloc").setLevel(logging.WARNING)
    return extract_features, match_features


def _configuration(known: dict, name: str, role: str) -> dict:
    if name not in known:
        raise OmniadError(f"hloc has no {role} named '{name}'; it has {', '.join(sorted(known))}")
    return known[name]


def _model(package, configuration: dict, name: str):
    import torch
    from hloc.utils.base_model import dynamic_load

    try:
        model = dynamic_load(package, configuration["name"])(dict(configuration))
    except Exception as error:  # missing packages or submodules, weights that cannot be downloaded: each in its own way
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OmniadError(
            f"hloc's '{name}' cannot be loaded ({reason}); install what it needs, or choose other features"
        ) from error
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _prepared(image: np.ndarray, preprocessing: dict):
    """A uint8 RGB image as hloc's extractors want it: resized, grey or colour, float (1, C, H, W) in [0, 1]."""
    import torch
    from hloc.extract_features import ImageDataset, resize_image

    options = {**ImageDataset.default_conf, **preprocessing}
    image = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if options["grayscale"] else image).astype(np.float32)
    height, width = image.shape[:2]
    if options["resize_max"] and (options["resize_force"] or max(height, width) > options["resize_max"]):
        scale = options["resize_max"] / max(height, width)
        image = resize_image(image, (round(width * scale), round(height * scale)), options["interpolation"])
    image = image[None] if options["grayscale"] else image.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(image / 255.0))[None]


def _as_hloc(features: Features, suffix: str) -> dict:
    """One image's part of what hloc's matchers want; the image itself only tells its size."""
    import torch

    arrays = {
        "keypoints": features.keypoints - np.float32(KEYPOINT_ORIGIN), "scores": features.scores,
        "keypoint_scores": features.scores, "descriptors": features.descriptors.T, **features.extra,
    }  # fmt: skip
    data = {
        key + suffix: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))[None]
        for key, value in arrays.items()
    }
    width, height = features.size
    return {**data, "image" + suffix: torch.empty((1, 1, height, width))}


def _run(model, data: dict, name: str) -> dict[str, np.ndarray]:
    """The model's answer for a batch of one, as arrays."""
    import torch

    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        answer = model({key: value.to(device) for key, value in data.items()})
    if not isinstance(answer, dict):
        raise OmniadError(f"hloc's '{name}' gave an answer of an unknown kind; does its version fit?")
    arrays = {}
    for key, value in answer.items():
        if isinstance(value, (list, tuple, torch.Tensor)) and len(value):
            first = value[0]
            arrays[key] = first.cpu().numpy() if isinstance(first, torch.Tensor) else np.asarray(first)
    return arrays
