"""From raw scores to a heatmap: the two networks' scores fused, what is linked to a high one raised with it, and calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import msgspec
import numpy as np

from omniad_ros.core.images import resized
from omniad_ros.detection.calibration import Calibration, Number, Positive

DISTILLATION_BOUNDS = (-2.0, 6.0)
"""Deviations to which a distillation score is clipped, so that an outlier of it cannot overrule the reference view."""


@dataclass(frozen=True)
class HysteresisOptions:
    """How far a high score reaches: smoothing: pixels of the Gaussian before it; drop: log-odds by which what is linked to it may
    lie below it; reach: pixels over which it is linked; all at working size.

    Chosen on the recorded scores of two path-traced scenes (docs/design-notes.md): F1 at the threshold 0.783 to 0.838.
    """

    smoothing: float = 1.0
    drop: float = 2.0
    reach: int = 4


HYSTERESIS = HysteresisOptions()


def hysteresis(score: np.ndarray, options: HysteresisOptions = HYSTERESIS) -> np.ndarray:
    """The scores (H, W) in log-odds with the surroundings of high ones raised: a pixel counts as much as one from which it is
    reached over at most ``reach`` pixels that lie at most ``drop`` below that one.

    So whatever the threshold, a region holds what is linked to it and nearly as bad (as in Canny's edges): the rims of
    things, which a network that works at half the size knows less well than their middles, but nothing new.
    """
    start = cv2.GaussianBlur(score.astype(np.float32), (0, 0), options.smoothing)
    most, result = start + options.drop, start
    for _ in range(options.reach):
        result = np.minimum(cv2.dilate(result, np.ones((3, 3), np.uint8)), most)
    return result


@dataclass(frozen=True, eq=False)
class RawScores:
    """What the networks and the survey say of a view's pixels, maps (H, W).

    distances: float32, of the distillation, None where it was not asked; logits: float32, of the comparison, None where the
    view was not compared, and with them doubtful: bool, where hardly more than the field says what is normal, and
    false_alarm: float32 logits, by which the comparison wrongly rose there in normal photographs; close: float32 (H, W) of the
    second look at its own size, NaN where nobody looked, None where there was none.
    """

    distances: np.ndarray | None
    logits: np.ndarray | None = None
    doubtful: np.ndarray | None = None
    false_alarm: np.ndarray | None = None
    close: np.ndarray | None = None


class DetailScores(msgspec.Struct, frozen=True):
    """How a second look counts: its logits times ``close``, the first look's score times ``first``, and ``offset``; fused: the
    calibration of both."""

    first: Number
    close: Number
    offset: Number
    fused: Calibration


class Scores(msgspec.Struct, frozen=True):
    """How raw scores are put together and calibrated, as calibration.json stores it.

    mean, deviation: of distances on normal views, which standardize them; comparison, distillation: weights of the two in
    the fused score; alone, fused: the calibrations without and with a reference view; comparison_in_doubt: the comparison's
    weight where the view is doubtful, and doubt, what is taken off there; false_alarm: how much is taken off of what was wrongly
    raised in the survey's photographs of a place; detail: of frames that were looked at twice.
    """

    mean: Number
    deviation: Positive
    comparison: Number
    distillation: Number
    alone: Calibration
    fused: Calibration | None
    comparison_in_doubt: Number = msgspec.field(default=0.0, name="doubtful")
    doubt: Number = 0.0
    false_alarm: Number = msgspec.field(default=0.0, name="alarm")
    detail: DetailScores | None = None

    def standardized(self, distances: np.ndarray) -> np.ndarray:
        """Distances in deviations from normal views' mean."""
        return (distances - self.mean) / self.deviation

    def bounded(self, distances: np.ndarray) -> np.ndarray:
        """`standardized`, within DISTILLATION_BOUNDS: as the fused score takes it."""
        return np.clip(self.standardized(distances), *DISTILLATION_BOUNDS)

    def first_look(self, raw: RawScores) -> np.ndarray:
        """The score (H, W) in log-odds, but for a constant, of a view that was compared."""
        in_doubt = self.comparison_in_doubt * raw.logits - self.doubt
        compared = np.where(raw.doubtful, in_doubt, self.comparison * raw.logits) - self.false_alarm * raw.false_alarm
        return compared if raw.distances is None else compared + self.distillation * self.bounded(raw.distances)

    def fuse(self, raw: RawScores) -> np.ndarray:
        """The fused score (H, W) in log-odds of a view that was compared at working size."""
        return hysteresis(self.first_look(raw))

    def fuse_detail(self, raw: RawScores, detail: DetailScores) -> np.ndarray:
        """The fused score in log-odds of a view that was looked at twice, at the second look's size."""
        first = resized(self.first_look(raw).astype(np.float32), *raw.close.shape[1::-1])
        both = detail.first * first + detail.close * raw.close + detail.offset
        return hysteresis(np.where(np.isnan(raw.close), first, both))

    def heatmap(self, raw: RawScores) -> np.ndarray:
        """float32 in [0, 1], at the size of the last look: of the fused score where the view was compared, else of the distillation
        alone."""
        if raw.logits is None:
            return self.alone.heatmap(self.standardized(raw.distances))
        if raw.close is not None and self.detail is not None:
            return self.detail.fused.heatmap(self.fuse_detail(raw, self.detail))
        return self.fused.heatmap(self.fuse(raw))
