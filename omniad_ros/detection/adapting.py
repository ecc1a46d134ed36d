"""Adapts a site's detector to the poses of the images that are to be inspected: the paper's query-aligned novel views.

The images themselves are not looked at, only where they were taken: the normal place is drawn from there, the student goes on
learning with these views among the survey's, and the comparison with pairs of them drawn from different photographs.
OmniAD, arXiv 2406.18012 (QANV).
"""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection.calibrating import calibrate
from omniad_ros.detection.comparison import ComparisonTraining, fit
from omniad_ros.detection.detector import Detector
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.normal_view import NormalView, NormalViews, check_views
from omniad_ros.detection.training import (
    TRAINING,
    note_false_alarms,
    planted_pairs,
    save_with_photographs,
    train_student,
    with_redrawn_references,
)
from omniad_ros.reference import Rendering
from omniad_ros.reference.photographs import Photographs
from omniad_ros.reference.view import ReferenceView

NEXT_BEST = 3
"""Photographs nearest to a pose that are left out where the place is drawn from the next best."""
LEAST_OTHERS = 8
"""Views of the site's own among the aligned ones, so that nothing normal is forgotten even where those are few."""


def adapt_detector(
    detector: Detector,
    views: NormalViews,
    aligned: list[tuple[Rendering, Pose]],
    out: Path | str,
    *,
    photographs: Photographs | None = None,
    progress: Progress = quiet,
) -> dict:
    """Write the detector, adapted, and its photographs into ``out``; returns what is worth keeping in site.json.

    views: as `train_detector` had them; aligned: the field's renderings of the normal place at the poses of the images to be
    inspected; photographs: the site's, None where its references are not redrawn. Raises OmniadError where nothing is aligned.
    """
    if not aligned:
        raise OmniadError("none of the images could be localized, so there is nothing to adapt to")
    check_views(views.trained, "survey")
    started, options = time.monotonic(), detector.options
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    size = options.working_size(views.trained[0].image)
    views = views.resized(*size)
    if not options.second_look:
        views = replace(views, full_size=None)
    queries = [NormalView(r.image, ReferenceView(r.image, r.depth), pose).resized(*size) for r, pose in aligned]
    redraws = photographs is not None and views.camera is not None
    if redraws:
        queries = [_drawn_twice(photographs, view, views.camera) for view in queries]
        views, photographs = with_redrawn_references(views, rng, part(progress, 0.0, 0.1))

    others = [v.image for v in views.trained] + (views.novel if options.use_novel else [])
    others = [others[i] for i in rng.permutation(len(others))[: max(LEAST_OTHERS, len(queries))]]
    steps = replace(options, distillation_steps=options.adaptation_steps)
    networks = copy.deepcopy(detector.networks)  # the detector that is adapted stays as it is
    model, loss = train_student(
        networks.teacher,
        [v.image for v in queries] + others,
        steps,
        part(progress, 0.1, 0.6),
        start=networks.distillation,
    )
    facts = {"aligned_views": len(queries), "adapted_distillation_loss": round(loss, 4)}
    if networks.comparison is not None:
        networks.comparison.requires_grad_(True)
        pairs = planted_pairs([*views.trained, *queries], views.heldout[::2], rng)
        training = ComparisonTraining(options.adaptation_steps // 2, TRAINING.adaptation_rate)
        loss = fit(networks.comparison, pairs, training, part(progress, 0.6, 0.9))
        facts["adapted_comparison_loss"] = round(loss, 4)
    networks = Networks.for_inference(networks.teacher, model, networks.comparison)
    if redraws:
        views, photographs = note_false_alarms(networks, views, photographs, part(progress, 0.9, 0.93))
    calibrating = views.heldout if redraws else views.heldout[1::2]
    scores = calibrate(networks, calibrating, options, rng, others=views.trained, progress=part(progress, 0.93, 1.0))
    save_with_photographs(replace(detector, networks=networks, scores=scores), photographs, Path(out))
    return {**facts, "adaptation_seconds": round(time.monotonic() - started, 1)}


def _drawn_twice(photographs: Photographs, view: NormalView, camera: Camera) -> NormalView:
    """A normal pair at a pose where no photograph was taken: drawn from the best photographs, and from the next best."""
    rendering = Rendering(view.reference.image, view.reference.depth)
    best = photographs.redraw(rendering, camera, view.pose)
    next_best = photographs.without(view.pose, NEXT_BEST).redraw(rendering, camera, view.pose)
    support = np.minimum(best.support, next_best.support)
    return replace(view, image=best.image, reference=ReferenceView(next_best.image, best.depth, support))
