"""Calibrates a detector: weights and thresholds from normal views that no network has seen, as they are and with anomalies planted."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from omniad_ros.core.feedback import OmniadError, Progress
from omniad_ros.detection.anomalies import nuisances, with_anomalies
from omniad_ros.detection.calibration import CALIBRATION, Calibration, CalibrationOptions, region_level, useful_band
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.normal_view import NormalView
from omniad_ros.detection.options import DetectorOptions
from omniad_ros.detection.scores import RawScores, Scores


@dataclass(frozen=True, eq=False)
class ScoredView:
    """A view's raw scores beside the truth; maps (H, W).

    planted: bool, where an anomaly is; counted: bool, the pixels of which something is known: covered, and, where an anomaly
    is planted, those whose belonging to it is beyond question.
    """

    raw: RawScores
    planted: np.ndarray
    counted: np.ndarray

    def pixels(self, planted: bool) -> np.ndarray:
        """bool (H, W): the counted pixels that are, or are not, anomalous."""
        return self.counted & (self.planted == planted)


def calibrate(
    networks: Networks,
    views: list[NormalView],
    options: DetectorOptions,
    rng: np.random.Generator,
    *,
    others: list[NormalView],
    progress: Progress,
) -> Scores:
    """How the networks' scores are put together and where the threshold lies.

    views: normal views of one size that no network has seen; others: further views, to cut planted anomalies from.
    Raises OmniadError where the views show nothing that the survey covers.
    """
    normal, planted = _scored(networks, views, rng, others=others, progress=progress)
    smallest = max(1, round(options.smallest_region * views[0].image.shape[0] * views[0].image.shape[1]))
    distances = np.concatenate([v.raw.distances[v.counted] for v in normal])
    if not len(distances) or not any(v.pixels(True).any() for v in planted):
        raise OmniadError("the survey's held-out views show nothing that it covers, so no detector can be calibrated")
    mean, deviation = float(distances.mean()), float(max(distances.std(), 1e-6))
    standard = [(v.raw.distances - mean) / deviation for v in normal]
    typical = float(np.median((distances - mean) / deviation))
    alone = Calibration.fitted(_levels(standard, normal, smallest), typical, options.false_alarm_rate)
    scores = Scores(mean, deviation, 0.0, 1.0, alone, None)
    if networks.comparison is None:
        return scores
    scores = _weighted(scores, planted, rng)
    maps = [scores.fuse(v.raw) for v in normal]
    background = np.concatenate([m[v.counted] for m, v in zip(maps, normal, strict=True)])
    found = np.concatenate([scores.fuse(v.raw)[v.pixels(True)] for v in planted])
    fused = Calibration.fitted(
        _levels(maps, normal, smallest),
        float(np.median(background)),
        options.false_alarm_rate,
        useful_band(background, found),
    )
    return msgspec.structs.replace(scores, fused=fused)


def _scored(
    networks: Networks,
    views: list[NormalView],
    rng: np.random.Generator,
    *,
    others: list[NormalView],
    progress: Progress,
    options: CalibrationOptions = CALIBRATION,
) -> tuple[list[ScoredView], list[ScoredView]]:
    """Every view ``variants`` times, normal and with anomalies planted."""
    frames = [v.compared()[0] for v in others[:: max(1, len(others) // options.cut_from)]]
    normal, planted = [], []
    for index, view in enumerate(views):
        pair, covered = view.compared(), view.reference.covered
        nothing = np.zeros(covered.shape, bool)
        for variant in range(options.variants):
            progress((index + variant / options.variants) / len(views), "calibrating on normal views")
            seen = pair if variant == 0 else nuisances(rng, *pair, pixels=options.pose_error)
            normal.append(ScoredView(_raw_scores(networks, seen, view), nothing, covered))
            changed = with_anomalies(rng, *pair, frames, blur=options.reference_blur, none=0.0)
            seen = nuisances(rng, changed.frame, changed.reference, pixels=options.pose_error)
            counted = covered & (changed.weight == 1)
            planted.append(ScoredView(_raw_scores(networks, seen, view), changed.mask > 0.5, counted))
    return normal, planted


def _raw_scores(networks: Networks, pair: tuple[np.ndarray, np.ndarray], view: NormalView) -> RawScores:
    """Of a ``pair`` of frame and reference (H, W, 3) in [0, 1] that is seen in place of the view's own."""
    frame, reference = pair
    distances = networks.distillation_scores([np.uint8(np.clip(frame, 0, 1) * 255)])[0]
    if networks.comparison is None:
        return RawScores(distances)
    logits = networks.comparison_scores(frame, reference, view.reference.covered)
    return RawScores(distances, logits, view.reference.doubtful, view.reference.false_alarm_logits)


def _weighted(
    scores: Scores, planted: list[ScoredView], rng: np.random.Generator, options: CalibrationOptions = CALIBRATION
) -> Scores:
    """The scores with the weights that best tell planted pixels from normal ones."""
    features, labels = [], []
    for view in planted:
        raw = view.raw
        for label in (True, False):
            drawn = rng.permutation(np.flatnonzero(view.pixels(label)))[: options.pixels_drawn]
            logits, doubtful = raw.logits.ravel()[drawn], raw.doubtful.ravel()[drawn]
            standardized = scores.bounded(raw.distances.ravel()[drawn])
            false_alarm = raw.false_alarm.ravel()[drawn]
            columns = [logits * ~doubtful, standardized, logits * doubtful, -1.0 * doubtful, -false_alarm]
            features.append(np.stack(columns, axis=1))
            labels.append(np.full(len(drawn), label))
    comparison, distillation, comparison_in_doubt, doubt, false_alarm = logistic_weights(
        np.concatenate(features), np.concatenate(labels), options.ridge
    ).tolist()
    return msgspec.structs.replace(
        scores,
        comparison=max(comparison, options.least_comparison),
        distillation=max(distillation, 0.0),
        comparison_in_doubt=max(comparison_in_doubt, 0.0),
        doubt=doubt,
        false_alarm=max(false_alarm, 0.0),
    )


def logistic_weights(features: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """Weights (D,) of a logistic regression of labels (N,) on features (N, D); ridge: its penalty a sample, not on the bias."""
    model = LogisticRegression(C=1 / (ridge * len(labels)), solver="newton-cholesky", tol=1e-8)
    return model.fit(features.astype(np.float64), labels).coef_[0]


def _levels(maps: list[np.ndarray], views: list[ScoredView], smallest: int) -> np.ndarray:
    lowest = min(float(m.min()) for m in maps)
    levels = [region_level(np.where(v.counted, m, lowest), smallest) for m, v in zip(maps, views, strict=True)]
    return np.array(levels)
