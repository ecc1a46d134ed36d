"""What a detector is trained on and with which options."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose

GAP, UNSURE_GAP = 15, 9
"""Pixels at working size: of what is not covered, and of what hardly a photograph bears out."""
WITNESSES = 2
"""A single photograph may agree with a floater by chance."""


@dataclass(frozen=True)
class View:
    """A normal image beside its rendering from the same pose.

    image: uint8 RGB (H, W, 3); reference: uint8 RGB (h, w, 3), same field of view; depth: float32 (h, w), metres, NaN where
    the survey saw nothing; pose: the camera's, where the reference may be redrawn from the survey's photographs;
    support, alarm: as `survey_views.Recalled` has them, None where the reference was not redrawn.
    """

    image: np.ndarray
    reference: np.ndarray
    depth: np.ndarray
    pose: Pose | None = None
    support: np.ndarray | None = None
    alarm: np.ndarray | None = None

    def resized(self, size: tuple[int, int]) -> View:
        """The same view with image, reference and depth at ``size`` (width, height), not yet redrawn."""
        return View(
            resized(self.image, size), resized(self.reference, size), resized_depth(self.depth, size), self.pose
        )

    @property
    def covered(self) -> np.ndarray:
        """bool (h, w): where the survey saw the place, see `coverage`."""
        return coverage(self.depth)

    @property
    def doubtful(self) -> np.ndarray:
        """bool (h, w): where hardly more than the field says what is normal, see `doubt`."""
        return doubt(self.support, self.depth.shape)


@dataclass(frozen=True)
class DetectorOptions:
    """How a detector is built. The defaults are ours (``OURS``); ``PLAIN`` is reverse distillation as published.

    backbone: "auto" (cached ImageNet weights, else the bundled teacher), or a name of `student.BACKBONES`; teacher_weights: a file for it, or "". attention: attention blocks in the
    student; use_novel: learn from the field's novel views (INV, QANV); comparison: compare with the reference view;
    photographs: redraw the reference view from the survey's photographs.
    distillation_steps, comparison_steps: training steps of 4 and 8 images; adaptation_steps: of the student where a site is
    adapted, the comparison takes half of them. longest_side: pixels at which the detector works.
    false_alarm_rate: share of normal frames in which a false region is allowed; smallest_region: share of the frame's pixels
    under which a region is ignored.
    """

    backbone: str = "auto"
    teacher_weights: str = ""
    attention: bool = True
    use_novel: bool = True
    comparison: bool = True
    photographs: bool = True
    distillation_steps: int = 260
    comparison_steps: int = 150
    adaptation_steps: int = 120
    longest_side: int = 320
    false_alarm_rate: float = 1 / 200
    smallest_region: float = 0.0003
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.false_alarm_rate < 1:
            raise OmniadError("false_alarm_rate must lie between 0 and 1")
        if self.longest_side < 64:
            raise OmniadError("longest_side must be at least 64 pixels")
        if (
            min(self.distillation_steps, self.comparison_steps, self.adaptation_steps) < 0
            or not 0 <= self.smallest_region < 1
        ):
            raise OmniadError("a detector's steps and smallest region cannot be negative")

    def working_size(self, image: np.ndarray) -> tuple[int, int]:
        """(width, height) at which an image of this shape is looked at."""
        height, width = image.shape[:2]
        scale = min(1.0, self.longest_side / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))


OURS = DetectorOptions()
PLAIN = replace(OURS, attention=False, use_novel=False, comparison=False)
"""Reverse distillation as published (arXiv 2201.10703), the ablation's first row."""


def coverage(depth: np.ndarray) -> np.ndarray:
    """bool (h, w): where a reference view can be trusted: its depth is known, or unknown in a gap under GAP pixels only.

    Along silhouettes a rendering's depth belongs to neither side and is NaN although the survey saw both; what stands in
    front of such a line would otherwise be cut in pieces.
    """
    return _without_gaps(np.isfinite(depth), GAP)


def doubt(support: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """bool (h, w): where fewer than WITNESSES photographs of the survey agree with the reference view, but for gaps under
    UNSURE_GAP pixels; nowhere where the reference was not redrawn (``support`` is None)."""
    return np.zeros(shape, bool) if support is None else ~_without_gaps(support >= WITNESSES, UNSURE_GAP)


def _without_gaps(where: np.ndarray, gap: int) -> np.ndarray:
    padded = np.pad(where.astype(np.uint8), gap, mode="edge")
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    return closed[gap:-gap, gap:-gap] > 0


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A uint8 image at ``size`` (width, height)."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resized_depth(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth map at ``size`` (width, height), not blended over edges or into NaN."""
    return (
        depth if (depth.shape[1], depth.shape[0]) == size else cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)
    )
