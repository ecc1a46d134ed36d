"""The trained detector of a site: frame and reference view in, calibrated heatmap out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from omniad_ros.core.arrays import is_sound
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.images import resized, resized_map
from omniad_ros.detection import student
from omniad_ros.detection.calibration import Calibration
from omniad_ros.detection.comparison import ComparisonNetwork
from omniad_ros.detection.matching import colours_matched
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.normal_view import check_image, check_reference
from omniad_ros.detection.options import DetectorOptions
from omniad_ros.detection.scores import RawScores, Scores
from omniad_ros.detection.second_look import look_again
from omniad_ros.detection.student import ReverseDistillation, load_teacher
from omniad_ros.reference.view import ReferenceView

VERSION = 1
TEACHER = "teacher.safetensors"
LARGEST_WEIGHT = 1e5
"""Weights are near 1, and variances of what they give some hundreds."""
RATIO_TOLERANCE = 0.05
"""By how much the ratios of a frame's and its reference's sides may differ: rounding of small sizes."""


class TeacherIdentity(msgspec.Struct, frozen=True):
    """Which teacher a detector was trained with: a name of `student.BACKBONES`, and the SHA-256 of its weights."""

    backbone: str
    sha256: str


class _Version(msgspec.Struct):
    version: int


class _DetectorFile(msgspec.Struct):
    """detector.json; fields that earlier versions wrote besides are passed over."""

    teacher: TeacherIdentity
    options: DetectorOptions


@dataclass(frozen=True, eq=False)
class Detector:
    """Marks what differs from a site's normal state. It never changes: two frames are judged by the same one."""

    networks: Networks
    scores: Scores
    options: DetectorOptions
    teacher: TeacherIdentity

    @property
    def threshold(self) -> float:
        """The heatmap's default threshold, in (0, 1)."""
        return self._calibration.threshold(self._calibration.rate)

    @property
    def false_alarm_rate(self) -> float:
        """The share of normal frames that are expected to hold a false region at the default threshold."""
        return self._calibration.rate

    @property
    def _calibration(self) -> Calibration:
        last = self.scores.detail or self.scores
        return last.fused or self.scores.alone

    def threshold_at(self, false_alarm_rate: float) -> float:
        """The heatmap's threshold at which this share of normal frames holds a false region.

        Raises OmniadError for a rate that does not lie between 0 and 1.
        """
        if not 0 < false_alarm_rate < 1:
            raise OmniadError("false_alarm_rate must lie between 0 and 1")
        return self._calibration.threshold(false_alarm_rate)

    def heatmap(self, image: np.ndarray, reference: ReferenceView | None = None, whole: bool = False) -> np.ndarray:
        """How anomalous each pixel is: float32 (H, W) in [0, 1], 0 where the survey saw nothing (see `ReferenceView.covered`).

        image: uint8 RGB (H, W, 3); reference: of the same field of view and of any size, None for the distillation alone; whole: of
        a view with a detail, look again everywhere rather than where it pays.
        0.5 is the default threshold: only the stated share of normal frames holds a region above it.
        Raises OmniadError for other types and shapes, and where the networks' weights give what is no number.
        """
        check_image(image, "image")
        if reference is not None:
            check_reference(reference, "reference view")
            image, reference = colours_matched(image, reference)
        height, width = image.shape[:2]
        size = self.options.working_size(image)
        frame = resized(image, *size)
        if reference is None:
            return _finite(np.clip(resized(self.scores.heatmap(self._distilled(frame)), width, height), 0, 1))
        if abs(reference.image.shape[1] / reference.image.shape[0] - width / height) > RATIO_TOLERANCE:
            raise OmniadError(
                "the reference view must have the frame's field of view, but its sides have another ratio"
            )
        reference = reference.resized(*size)
        covered = reference.covered
        if self.networks.comparison is None:
            raw = self._distilled(frame)
        else:
            raw = self._compared(frame, reference, covered)
            if self.scores.detail is not None and reference.detail is not None:
                closer = resized(image, *reference.detail.shape[1::-1]).astype(np.float32) / 255
                raw = replace(raw, close=look_again(self.networks, closer, reference, raw.logits, whole))
        heat = np.clip(resized(self.scores.heatmap(raw), width, height), 0, 1)
        return _finite(np.where(resized_map(covered, width, height), heat, np.float32(0)))

    def _distilled(self, frame: np.ndarray) -> RawScores:
        return RawScores(self.networks.distillation_scores([frame])[0])

    def _compared(self, frame: np.ndarray, reference: ReferenceView, covered: np.ndarray) -> RawScores:
        # calibration may find that the distillation adds nothing to the comparison; then its time is saved
        needed = self.scores.distillation > 0
        distances = self.networks.distillation_scores([frame])[0] if needed else None
        pair = frame.astype(np.float32) / 255, reference.image.astype(np.float32) / 255
        logits = self.networks.comparison_scores(*pair, covered)
        return RawScores(distances, logits, reference.doubtful, reference.false_alarm_logits)

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
        teacher = self.teacher
        if teacher.backbone != "compact":
            save_file({k: v.contiguous() for k, v in self.networks.teacher.state_dict().items()}, directory / TEACHER)
            teacher = TeacherIdentity(teacher.backbone, student.file_sha256(directory / TEACHER))
        options = asdict(replace(self.options, teacher_weights=""))  # a path of this machine is no part of a site
        description = {"teacher": msgspec.to_builtins(teacher), "options": options}
        write_json(directory / "detector.json", {"version": VERSION, **description})
        write_json(directory / "calibration.json", {"version": VERSION, **msgspec.to_builtins(self.scores)})

    @staticmethod
    def load(directory: Path | str) -> Detector:
        """Open what `save` wrote. The teacher, the bundled one or the site's own, must be the very one it was trained with.

        Raises OmniadError for a missing, altered or newer file, or another teacher.
        """
        directory = Path(directory)
        description = _read(directory / "detector.json", _DetectorFile)
        scores = _read(directory / "calibration.json", Scores)
        options, identity = description.options, description.teacher
        if identity.backbone not in student.BACKBONES:
            raise OmniadError(f"{directory} names an unknown teacher '{identity.backbone}'")
        if options.comparison and scores.fused is None:
            raise OmniadError(f"{directory / 'calibration.json'} lacks the calibration of the detector's comparison")
        file = student.BUNDLED if identity.backbone == "compact" else directory / TEACHER
        teacher, _ = load_teacher(identity.backbone, file, identity.sha256)
        distillation = ReverseDistillation(teacher.channels, options.attention)
        comparison = ComparisonNetwork() if options.comparison else None
        try:
            weights = load_file(directory / "weights.safetensors")
            _check_finite(weights, directory / "weights.safetensors")
            for name, part in (("distillation", distillation), ("comparison", comparison)):
                if part is not None:
                    part.load_state_dict(
                        {k.removeprefix(f"{name}."): v for k, v in weights.items() if k.startswith(f"{name}.")}
                    )
        except OmniadError:
            raise
        except Exception as error:  # safetensors and torch raise many kinds for a damaged file
            raise OmniadError(f"{directory / 'weights.safetensors'} is missing or damaged") from error
        return Detector(Networks.for_inference(teacher, distillation, comparison), scores, options, identity)


def _check_finite(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Raise OmniadError where numbers cannot be weights: each heatmap would be NaN, and nothing found."""
    for name, values in weights.items():
        # the root of a negative variance is NaN, and a product of two absurd weights infinite
        sound = values.is_floating_point() and is_sound(values.float().numpy(), LARGEST_WEIGHT)
        if (sound and "running_var" in name and values.numel() and float(values.min()) < 0) or not (
            sound or values.dtype == torch.int64
        ):
            raise OmniadError(
                f"{path} holds values that are not finite, or that no weight has ({name}); copy the site again or build it again"
            )


def _finite(heatmap: np.ndarray) -> np.ndarray:
    """The heatmap itself. NaN is above no threshold: such a place would be called normal."""
    if not np.isfinite(heatmap).all():
        raise OmniadError(
            "the detector gives a heatmap that is not finite: its weights are damaged; build the site again"
        )
    return heatmap


def _read(path: Path, kind: type) -> object:
    if read_json(path, _Version).version != VERSION:
        raise OmniadError(f"{path} has a format that this version of omniad_ros does not know")
    return read_json(path, kind)
