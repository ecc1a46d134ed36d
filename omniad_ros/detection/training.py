"""Trains and calibrates a site's detector on normal images alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Camera
from omniad_ros.detection import comparison as compare
from omniad_ros.detection.anomalies import Pair, cropped, nuisances, rendered, with_anomalies
from omniad_ros.detection.calibration import Calibration, logistic_fit, region_level, useful_band
from omniad_ros.detection.detector import Detector, Networks, Scores, checked_views, finished
from omniad_ros.detection.device import device, learning
from omniad_ros.detection.student import (
    ReverseDistillation,
    choose_backbone,
    distillation_loss,
    load_teacher,
    normalized,
    padded,
    to_tensor,
)
from omniad_ros.detection.view import OURS, DetectorOptions, View, resized
from omniad_ros.reference.photographs import SurveyViews, chosen

TUNING_RATE = 1e-3
"""At a third of it the comparison learnt a site's faults of reference too slowly (docs/detection.md)."""
VARIANTS = 3
"""How many times each calibration view is looked at, each time with other nuisances."""


def train_detector(
    trained: list[View],
    heldout: list[View],
    novel: list[np.ndarray],
    out: Path | str,
    options: DetectorOptions = OURS,
    progress: Progress = quiet,
    camera: Camera | None = None,
) -> dict:
    """Train a detector and write it into ``out``; returns what is worth keeping in site.json.

    trained: survey images that the field was trained on, beside their renderings (which look better than any rendering
    from an unseen pose); heldout: survey images that the field never saw, beside honest renderings; novel: uint8 renderings
    (h, w, 3) of the normal place from further poses, for the student alone; camera: of all views, which then know their
    poses: references are redrawn from the survey's photographs, each view's from the others. With it the held-out views
    calibrate; without it every second one tunes the comparison, because only they show the field's honest faults.
    Raises OmniadError where there are fewer than 8 trained or 4 held-out views.
    """
    if len(trained) < 8 or len(heldout) < 4:
        raise OmniadError(
            "a detector needs at least 8 views to learn from and 4 held out to calibrate on; survey more images"
        )
    checked_views(trained, "survey")
    checked_views(heldout, "held-out")
    started = time.monotonic()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    size = options.working_size(trained[0].image)
    trained, heldout = [v.resized(size) for v in trained], [v.resized(size) for v in heldout]
    camera = None if camera is None else camera.resized(*size)
    views = None
    if camera is not None and options.comparison and options.photographs:
        trained, heldout, views = redrawn(trained, heldout, camera, rng, part(progress, 0.0, 0.05))
    tuning, calibrating = ([], heldout) if views else (heldout[::2], heldout[1::2])

    backbone, weights = choose_backbone(options.backbone, options.teacher_weights)
    teacher, sha256 = load_teacher(backbone, weights)
    images = [v.image for v in trained + tuning]
    images += [resized(n, size) for n in novel] if options.use_novel else []
    share = 0.45 if options.comparison else 0.9
    distillation, loss = train_student(teacher, images, options, part(progress, 0.05, share))
    facts = {"teacher": backbone, "images": len(images), "distillation_loss": round(loss, 4)}
    network = None
    if options.comparison:
        network, loss = tune_comparison(trained, tuning, options, rng, part(progress, share, 0.9))
        facts["comparison_loss"] = round(loss, 4)

    networks = finished(teacher, distillation, network)
    if views is not None:
        calibrating, views = remembered(networks, trained, heldout, views, camera, part(progress, 0.9, 0.93))
    scores = calibrate(networks, calibrating, trained, options, rng, part(progress, 0.93, 1.0))
    Detector(networks, scores, options, backbone, sha256, views).save(Path(out))
    return {**facts, "calibration_views": len(calibrating), "seconds": round(time.monotonic() - started, 1)}


def redrawn(
    trained: list[View], heldout: list[View], camera: Camera, rng: np.random.Generator, progress: Progress
) -> tuple[list[View], list[View], SurveyViews]:
    """The views with references redrawn from the photographs of all others, and the photographs."""
    both = trained + heldout
    if any(v.pose is None for v in both):
        raise OmniadError("views of a given camera must know their poses")
    photographs = SurveyViews.of([v.image for v in both], [v.depth for v in both], [v.pose for v in both], camera)
    done = []
    for index, view in enumerate(both):
        progress(index / len(both), "redrawing references from the survey's photographs")
        # a patrol passes farther from the survey's path than its next image does, so neighbours are left out at times
        others = photographs.without(view.pose, int(rng.integers(0, 3)))
        recalled = others.recall(view.reference, view.depth, camera, view.pose)
        done.append(replace(view, reference=recalled.image, support=recalled.support, depth=recalled.depth))
    return done[: len(trained)], done[len(trained) :], photographs


def remembered(
    networks: Networks, trained: list[View], heldout: list[View], views: SurveyViews, camera: Camera, progress: Progress
) -> tuple[list[View], SurveyViews]:
    """The held-out views and the photographs with what the comparison wrongly raises in them (`SurveyViews.alarms`).

    trained, heldout, views: of `redrawn`. A held-out view knows the alarms of the other photographs only, as a frame does.
    """
    both = trained + heldout
    logits = []
    for done, index in enumerate(kept := chosen(len(both))):
        progress(done / len(kept), "noting what is wrongly raised in the survey's photographs")
        logits.append(networks.comparison_scores(*as_float(both[index]), both[index].covered))
    views = views.alarmed(logits)
    alarms = [views.without(v.pose).recall(v.reference, v.depth, camera, v.pose).alarm for v in heldout]
    return [replace(v, alarm=alarm) for v, alarm in zip(heldout, alarms, strict=True)], views


def train_student(
    teacher: torch.nn.Module,
    images: list[np.ndarray],
    options: DetectorOptions,
    progress: Progress,
    start: ReverseDistillation | None = None,
) -> tuple[ReverseDistillation, float]:
    """Bottleneck and student, trained to give back the teacher's features of normal images (H, W, 3), from ``start`` on where
    it is given; and the last loss."""
    model = start or ReverseDistillation(teacher.channels, options.attention)
    where = device()
    model.requires_grad_(True).train().to(where, memory_format=torch.channels_last)
    teacher.to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.5, 0.999), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=options.distillation_steps + 1)
    generator, late = np.random.default_rng(options.seed), []
    inputs = normalized(padded(to_tensor(images))).to(where)
    for step in range(options.distillation_steps):
        batch = inputs[generator.choice(len(images), 4, replace=len(images) < 4)].contiguous(
            memory_format=torch.channels_last
        )
        with learning(where):
            with torch.no_grad():
                maps = teacher(batch)
            loss = distillation_loss(maps, model(maps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        late = [*late[-9:], loss.item()]
        progress((step + 1) / options.distillation_steps, f"student: loss {late[-1]:.3f}")
    return model.eval(), float(np.mean(late)) if late else float("nan")


# ---------------------------------------------------------------------------------------------------- the comparison


def as_float(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Frame and reference (H, W, 3) float32 in [0, 1]; where nothing is covered the reference shows the frame."""
    frame, reference = view.image.astype(np.float32) / 255, view.reference.astype(np.float32) / 255
    return frame, np.where(view.covered[..., None], reference, frame)


def pairs(trained: list[View], tuning: list[View], rng: np.random.Generator) -> Callable[[], Pair]:
    """Draws pairs with planted anomalies: honest references half of the time, else good ones made worse.

    Honest are renderings of held-out views, and references that other photographs than the view's own have redrawn.
    """
    good = [as_float(v) for v in trained if v.support is None]
    honest = [as_float(v) for v in tuning] + [as_float(v) for v in trained if v.support is not None]
    frames = [f for f, _ in good + honest]

    def sample() -> Pair:
        is_honest = not good or rng.random() < 0.5
        if is_honest:
            frame, reference = honest[rng.integers(len(honest))]
        else:
            frame, reference = good[rng.integers(len(good))]
        frame, reference = cropped(rng, frame, reference)
        if not is_honest:
            reference = rendered(rng, reference, rng.uniform(0.2, 1.0))
        others = [cropped(rng, frames[i])[0] for i in rng.integers(len(frames), size=3)]
        pair = with_anomalies(rng, frame, reference, others, blur=rng.uniform(0.3, 0.7))
        return Pair(*nuisances(rng, pair.frame, pair.reference), pair.mask, pair.weight)

    return sample


def tune_comparison(
    trained: list[View], tuning: list[View], options: DetectorOptions, rng: np.random.Generator, progress: Progress
) -> tuple[compare.ComparisonNetwork, float]:
    """The bundled comparison network, tuned to the site; and its last loss."""
    network = compare.load_bundled()
    network.eval()  # batch statistics stay those of the many scenes that it was trained on
    loss = compare.fit(network, pairs(trained, tuning, rng), options.comparison_steps, TUNING_RATE, progress=progress)
    return network, loss


# ---------------------------------------------------------------------------------------------------- the calibration


def calibrate(
    networks: Networks,
    views: list[View],
    others: list[View],
    options: DetectorOptions,
    rng: np.random.Generator,
    progress: Progress,
) -> Scores:
    """Weights and thresholds from normal views that no network has seen, plain and with planted anomalies."""
    smallest = max(1, round(options.smallest_region * views[0].image.shape[0] * views[0].image.shape[1]))
    frames = [as_float(v)[0] for v in others[:: max(1, len(others) // 20)]]
    normal, planted = [], []
    for index, view in enumerate(views):
        clean, reference = as_float(view)
        for variant in range(VARIANTS):
            progress((index + variant / VARIANTS) / len(views), "calibrating on normal views")
            looks = (clean, reference) if variant == 0 else nuisances(rng, clean, reference, pixels=0.4)
            normal.append((*_raw(networks, *looks, view.covered), view.covered, view.doubtful, known_alarm(view)))
            pair = with_anomalies(rng, clean, reference, frames, blur=0.5, none=0.0)
            looks = nuisances(rng, pair.frame, pair.reference, pixels=0.4)
            counts = view.covered & (pair.weight == 1)
            planted.append((*_raw(networks, *looks, view.covered), pair.mask, counts, view.doubtful, known_alarm(view)))

    distances = np.concatenate([d[covered] for d, _, covered, _, _ in normal])
    mean, deviation = float(distances.mean()), float(max(distances.std(), 1e-6))
    standard = [(d - mean) / deviation for d, *_ in normal]
    typical = float(np.median((distances - mean) / deviation))
    covers = [covered for _, _, covered, _, _ in normal]
    alone = Calibration.fitted(_levels(standard, covers, smallest), typical, options.false_alarm_rate)
    if networks.comparison is None:
        return Scores(mean, deviation, 0.0, 1.0, alone, None)
    features, labels = [], []
    for d, c, mask, counts, doubtful, alarm in planted:
        for label, where in ((1, counts & (mask > 0.5)), (0, counts & (mask < 0.5))):
            drawn = rng.permutation(np.flatnonzero(where))[:600]
            own, unsure = c.ravel()[drawn], doubtful.ravel()[drawn]
            standardized = np.clip((d.ravel()[drawn] - mean) / deviation, -2, 6)
            known = -alarm.ravel()[drawn]
            features.append(np.stack([own * ~unsure, standardized, own * unsure, -1.0 * unsure, known], axis=1))
            labels.append(np.full(len(drawn), label))
    compared, distilled, unsure, doubt, alarm, _ = logistic_fit(
        np.concatenate(features), np.concatenate(labels)
    ).tolist()
    weights = max(compared, 0.05), max(distilled, 0.0)
    scores = Scores(mean, deviation, *weights, alone, None, max(unsure, 0.0), doubt, max(alarm, 0.0))
    maps = [scores.fuse(c, d, doubtful, alarm) for d, c, _, doubtful, alarm in normal]
    background = np.concatenate([m[c] for m, c in zip(maps, covers, strict=True)])
    found = np.concatenate([
        scores.fuse(c, d, doubtful, alarm)[counts & (mask > 0.5)] for d, c, mask, counts, doubtful, alarm in planted
    ])  # fmt: skip
    band = useful_band(background, found)
    fused = Calibration.fitted(
        _levels(maps, covers, smallest), float(np.median(background)), options.false_alarm_rate, band
    )
    return replace(scores, fused=fused)


def known_alarm(view: View) -> np.ndarray:
    """The view's `alarm`, 0 where there is none."""
    return np.zeros(view.depth.shape, np.float32) if view.alarm is None else view.alarm


def _raw(
    networks: Networks, frame: np.ndarray, reference: np.ndarray, covered: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    distances = networks.distillation_scores([np.uint8(np.clip(frame, 0, 1) * 255)])[0]
    return distances, None if networks.comparison is None else networks.comparison_scores(frame, reference, covered)


def _levels(maps: list[np.ndarray], covers: list[np.ndarray], smallest: int) -> np.ndarray:
    lowest = min(float(m.min()) for m in maps)
    return np.array([region_level(np.where(c, m, lowest), smallest) for m, c in zip(maps, covers, strict=True)])
