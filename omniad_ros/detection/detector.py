"""The trained detector of a site: frame, reference view and depth in, calibrated heatmap out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection import student
from omniad_ros.detection.calibration import Calibration
from omniad_ros.detection.comparison import ComparisonNetwork, network_input
from omniad_ros.detection.device import device, device_of, looking
from omniad_ros.detection.student import (
    ReverseDistillation,
    distillation_heatmap,
    load_teacher,
    normalized,
    padded,
    to_tensor,
)
from omniad_ros.detection.view import DetectorOptions, View, coverage, doubt, resized, resized_depth
from omniad_ros.reference.photographs import Recalled, SurveyViews

VERSION = 1
VIEWS, TEACHER = "views.safetensors", "teacher.safetensors"
SMOOTH, LOWER, REACH = 1.0, 2.0, 4
"""Pixels, log-odds, pixels at working size: see `grown`."""


@dataclass(frozen=True)
class Networks:
    """What gives the raw scores: the frozen teacher, the site's distillation and, where it has one, its comparison."""

    teacher: nn.Module
    distillation: ReverseDistillation
    comparison: ComparisonNetwork | None

    @torch.inference_mode()
    def distillation_scores(self, images: list[np.ndarray]) -> np.ndarray:
        """The paper's heatmap of uint8 images (H, W, 3) of one size: (B, H, W) float32, in sums of cosine distances."""
        height, width = images[0].shape[:2]
        where = device_of(self.teacher)
        x = normalized(padded(to_tensor(images))).to(where).contiguous(memory_format=torch.channels_last)
        with looking(where):
            maps = self.teacher(x)
            given_back = self.distillation(maps)
        return _smooth(distillation_heatmap(maps, given_back, *x.shape[-2:]), 2.0)[:, :height, :width].cpu().numpy()

    @torch.inference_mode()
    def comparison_scores(self, frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """Logits of change (H, W) float32 of float images (H, W, 3) in [0, 1]; covered: bool (H, W)."""
        height, width = frame.shape[:2]
        where = device_of(self.comparison)
        pair = torch.from_numpy(network_input(frame, reference, covered).transpose(2, 0, 1)[None]).to(where)
        pair = F.pad(pair, (0, -width % 32, 0, -height % 32), mode="replicate").contiguous(
            memory_format=torch.channels_last
        )
        with looking(where):
            logits = self.comparison.both_ways(pair).float()
        return F.interpolate(logits[:, None], scale_factor=2, mode="bilinear")[0, 0, :height, :width].cpu().numpy()


def _smooth(maps: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma)
    line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=maps.device) / sigma) ** 2)
    line = line / line.sum()
    x = F.pad(maps[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, line[None, None, None]), line[None, None, :, None])[:, 0]


def grown(score: np.ndarray) -> np.ndarray:
    """The scores (H, W) with the surroundings of high ones raised: a pixel counts as much as one that is reached from it over at most
    REACH pixels that lie at most LOWER below that one.

    So whatever the threshold, a region holds what is linked to it and nearly as bad (hysteresis, as in Canny's edges): the rims
    of things, which a network that works at half the size knows less well than their middles, but nothing new.
    """
    start = cv2.GaussianBlur(score.astype(np.float32), (0, 0), SMOOTH)
    most, result = start + LOWER, start
    for _ in range(REACH):
        result = np.minimum(cv2.dilate(result, np.ones((3, 3), np.uint8)), most)
    return result


@dataclass(frozen=True)
class Scores:
    """How the raw scores are put together and calibrated.

    mean, deviation: of distillation scores on normal views, which standardize it; comparison, distillation: weights of
    the two in the fused score; alone, fused: the calibrations without and with a reference view; doubtful, doubt: the
    comparison's weight where only the field says what is normal, and what is taken off there; alarm: how much of what was
    wrongly raised in the survey's photographs of a place is taken off there.
    """

    mean: float
    deviation: float
    comparison: float
    distillation: float
    alone: Calibration
    fused: Calibration | None
    doubtful: float = 0.0
    doubt: float = 0.0
    alarm: float = 0.0

    def standardized(self, distillation: np.ndarray) -> np.ndarray:
        return (distillation - self.mean) / self.deviation

    def fuse(
        self, comparison: np.ndarray, distillation: np.ndarray, doubtful: np.ndarray, alarm: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """The fused score (H, W) of logits and distances (H, W); doubtful: bool (H, W); alarm: of `Recalled`."""
        compared = (
            np.where(doubtful, self.doubtful * comparison - self.doubt, self.comparison * comparison)
            - self.alarm * alarm
        )
        # bounded, so that one outlier of the distillation cannot overrule the reference view
        return grown(compared + self.distillation * np.clip(self.standardized(distillation), -2, 6))

    @staticmethod
    def from_dict(data: dict) -> Scores:
        calibrations = {k: Calibration(**data[k]) if data[k] else None for k in ("alone", "fused")}
        return Scores(**{**{k: float(v) for k, v in data.items() if k not in calibrations}, **calibrations})


class Detector:
    """Marks what differs from a site's normal state.

    ``false_alarm_rate`` (share of normal frames with a false region) may be changed at any time and moves ``threshold``;
    a ``threshold`` set by hand stays until the rate is set again.
    """

    def __init__(
        self, networks: Networks, scores: Scores, options: DetectorOptions, teacher_name: str, teacher_sha256: str,
        views: SurveyViews | None = None,
    ):  # fmt: skip
        self.networks, self.scores, self.options, self.views = networks, scores, options, views
        self.teacher_name, self.teacher_sha256 = teacher_name, teacher_sha256
        self._rate, self._threshold = options.false_alarm_rate, None

    @property
    def false_alarm_rate(self) -> float:
        return self._rate

    @false_alarm_rate.setter
    def false_alarm_rate(self, rate: float) -> None:
        if not 0 < rate < 1:
            raise OmniadError("false_alarm_rate must lie between 0 and 1")
        self._rate, self._threshold = float(rate), None

    @property
    def threshold(self) -> float:
        """The heatmap's threshold, in (0, 1)."""
        if self._threshold is not None:
            return self._threshold
        return (self.scores.fused or self.scores.alone).threshold(self._rate)

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0 < value < 1:
            raise OmniadError("threshold must lie between 0 and 1")
        self._threshold = float(value)

    def redrawn(self, reference: np.ndarray, depth: np.ndarray, camera: Camera, pose: Pose) -> Recalled:
        """The reference view of a frame redrawn from the survey's photographs, for `heatmap`.

        reference: uint8 (h, w, 3) and depth: float32 (h, w) as the field renders them for ``camera`` at ``pose``. A site
        without photographs gives the reference back.
        """
        if self.views is None:
            return Recalled(reference)
        return self.views.recall(reference, depth, camera.resized(depth.shape[1], depth.shape[0]), pose)

    def heatmap(
        self, image: np.ndarray, reference: np.ndarray | Recalled | None = None, depth: np.ndarray | None = None
    ) -> np.ndarray:
        """How anomalous each pixel is: float32 (H, W) in [0, 1], 0 where the survey saw nothing
        (by `view.coverage`: gaps in the depth of a few pixels, as along silhouettes, count as seen).

        image: uint8 RGB (H, W, 3); reference: what `redrawn` gave, the field's view, uint8 RGB (h, w, 3) of the same field of
        view, or None for the distillation alone; depth: float32 (h, w) of the reference view, NaN where not covered, or None
        where all is covered.
        0.5 is the default threshold: only the stated share of normal frames holds a region above it.
        Raises OmniadError for other types and shapes.
        """
        _check(image, "image")
        size = self.options.working_size(image)
        small = resized(image, size)
        covered = np.ones(size[::-1], bool) if depth is None else coverage(resized_depth(_depth(depth), size))
        compared = reference is not None and self.networks.comparison is not None
        # calibration may find that the distillation adds nothing to the comparison; then its time is saved
        distillation = (
            self.networks.distillation_scores([small])[0] if not compared or self.scores.distillation > 0 else 0.0
        )
        if not compared:
            heat = self.scores.alone.heatmap(self.scores.standardized(distillation))
        else:
            recalled = reference if isinstance(reference, Recalled) else Recalled(reference)
            reference = recalled.image
            _check(reference, "reference")
            if abs(reference.shape[1] / reference.shape[0] - image.shape[1] / image.shape[0]) > 0.05:
                raise OmniadError(
                    "the reference view must have the frame's field of view, but its sides have another ratio"
                )
            frame, normal = small.astype(np.float32) / 255, resized(reference, size).astype(np.float32) / 255
            logits = self.networks.comparison_scores(frame, normal, covered)
            support, alarm = (None if x is None else resized_depth(x, size) for x in (recalled.support, recalled.alarm))
            doubtful = doubt(support, logits.shape)
            heat = self.scores.fused.heatmap(
                self.scores.fuse(logits, distillation, doubtful, 0.0 if alarm is None else alarm)
            )
        full = (image.shape[1], image.shape[0])
        if size != full:
            heat = np.clip(cv2.resize(heat, full, interpolation=cv2.INTER_LINEAR), 0, 1)
            covered = cv2.resize(covered.astype(np.uint8), full, interpolation=cv2.INTER_NEAREST) > 0
        return np.where(covered, heat, np.float32(0))

    def save(self, directory: Path) -> None:
        """Write detector.json, weights.safetensors and calibration.json, and the teacher where it is not the bundled one, so that
        the site can be used where that was never downloaded; a directory that lacks is made."""
        directory.mkdir(parents=True, exist_ok=True)
        parts = {"distillation": self.networks.distillation, "comparison": self.networks.comparison}
        weights = {
            f"{n}.{k}": v.contiguous()
            for n, part in parts.items()
            if part is not None
            for k, v in part.state_dict().items()
        }
        save_file(weights, directory / "weights.safetensors")
        options = asdict(replace(self.options, teacher_weights=""))  # a path of this machine is no part of a site
        sha256 = self.teacher_sha256
        if self.teacher_name != "compact":
            save_file({k: v.contiguous() for k, v in self.networks.teacher.state_dict().items()}, directory / TEACHER)
            sha256 = student.file_sha256(directory / TEACHER)
        teacher = {"backbone": self.teacher_name, "sha256": sha256}
        _write(directory / "calibration.json", {"version": VERSION, **asdict(self.scores)})
        _write(directory / "detector.json", {"version": VERSION, "teacher": teacher, "options": options})
        if self.views is not None:
            self.views.save(directory / VIEWS)

    @staticmethod
    def load(directory: Path | str) -> Detector:
        """Open what `save` wrote. The teacher, the bundled one or the site's own, must be the very one it was trained with.

        Raises OmniadError for a missing, altered or newer file, or another teacher.
        """
        directory = Path(directory)
        meta, calibration = _read(directory / "detector.json"), _read(directory / "calibration.json")
        try:
            options = DetectorOptions(**meta["options"])
            backbone, sha256 = meta["teacher"]["backbone"], meta["teacher"]["sha256"]
            scores = Scores.from_dict({k: v for k, v in calibration.items() if k != "version"})
        except (KeyError, TypeError, ValueError) as error:
            raise OmniadError(f"{directory} is not a detector of this version of omniad_ros") from error
        if backbone not in student.BACKBONES:
            raise OmniadError(f"{directory} names an unknown teacher '{backbone}'")
        teacher, sha256 = load_teacher(
            backbone, student.BUNDLED if backbone == "compact" else directory / TEACHER, sha256
        )
        distillation = ReverseDistillation(teacher.channels, options.attention)
        comparison = ComparisonNetwork() if options.comparison else None
        try:
            weights = load_file(directory / "weights.safetensors")
            for name, part in (("distillation", distillation), ("comparison", comparison)):
                if part is not None:
                    part.load_state_dict(
                        {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
                    )
        except Exception as error:  # safetensors and torch raise many kinds for a damaged file
            raise OmniadError(f"{directory / 'weights.safetensors'} is missing or damaged") from error
        views = SurveyViews.load(directory / VIEWS) if (directory / VIEWS).is_file() else None
        return Detector(finished(teacher, distillation, comparison), scores, options, backbone, sha256, views)


def finished(teacher: nn.Module, distillation: ReverseDistillation, comparison: ComparisonNetwork | None) -> Networks:
    """The networks as they are used: in evaluation mode, on the GPU where there is one, in the memory layout that is fastest."""
    for part in (teacher, distillation, comparison):
        if part is not None:
            part.eval().requires_grad_(False).to(device(), memory_format=torch.channels_last)
    return Networks(teacher, distillation, comparison)


def checked_views(views: list[View], what: str) -> None:
    """Raises OmniadError where an image, reference or depth of ``views`` is not what `View` says."""
    for view in views:
        _check(view.image, f"{what} image")
        _check(view.reference, f"{what} reference")
        if _depth(view.depth).shape != view.reference.shape[:2]:
            raise OmniadError(f"a {what} depth must have its reference's size")


def _check(image: np.ndarray, what: str) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise OmniadError(f"the {what} must be an RGB image of 8 bits a channel (H, W, 3)")
    if min(image.shape[:2]) < 32:
        raise OmniadError(f"the {what} must have at least 32 pixels a side")


def _depth(depth: np.ndarray) -> np.ndarray:
    depth = np.asarray(depth, dtype=np.float32)
    if depth.ndim != 2:
        raise OmniadError("the depth must be one channel (H, W) in metres")
    return depth


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n")


def _read(path: Path) -> dict:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise OmniadError(f"{path} is missing or damaged") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise OmniadError(f"{path} has a format that this version of omniad_ros does not know")
    return data
