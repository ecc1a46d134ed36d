"""How a detector is built: what a user may change, and what is stored with the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from omniad_ros.core.feedback import OmniadError

LEAST_TRAINED, LEAST_HELDOUT = 8, 4
"""Views without which no detector can be trained and calibrated."""


@dataclass(frozen=True)
class DetectorOptions:
    """How a detector is built. The defaults are ours (``OURS``); ``PLAIN`` is reverse distillation as published.

    backbone: "auto" (cached ImageNet weights, else the bundled teacher), or a name of `student.BACKBONES`;
    teacher_weights: a file for it, or "". attention: attention blocks in the student; use_novel: learn from the field's
    novel views (INV, QANV); comparison: compare with the reference view; photographs: redraw the reference view from the
    survey's photographs.
    distillation_steps, comparison_steps: training steps of 4 and 8 images; adaptation_steps: of the student where a site is
    adapted, the comparison takes half of them. longest_side: pixels at which the detector works.
    false_alarm_rate: share of normal frames in which a false region is allowed, as far as planted anomalies are still found then;
    smallest_region: share of the frame's pixels under which a region is ignored, in calibration as in inspection; second_look: compare
    again at the camera's pixels where these are more; smallest_thing: pixels across, of the second look, of the smallest thing that it
    is to find.
    The comparison's steps were chosen on two path-traced scenes (docs/design-notes.md); the others by what a build may last.
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
    second_look: bool = True
    smallest_thing: float = 12.0
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
        if not 0 < self.smallest_thing < math.inf:
            raise OmniadError("smallest_thing must be a positive number of pixels")

    def smallest_area(self, height: int, width: int, twice: bool) -> float:
        """Pixels of a heatmap of that size under which a region is ignored; twice: whether it was looked at twice. A thing counts
        from a third of its square on: round, thin or seen in part."""
        return self.smallest_thing**2 / 3 if twice else self.smallest_region * height * width

    def working_size(self, image: np.ndarray) -> tuple[int, int]:
        """(width, height) at which an image of this shape is looked at."""
        height, width = image.shape[:2]
        scale = min(1.0, self.longest_side / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))


OURS = DetectorOptions()
PLAIN = replace(OURS, attention=False, use_novel=False, comparison=False)
"""Reverse distillation as published (arXiv 2201.10703), the ablation's first row."""
