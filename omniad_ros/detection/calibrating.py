"""Calibrates a detector: weights and thresholds from normal views that no network has seen, as they are and with anomalies planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from omniad_ros.core.feedback import OmniadError, Progress
from omniad_ros.core.images import resized, resized_map
from omniad_ros.detection.anomalies import nuisances, with_anomalies
from omniad_ros.detection.calibration import CALIBRATION, Calibration, CalibrationOptions, region_level, useful_band
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.normal_view import NormalView
from omniad_ros.detection.options import DetectorOptions
from omniad_ros.detection.scores import DetailScores, RawScores, Scores
from omniad_ros.detection.second_look import look_again


@dataclass(frozen=True, eq=False)
class ScoredView:
    """A view's raw scores beside the truth; maps (H, W), of the second look's size where there was one.

    planted: bool, where an anomaly is; counted: bool, the pixels of which something is known: covered, and, where an anomaly
    is planted, those whose belonging to it is beyond question.
    """

    raw: RawScores
    planted: np.ndarray
    counted: np.ndarray

    def pixels(self, planted: bool) -> np.ndarray:
        """bool (H, W): the counted pixels that are, or are not, anomalous."""
        return self.counted & (self.planted == planted)

    def at_working_size(self) -> ScoredView:
        """The same with the truth at the first look's size."""
        size = self.raw.distances.shape[1::-1]
        return replace(self, planted=resized_map(self.planted, *size), counted=resized_map(self.counted, *size))


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
    close = [view for view in views if view.close is not None]
    twice = bool(close) and networks.comparison is not None
    normal, planted = _scored(networks, close if twice else views, rng, others=others, progress=progress)
    first, first_planted = ([v.at_working_size() for v in group] for group in (normal, planted))
    smallest = max(1, round(options.smallest_area(*first[0].planted.shape, False)))
    distances = np.concatenate([v.raw.distances[v.counted] for v in first])
    if not len(distances) or not any(v.pixels(True).any() for v in first_planted):
        raise OmniadError("the survey's held-out views show nothing that it covers, so no detector can be calibrated")
    mean, deviation = float(distances.mean()), float(max(distances.std(), 1e-6))
    standard = [(v.raw.distances - mean) / deviation for v in first]
    typical = float(np.median((distances - mean) / deviation))
    alone = Calibration.fitted(_levels(standard, first, smallest), typical, options.false_alarm_rate)
    scores = Scores(mean, deviation, 0.0, 1.0, alone, None)
    if networks.comparison is None:
        return scores
    scores, constant = _weighted(scores, first_planted, rng)
    fused = _calibrated(scores.fuse, first, first_planted, smallest, options.false_alarm_rate)
    scores = msgspec.structs.replace(scores, fused=fused)
    if not twice:
        return scores
    detail = _detail_weighted(scores, constant, planted, rng)
    smallest = max(1, round(options.smallest_area(*normal[0].planted.shape, True)))
    fused = _calibrated(
        lambda raw: scores.fuse_detail(raw, detail), normal, planted, smallest, options.false_alarm_rate
    )
    return msgspec.structs.replace(scores, detail=msgspec.structs.replace(detail, fused=fused))


def _calibrated(
    fuse: Callable[[RawScores], np.ndarray],
    normal: list[ScoredView],
    planted: list[ScoredView],
    smallest: int,
    rate: float,
) -> Calibration:
    maps = [fuse(v.raw) for v in normal]
    background = np.concatenate([m[v.counted] for m, v in zip(maps, normal, strict=True)])
    found = np.concatenate([fuse(v.raw)[v.pixels(True)] for v in planted])
    levels = _levels(maps, normal, smallest)
    return Calibration.fitted(levels, float(np.median(background)), rate, useful_band(background, found))


def _scored(
    networks: Networks,
    views: list[NormalView],
    rng: np.random.Generator,
    *,
    others: list[NormalView],
    progress: Progress,
    options: CalibrationOptions = CALIBRATION,
) -> tuple[list[ScoredView], list[ScoredView]]:
    """Every view ``variants`` times, normal and with anomalies planted, at the size of the second look where there is one."""
    source = [v.in_detail() for v in others if v.close is not None] if views[0].close is not None else others
    frames = [v.compared()[0] for v in source[:: max(1, len(source) // options.cut_from)]]
    normal, planted = [], []
    for index, view in enumerate(views):
        seen_as = view.in_detail()
        pair = seen_as.compared()
        covered = resized_map(view.reference.covered, *pair[0].shape[1::-1])
        larger = pair[0].shape[1] / view.image.shape[1]
        nothing, error = np.zeros(covered.shape, bool), options.pose_error * larger
        for variant in range(options.variants):
            progress((index + variant / options.variants) / len(views), "calibrating on normal views")
            seen = pair if variant == 0 else nuisances(rng, *pair, pixels=error, normals=view.normals)
            normal.append(ScoredView(_raw_scores(networks, seen, view), nothing, covered))
            changed = with_anomalies(rng, *pair, frames, blur=options.reference_blur, none=0.0)
            seen = nuisances(rng, changed.frame, changed.reference, pixels=error, normals=view.normals)
            counted = covered & (changed.weight == 1)
            planted.append(ScoredView(_raw_scores(networks, seen, view), changed.mask > 0.5, counted))
    return normal, planted


def _raw_scores(networks: Networks, pair: tuple[np.ndarray, np.ndarray], view: NormalView) -> RawScores:
    """Of a ``pair`` of frame and reference (H, W, 3) in [0, 1], at the size of the second look where there is one, that is seen in
    place of the view's own."""
    size = view.image.shape[1::-1]
    frame, reference = (resized(image, *size) for image in pair)
    distances = networks.distillation_scores([np.uint8(np.clip(frame, 0, 1) * 255)])[0]
    if networks.comparison is None:
        return RawScores(distances)
    logits = networks.comparison_scores(frame, reference, view.reference.covered)
    raw = RawScores(distances, logits, view.reference.doubtful, view.reference.false_alarm_logits)
    if view.close is None:
        return raw
    seen = replace(view.reference, detail=np.uint8(np.clip(pair[1], 0, 1) * 255))
    return replace(raw, close=look_again(networks, pair[0], seen, logits))


def _weighted(
    scores: Scores, planted: list[ScoredView], rng: np.random.Generator, options: CalibrationOptions = CALIBRATION
) -> tuple[Scores, float]:
    """The scores with the weights that best tell planted pixels from normal ones, and the constant that makes them log-odds."""

    def columns(view: ScoredView) -> list[np.ndarray]:
        raw = view.raw
        known = raw.logits * ~raw.doubtful
        return [known, scores.bounded(raw.distances), raw.logits * raw.doubtful, -1.0 * raw.doubtful, -raw.false_alarm]

    weights, constant = logistic_weights(*_drawn(planted, columns, rng, options), options.ridge)
    comparison, distillation, comparison_in_doubt, doubt, false_alarm = weights.tolist()
    weighted = msgspec.structs.replace(
        scores,
        comparison=max(comparison, options.least_comparison),
        distillation=max(distillation, 0.0),
        comparison_in_doubt=max(comparison_in_doubt, 0.0),
        doubt=doubt,
        false_alarm=max(false_alarm, 0.0),
    )
    return weighted, constant


def _detail_weighted(
    scores: Scores,
    constant: float,
    planted: list[ScoredView],
    rng: np.random.Generator,
    options: CalibrationOptions = CALIBRATION,
) -> DetailScores:
    """How the second look counts beside the first, whose ``constant`` `_weighted` gave; its calibration is yet that of the first."""

    def columns(view: ScoredView) -> list[np.ndarray]:
        close = view.raw.close
        return [resized(scores.first_look(view.raw).astype(np.float32), *close.shape[1::-1]), close]

    features, labels = _drawn(planted, columns, rng, options)
    if labels.all() or not labels.any():  # no photograph bears any reference out: the second look says nothing
        return DetailScores(1.0, 0.0, 0.0, scores.fused)
    (first, close), own = logistic_weights(features, labels, options.ridge)
    return DetailScores(max(float(first), 0.0), max(float(close), 0.0), own - constant, scores.fused)


def _drawn(
    planted: list[ScoredView],
    columns: Callable[[ScoredView], list[np.ndarray]],
    rng: np.random.Generator,
    options: CalibrationOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and labels (N,) of planted and normal pixels at random, as many of each view and class: the values of a view's
    D ``columns`` (H, W), but where one of them is NaN."""
    features, labels = [], []
    for view in planted:
        values = np.stack(columns(view), axis=-1)
        known = ~np.isnan(values).any(-1)
        for label in (True, False):
            drawn = rng.permutation(np.flatnonzero(view.pixels(label) & known))[: options.pixels_drawn]
            features.append(values.reshape(-1, values.shape[-1])[drawn])
            labels.append(np.full(len(drawn), label))
    return np.concatenate(features), np.concatenate(labels)


def logistic_weights(features: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """Weights (D,) and bias of a logistic regression of labels (N,) on features (N, D); ridge: its penalty a sample, not on the
    bias."""
    model = LogisticRegression(C=1 / (ridge * len(labels)), solver="newton-cholesky", tol=1e-8)
    model.fit(features.astype(np.float64), labels)
    return model.coef_[0], float(model.intercept_[0])


def _levels(maps: list[np.ndarray], views: list[ScoredView], smallest: int) -> np.ndarray:
    lowest = min(float(m.min()) for m in maps)
    levels = [region_level(np.where(v.counted, m, lowest), smallest) for m, v in zip(maps, views, strict=True)]
    return np.array(levels)
