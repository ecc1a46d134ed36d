"""Trains a site's detector on normal images alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.images import resized
from omniad_ros.detection import comparison as compare
from omniad_ros.detection.anomalies import (
    Pair,
    crop_size,
    cropped,
    nuisances,
    rendered,
    surface_normals,
    with_anomalies,
)
from omniad_ros.detection.calibrating import calibrate
from omniad_ros.detection.comparison import ComparisonTraining
from omniad_ros.detection.detector import Detector, TeacherIdentity
from omniad_ros.detection.device import device, training_precision
from omniad_ros.detection.networks import Networks
from omniad_ros.detection.normal_view import NormalView, NormalViews, check_views
from omniad_ros.detection.options import LEAST_HELDOUT, LEAST_TRAINED, OURS, DetectorOptions
from omniad_ros.detection.student import (
    ReverseDistillation,
    choose_backbone,
    distillation_loss,
    load_teacher,
    normalized,
    padded,
    to_tensor,
)
from omniad_ros.reference import Rendering
from omniad_ros.reference.photographs import PHOTOGRAPHS, Photographs, chosen


@dataclass(frozen=True)
class TrainingOptions:
    """How a site's networks learn; how long they do is in `DetectorOptions`.

    student_rate, student_decay, student_batch: AdamW's highest rate in one cycle, its weight decay, and images a step;
    student_betas: as reverse distillation was published (arXiv 2201.10703).
    tuning_rate: the comparison's at a site (at a third of it, it learnt a site's faults of reference too slowly, see
    docs/design-notes.md); adaptation_rate: where it goes on from there. honest: share of pairs whose reference is an honest
    one; severity: range of faults that are added to the references of views that the field was trained on; blur: pixels by which
    what is planted in a reference is blurred. most_neighbours: of a view, whose photographs are left out when its reference is
    redrawn; most_close, most_close_heldout: views that are looked at twice, of those to learn from and of the others; close:
    share of pairs at the second look's size, and steps_close: how many times the steps are then taken. Those without a source were
    set by judgement.
    """

    student_rate: float = 2e-3
    student_betas: tuple[float, float] = (0.5, 0.999)
    student_decay: float = 1e-4
    student_batch: int = 4
    tuning_rate: float = 1e-3
    adaptation_rate: float = 1e-4
    honest: float = 0.5
    severity: tuple[float, float] = (0.2, 1.0)
    blur: tuple[float, float] = (0.3, 0.7)
    most_neighbours: int = 2
    most_close: int = 60
    most_close_heldout: int = 20
    close: float = 0.5
    steps_close: float = 1.5


TRAINING = TrainingOptions()


def train_detector(
    views: NormalViews, out: Path | str, options: DetectorOptions = OURS, progress: Progress = quiet
) -> dict:
    """Train a detector and write it, and the photographs that redraw its references, into ``out``; returns what is worth keeping in
    site.json.

    Where the views have a camera, references are redrawn from the photographs and the held-out views calibrate; without it
    every second one tunes the comparison, because only they show the field's honest faults.
    Raises OmniadError where there are fewer than 8 trained or 4 held-out views.
    """
    if len(views.trained) < LEAST_TRAINED or len(views.heldout) < LEAST_HELDOUT:
        raise OmniadError(
            f"a detector needs at least {LEAST_TRAINED} views to learn from and {LEAST_HELDOUT} held out to calibrate on; "
            "survey more images"
        )
    check_views(views.trained, "survey")
    check_views(views.heldout, "held-out")
    started = time.monotonic()
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    views, photographs = views.resized(*options.working_size(views.trained[0].image)), None
    redraws = views.camera is not None and options.comparison and options.photographs
    if not (redraws and options.second_look):
        views = replace(views, full_size=None)
    if redraws:
        views, photographs = with_redrawn_references(views, rng, part(progress, 0.0, 0.05))
    tuning, calibrating = ([], views.heldout) if photographs else (views.heldout[::2], views.heldout[1::2])

    backbone, weights = choose_backbone(options.backbone, options.teacher_weights)
    teacher, sha256 = load_teacher(backbone, weights)
    images = [v.image for v in views.trained + tuning] + (views.novel if options.use_novel else [])
    share = 0.45 if options.comparison else 0.9
    distillation, loss = train_student(teacher, images, options, part(progress, 0.05, share))
    facts = {"teacher": backbone, "images": len(images), "distillation_loss": round(loss, 4)}
    network = None
    steps = round(options.comparison_steps * (TRAINING.steps_close if views.full_size else 1))
    if options.comparison:
        network, loss = tune_comparison(planted_pairs(views.trained, tuning, rng), steps, part(progress, share, 0.9))
        facts["comparison_loss"] = round(loss, 4)

    networks = Networks.for_inference(teacher, distillation, network)
    if photographs is not None:
        views, photographs = note_false_alarms(networks, views, photographs, part(progress, 0.9, 0.93))
        calibrating = views.heldout
    scores = calibrate(networks, calibrating, options, rng, others=views.trained, progress=part(progress, 0.93, 1.0))
    save_with_photographs(
        Detector(networks, scores, options, TeacherIdentity(backbone, sha256)), photographs, Path(out)
    )
    return {**facts, "calibration_views": len(calibrating), "seconds": round(time.monotonic() - started, 1)}


def save_with_photographs(detector: Detector, photographs: Photographs | None, out: Path) -> None:
    """Write a detector and, where there are any, the photographs that redraw its references."""
    detector.save(out)
    if photographs is not None:
        photographs.save(out / PHOTOGRAPHS)


# --------------------------------------------------------------------------------------------------- the references


def with_redrawn_references(
    views: NormalViews, rng: np.random.Generator, progress: Progress
) -> tuple[NormalViews, Photographs]:
    """The survey's views with references redrawn from the photographs of all others, and the photographs."""
    survey = views.survey
    if any(v.pose is None for v in survey):
        raise OmniadError("views of a given camera must know their poses")
    full_size = views.full_size
    photographs = Photographs.of(
        [v.image for v in survey], [v.reference.depth for v in survey], [v.pose for v in survey], views.camera,
        None if full_size is None else [v.source for v in survey],
    )  # fmt: skip
    twice = set()
    if full_size is not None:
        groups = np.arange(len(views.trained)), len(views.trained) + np.arange(len(views.heldout))
        for group, most in zip(groups, (TRAINING.most_close, TRAINING.most_close_heldout), strict=True):
            twice |= set(group[chosen(len(group), most)].tolist())
    redrawn = []
    for index, view in enumerate(survey):
        progress(index / len(survey), "redrawing references from the survey's photographs")
        # a patrol passes farther from the survey's path than its next image does, so neighbours are left out at times
        others = photographs.without(view.pose, int(rng.integers(0, TRAINING.most_neighbours + 1)))
        detail = full_size.camera if index in twice else None
        reference = others.redraw(_rendering(view), views.camera, view.pose, detail, full_size)
        close = None if reference.detail is None else full_size.image(view.source)
        depth, camera = (reference.depth, views.camera) if close is None else (reference.in_detail().depth, detail)
        normals = surface_normals(depth, camera).astype(np.float16)
        redrawn.append(replace(view, reference=reference, close=close, normals=normals))
    return views.with_survey(redrawn), photographs


def note_false_alarms(
    networks: Networks, views: NormalViews, photographs: Photographs, progress: Progress
) -> tuple[NormalViews, Photographs]:
    """The views and the photographs with what the comparison wrongly raises in them (`ReferenceView.false_alarm`).

    views, photographs: of `with_redrawn_references`. A held-out view knows those of the other photographs only, as a frame does.
    """
    survey, logits = views.survey, []
    for done, index in enumerate(kept := chosen(len(survey))):
        progress(done / len(kept), "noting what is wrongly raised in the survey's photographs")
        view = survey[index]
        logits.append(networks.comparison_scores(*view.compared(), view.reference.covered))
    photographs = photographs.with_false_alarms(logits)
    heldout = []
    for view in views.heldout:
        noted = photographs.without(view.pose).redraw(_rendering(view), views.camera, view.pose).false_alarm
        heldout.append(replace(view, reference=replace(view.reference, false_alarm=noted)))
    return replace(views, heldout=heldout), photographs


def _rendering(view: NormalView) -> Rendering:
    return Rendering(view.reference.image, view.reference.depth)


# ------------------------------------------------------------------------------------------------------- the student


def train_student(
    teacher: torch.nn.Module,
    images: list[np.ndarray],
    options: DetectorOptions,
    progress: Progress,
    *,
    start: ReverseDistillation | None = None,
) -> tuple[ReverseDistillation, float]:
    """Bottleneck and student, trained to give back the teacher's features of normal images (H, W, 3), from ``start`` on where
    it is given; and the last loss."""
    size = TRAINING.student_batch
    model = start or ReverseDistillation(teacher.channels, options.attention)
    where = device()
    model.requires_grad_(True).train().to(where, memory_format=torch.channels_last)
    teacher.to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=TRAINING.student_rate, betas=TRAINING.student_betas, weight_decay=TRAINING.student_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, TRAINING.student_rate, total_steps=options.distillation_steps + 1
    )
    generator, late = np.random.default_rng(options.seed), []
    inputs = normalized(padded(to_tensor(images))).to(where)
    for step in range(options.distillation_steps):
        drawn = generator.choice(len(images), size, replace=len(images) < size)
        batch = inputs[drawn].contiguous(memory_format=torch.channels_last)
        with training_precision(where):
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


def planted_pairs(
    trained: list[NormalView], tuning: list[NormalView], rng: np.random.Generator, options: TrainingOptions = TRAINING
) -> Callable[[], Pair]:
    """Draws pairs with planted anomalies: honest references half of the time, else good ones made worse.

    Honest are renderings of held-out views, and references that other photographs than the view's own have redrawn.
    """
    good = [(*v.compared(), v.normals) for v in trained if v.reference.support is None]
    honest = [v for v in trained if v.reference.support is not None]
    twice = [v.in_detail() for v in honest if v.close is not None]
    honest, twice = ([(*v.compared(), _normals(v)) for v in group] for group in (tuning + honest, twice))
    frames, close = [source[0] for source in good + honest], [source[0] for source in twice]
    size = crop_size(frames[0])  # of all, for they are learnt in one batch

    def sample() -> Pair:
        is_close = bool(twice) and rng.random() < options.close
        is_honest = is_close or not good or rng.random() < options.honest
        source, cut_from = (twice, close) if is_close else (honest if is_honest else good, frames)
        *pair, normals = source[rng.integers(len(source))]
        if normals is None:
            frame, reference = cropped(rng, *pair, size=size)
        else:
            frame, reference, normals = cropped(rng, *pair, normals, size=size)
            normals = normals.astype(np.float32)
        if not is_honest:
            reference = rendered(rng, reference, rng.uniform(*options.severity))
        others = [cropped(rng, cut_from[i], size=size)[0] for i in rng.integers(len(cut_from), size=3)]
        pair = with_anomalies(rng, frame, reference, others, blur=rng.uniform(*options.blur))
        seen = nuisances(rng, pair.frame, pair.reference, normals=normals)
        return Pair(*seen, pair.mask, pair.weight)

    return sample


def _normals(view: NormalView) -> np.ndarray | None:
    """The view's normals at its image's size."""
    size = view.image.shape[1::-1]
    if view.normals is None or view.normals.shape[1::-1] == size:
        return view.normals
    return resized(view.normals.astype(np.float32), *size).astype(np.float16)


def tune_comparison(
    sample: Callable[[], Pair], steps: int, progress: Progress
) -> tuple[compare.ComparisonNetwork, float]:
    """The bundled comparison network, tuned to a site's `planted_pairs`; and its last loss."""
    network = compare.load_bundled()
    network.eval()  # batch statistics stay those of the many scenes that it was trained on
    loss = compare.fit(network, sample, ComparisonTraining(steps, TRAINING.tuning_rate), progress)
    return network, loss
