"""From raw scores to a heatmap and a threshold with a stated false-alarm rate, learnt from normal views only.

A raw score map becomes a heatmap by one logistic curve that puts 0.5 at the default threshold. That is where only the share of
normal frames that was asked for would hold a false region; with a handful of normal frames that share lies outside the data, so
the highest level that makes a region in each frame is taken as Gumbel-distributed and extrapolated. Where anomalies planted in
normal views would no longer be found there, the default threshold lies lower, and the rate that is stated for it is the one that
it has, not the one that was asked for. Any other rate has its threshold on the same distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import msgspec
import numpy as np
from scipy.special import expit

Number = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
"""Of a calibration: scores are log-odds and sums of distances, some tens at most."""
Positive = Annotated[float, msgspec.Meta(ge=1e-6, le=1e6)]


@dataclass(frozen=True)
class CalibrationOptions:
    """Numbers of the calibration; those that name no source were set by judgement with the first detector and never tuned.

    variants: how many times each view is looked at, the first as it is, then each time with other nuisances;
    pose_error: pixels by which a reference then lies beside its frame; reference_blur: pixels by which what is planted in a
    reference is blurred; cut_from: about how many views planted things are cut from; pixels_drawn: of each view and class
    for the regression, whose weights need no more; ridge: the regression's penalty, a pixel;
    least_comparison: the comparison's weight never falls below, so that a fused score always looks at the reference.
    prevalence: share of anomalous pixels for which the threshold's F1 is judged; kept_f1: share of the best F1 that the
    threshold must keep (tabletop_1: without such a band F1 is 0.04 in place of 0.80; 0.90 gave 0.767, 0.95 gave 0.803).
    typical_logit: how far below 0 a typical normal pixel comes out, a heatmap of about 0.001 however sharp the score is;
    least_scale: of the Gumbel distribution and of the curve, where all levels are alike.
    """

    variants: int = 3
    pose_error: float = 0.4
    reference_blur: float = 0.5
    cut_from: int = 20
    pixels_drawn: int = 600
    ridge: float = 1e-3
    least_comparison: float = 0.05
    prevalence: float = 0.01
    kept_f1: float = 0.95
    typical_logit: float = 7.0
    least_scale: float = 1e-3


CALIBRATION = CalibrationOptions()
LEAST_RATE = 1e-6
"""Share of normal frames under which no false-alarm rate is stated."""
MOST_REACH = 50.0
"""Scales below the usual level at which every normal frame holds a false region, however far."""


@dataclass(frozen=True)
class Calibration:
    """The curve of one kind of score: ``heatmap = sigmoid((score - middle) / spread)``.

    location, scale: of the Gumbel distribution of a normal frame's level (see `region_level`); rate: the false-alarm rate at
    ``middle``, the default threshold.
    """

    location: Number
    scale: Positive
    rate: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    middle: Number
    spread: Positive

    @staticmethod
    def fitted(
        levels: np.ndarray, typical: float, rate: float, band: tuple[float, float] = (-np.inf, np.inf)
    ) -> Calibration:
        """From the levels of normal frames and the score of a typical normal pixel; rate: which is asked of the default threshold, and
        ``band``, in which that is kept, whatever its rate then is."""
        ordered = np.sort(np.asarray(levels, dtype=np.float64))
        n = len(ordered)
        # L-moments: steadier than variance for few and heavy-tailed values (Hosking, 1990)
        second = float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * (n - 1))) if n > 1 else 0.0
        scale = max(second / math.log(2), CALIBRATION.least_scale)
        location = float(ordered.mean()) - 0.5772 * scale  # Euler's constant: the Gumbel distribution's mean
        reach = -math.log(-math.log1p(-rate))
        middle = float(np.clip(location + reach * scale, *band))
        spread = max((middle - typical) / CALIBRATION.typical_logit, CALIBRATION.least_scale)
        reached = -math.expm1(-math.exp(min((location - middle) / scale, MOST_REACH)))
        return Calibration(location, scale, float(np.clip(reached, LEAST_RATE, 1 - LEAST_RATE)), middle, spread)

    def level(self, rate: float) -> float:
        """The score that only this share of normal frames exceeds with a region."""
        return self.location - self.scale * math.log(-math.log1p(-rate))

    def threshold(self, rate: float) -> float:
        """The heatmap's threshold for a false-alarm rate; 0.5 at ``rate``."""
        return 0.5 if rate == self.rate else float(expit((self.level(rate) - self.middle) / self.spread))

    def heatmap(self, score: np.ndarray) -> np.ndarray:
        """float32 in [0, 1]."""
        return expit((score - self.middle) / self.spread).astype(np.float32)


def region_level(score: np.ndarray, smallest: int) -> float:
    """The highest threshold at which a score map (H, W) still has a connected region of ``smallest`` pixels."""
    low, high = float(score.min()), float(score.max())
    for _ in range(14):
        middle = 0.5 * (low + high)
        _, _, stats, _ = cv2.connectedComponentsWithStats((score > middle).astype(np.uint8), connectivity=8)
        if len(stats) > 1 and stats[1:, cv2.CC_STAT_AREA].max() >= smallest:
            low = middle
        else:
            high = middle
    return low


def useful_band(
    normal: np.ndarray, planted: np.ndarray, options: CalibrationOptions = CALIBRATION
) -> tuple[float, float]:
    """The thresholds whose F1 is at least ``kept_f1`` of the best, were ``prevalence`` of the pixels anomalous.

    normal: scores of normal pixels; planted: scores of pixels with a planted anomaly.
    """
    levels = np.quantile(planted, np.linspace(0.01, 0.99, 197))
    hit = 1 - np.searchsorted(np.sort(planted), levels) / len(planted)
    false = 1 - np.searchsorted(np.sort(normal), levels) / len(normal)
    prevalence = options.prevalence
    f1 = 2 * prevalence * hit / (prevalence * (1 + hit) + (1 - prevalence) * false)
    good = levels[f1 >= options.kept_f1 * f1.max()]
    return float(good.min()), float(good.max())
