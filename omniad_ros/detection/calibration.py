"""From raw scores to a heatmap and a threshold that keep a stated false-alarm rate, learnt from normal views only.

A raw score map becomes a heatmap by one logistic curve that puts 0.5 at the default threshold. The threshold is where
only the stated share of normal frames would hold a false region; with a handful of normal frames that share lies outside
the data, so the highest level that makes a region in each frame is taken as Gumbel-distributed and extrapolated. One bad
frame among seven can carry that extrapolation beyond everything that an anomaly reaches, so it is kept within the band
of thresholds that still find anomalies planted in normal views.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Calibration:
    """The curve of one kind of score: ``heatmap = sigmoid((score - middle) / spread)``.

    location, scale: of the Gumbel distribution of a normal frame's level (see `region_level`); rate: the false-alarm rate
    at which ``middle`` lies.
    """

    location: float
    scale: float
    rate: float
    middle: float
    spread: float

    @staticmethod
    def fitted(
        levels: np.ndarray, typical: float, rate: float, band: tuple[float, float] = (-np.inf, np.inf)
    ) -> Calibration:
        """From the levels of normal frames and the score of a typical normal pixel; ``band`` bounds the threshold."""
        ordered = np.sort(np.asarray(levels, dtype=np.float64))
        n = len(ordered)
        # L-moments: steadier than variance for few and heavy-tailed values (Hosking, 1990)
        second = float(((2 * np.arange(1, n + 1) - n - 1) * ordered).sum() / (n * (n - 1))) if n > 1 else 0.0
        scale = max(second / np.log(2), 1e-3)
        location = float(ordered.mean()) - 0.5772 * scale
        reach = -float(np.log(-np.log1p(-rate)))
        middle = float(np.clip(location + reach * scale, *band))
        # other rates move the threshold in steps that fit the bounded one
        scale = min(scale, max((middle - location) / reach, 0.1)) if reach > 0 else scale
        # a typical normal pixel comes out at about 0.001, however sharp the score is
        return Calibration(middle - reach * scale, scale, rate, middle, max((middle - typical) / 7, 1e-3))

    def level(self, rate: float) -> float:
        """The score that only this share of normal frames exceeds with a region."""
        return self.location - self.scale * float(np.log(-np.log1p(-rate)))

    def threshold(self, rate: float) -> float:
        """The heatmap's threshold for a false-alarm rate; 0.5 at the rate that it was calibrated for."""
        return float(sigmoid((self.level(rate) - self.middle) / self.spread))

    def heatmap(self, score: np.ndarray) -> np.ndarray:
        """float32 in [0, 1]."""
        return sigmoid((score - self.middle) / self.spread).astype(np.float32)

    def to_dict(self) -> dict:
        return asdict(self)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -60, 60)))


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
    normal: np.ndarray, planted: np.ndarray, prevalence: float = 0.01, keep: float = 0.95
) -> tuple[float, float]:
    """The thresholds whose F1 is at least ``keep`` of the best, were ``prevalence`` of the pixels anomalous.

    normal: scores of normal pixels; planted: scores of pixels with a planted anomaly.
    """
    levels = np.quantile(planted, np.linspace(0.01, 0.99, 197))
    hit = 1 - np.searchsorted(np.sort(planted), levels) / len(planted)
    false = 1 - np.searchsorted(np.sort(normal), levels) / len(normal)
    f1 = 2 * prevalence * hit / (prevalence * (1 + hit) + (1 - prevalence) * false)
    good = levels[f1 >= keep * f1.max()]
    return float(good.min()), float(good.max())


def logistic_fit(features: np.ndarray, labels: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Logistic regression by Newton's method: features (N, D), labels (N,) in {0, 1}; returns (D + 1,), bias last."""
    x = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    weights = np.zeros(x.shape[1])
    penalty = ridge * len(x) * np.eye(x.shape[1])
    penalty[-1, -1] = 0
    for _ in range(25):
        chance = sigmoid(x @ weights)
        gradient = x.T @ (chance - labels) + penalty @ weights
        hessian = (x * (chance * (1 - chance))[:, None]).T @ x + penalty + 1e-6 * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        weights -= np.clip(step, -5, 5)
        if np.abs(step).max() < 1e-6:
            break
    return weights
