"""Brings a detector to a place that has changed: the photographs that redraw its references, and what is wrongly raised in them.

Networks and calibration stay: they were made for all of the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Box, Camera, Pose
from omniad_ros.detection.detector import Detector
from omniad_ros.detection.normal_view import NormalView
from omniad_ros.detection.training import save_with_photographs
from omniad_ros.reference import ReferenceView
from omniad_ros.reference.field import Field
from omniad_ros.reference.photographs import PHOTOGRAPHS, Photographs, false_alarm_steps


@dataclass(frozen=True, eq=False)
class NewPhotograph:
    """image: uint8 RGB (h, w, 3) at working size; pose: ``map_from_camera``; shown: bool (h, w), the part that is to be drawn from;
    source: its number in the map's images."""

    image: np.ndarray
    pose: Pose
    shown: np.ndarray
    source: int


def renew_detector(
    directory: Path, out: Path, field: Field, camera: Camera, changed: Sequence[Box], new: Sequence[NewPhotograph],
    numbers: np.ndarray, progress: Progress = quiet,
) -> dict:  # fmt: skip
    """Write the detector of ``directory`` into ``out``, for the place as it is now; returns what site.json notes of it.

    field, camera: of the place as it is now, at working size; changed: where what the photographs of ``directory`` show holds no more;
    numbers: of its map's images in the map as it is now, -1 for those that left it.
    Raises OmniadError where the detector has no photographs.
    """
    if not (directory / PHOTOGRAPHS).is_file():
        raise OmniadError(
            "the site's references are not redrawn from photographs, so it cannot follow its place; build it again"
        )
    detector = Detector.load(directory)
    photographs = Photographs.load(directory / PHOTOGRAPHS).renumbered(numbers).forgetting(changed, field)
    if new:
        renderings = [field.render(camera, n.pose) for n in new]
        depths = [np.where(n.shown, r.depth, np.float32(np.nan)) for n, r in zip(new, renderings, strict=True)]
        images, poses, sources = ([getattr(n, name) for n in new] for name in ("image", "pose", "source"))
        photographs = photographs.joined(Photographs.of(images, depths, poses, camera, sources))
        if detector.networks.comparison is not None:
            alarms, first = photographs.false_alarms.copy(), len(photographs.poses) - len(new)
            for number, (photograph, rendering) in enumerate(zip(new, renderings, strict=True)):
                progress(number / len(new), "noting what is wrongly raised in the new photographs")
                reference = photographs.without(photograph.pose).redraw(rendering, camera, photograph.pose)
                alarms[first + number] = _raised(detector, photograph, reference)
            photographs = replace(photographs, false_alarms=alarms)
    save_with_photographs(detector, photographs, out)
    return {"photographs": len(photographs.poses)}


def _raised(detector: Detector, photograph: NewPhotograph, reference: ReferenceView) -> np.ndarray:
    """What the comparison wrongly raises in a photograph, as `ReferenceView.false_alarm` has it."""
    frame, other = NormalView(photograph.image, reference).compared()
    other = np.where(photograph.shown[..., None], other, frame)
    logits = detector.networks.comparison_scores(frame, other, reference.covered & photograph.shown)
    return np.where(photograph.shown, false_alarm_steps(logits), np.uint8(0))
