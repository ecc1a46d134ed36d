"""Adapts a site's detector to the poses of the images that are to be inspected: the paper's query-aligned novel views.

The images themselves are not looked at, only where they were taken: the normal place is drawn from there, the student goes on
learning with these views among the survey's, and the comparison with pairs of them drawn from different photographs.
OmniAD, arXiv 2406.18012 (QANV).
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection.comparison import fit
from omniad_ros.detection.detector import Detector, checked_views, finished
from omniad_ros.detection.training import calibrate, pairs, redrawn, remembered, train_student
from omniad_ros.detection.view import View, resized


def adapt_detector(
    detector: Detector,
    trained: list[View],
    heldout: list[View],
    novel: list[np.ndarray],
    aligned: list[tuple[np.ndarray, np.ndarray, Pose]],
    out: Path | str,
    progress: Progress = quiet,
    camera: Camera | None = None,
) -> dict:
    """Write the detector, adapted, into ``out``; returns what is worth keeping in site.json.

    trained, heldout, novel, camera: as `train_detector` had them; aligned: (rendering uint8 (h, w, 3), depth float32 (h, w),
    pose) of the normal place at the poses of the images to be inspected. Raises OmniadError where there are none.
    """
    if not aligned:
        raise OmniadError("none of the images could be localized, so there is nothing to adapt to")
    checked_views(trained, "survey")
    started, options = time.monotonic(), detector.options
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    size = options.working_size(trained[0].image)
    trained, heldout = [v.resized(size) for v in trained], [v.resized(size) for v in heldout]
    queries = [View(image, image, depth, pose).resized(size) for image, depth, pose in aligned]
    views = None
    if detector.views is not None and camera is not None:
        camera = camera.resized(*size)
        trained, heldout, views = redrawn(trained, heldout, camera, rng, part(progress, 0.0, 0.1))
        queries = [_drawn_twice(detector, view, camera) for view in queries]

    # as many of the site's other views as aligned ones, so that nothing normal is forgotten
    others = [v.image for v in trained] + ([resized(n, size) for n in novel] if options.use_novel else [])
    others = [others[i] for i in rng.permutation(len(others))[: max(8, len(queries))]]
    steps = replace(options, distillation_steps=options.adaptation_steps)
    model = detector.networks.distillation
    model, loss = train_student(
        detector.networks.teacher, [v.image for v in queries] + others, steps, part(progress, 0.1, 0.6), model
    )
    facts = {"aligned_views": len(queries), "adapted_distillation_loss": round(loss, 4)}
    network = detector.networks.comparison
    if network is not None:
        network.requires_grad_(True)
        loss = fit(
            network, pairs([*trained, *queries], heldout[::2], rng), options.adaptation_steps // 2, 1e-4,
            progress=part(progress, 0.6, 0.9),
        )  # fmt: skip
        facts["adapted_comparison_loss"] = round(loss, 4)
    networks, calibrating = finished(detector.networks.teacher, model, network), heldout[1::2]
    if views is not None:
        calibrating, views = remembered(networks, trained, heldout, views, camera, part(progress, 0.9, 0.93))
    scores = calibrate(networks, calibrating, trained, options, rng, part(progress, 0.93, 1.0))
    Detector(networks, scores, options, detector.teacher_name, detector.teacher_sha256, views or detector.views).save(
        Path(out)
    )
    return {**facts, "adaptation_seconds": round(time.monotonic() - started, 1)}


def _drawn_twice(detector: Detector, view: View, camera: Camera) -> View:
    """A normal pair at a pose where no photograph was taken: drawn from the best photographs, and from the next best."""
    best = detector.views.recall(view.reference, view.depth, camera, view.pose)
    next_best = detector.views.without(view.pose, 3).recall(view.reference, view.depth, camera, view.pose)
    support = np.minimum(best.support, next_best.support)
    return replace(view, image=best.image, reference=next_best.image, support=support, depth=best.depth)
