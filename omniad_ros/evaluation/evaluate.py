"""`omniad evaluate`: build the site of a dataset's normal images, inspect its test images one by one, and score them.

Test images are localized without a prior pose; one that cannot be localized counts with an empty heatmap. Nothing is tuned
on them: threshold and detector come from the survey.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from omniad_ros.building.build import BuildOptions, adapt_into, build_site, check_inside
from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Rectifier
from omniad_ros.core.images import resized, resized_map, write_image
from omniad_ros.detection import Detector, DetectorOptions
from omniad_ros.evaluation.ablation import AblationData, ablation, format_ablation
from omniad_ros.evaluation.frames import Seen, TestFrames, check_frames
from omniad_ros.evaluation.layouts import Dataset, find_datasets, read_dataset
from omniad_ros.evaluation.patrol_score import Alignment
from omniad_ros.evaluation.score import DatasetScore, format_table, mean_metrics
from omniad_ros.patrol.pipeline import Inspection, InspectionOptions, Inspector
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings import SurveySource, read_survey
from omniad_ros.reference import load_field, novel_poses
from omniad_ros.reference.renderer import ReferenceRenderer
from omniad_ros.site import DETAIL_SIDE, Site

OWN_FILES = ("site", "survey", "adapted", "contact_sheet.jpg")


@dataclass(frozen=True)
class EvaluationOptions:
    """adapt: adapt a copy of the site's detector to the poses of the test images first (QANV); ablation: also measure what each
    part of the method adds; detail_side, whole_frame: as in `InspectionOptions`."""

    adapt: bool = False
    ablation: bool = False
    detail_side: int = DETAIL_SIDE
    whole_frame: bool = False


def evaluate_datasets(
    datasets: Sequence[Path], site: Path | None, out: Path, build_options=None, progress: Progress = quiet,
    options: EvaluationOptions = EvaluationOptions(),
) -> str:  # fmt: skip
    """Evaluate one or several datasets into ``out`` and return the table.

    A folder that holds datasets (as MAD-Sim does) stands for all of them. One dataset's metrics go to ``out/metrics.json``;
    of several, each goes to a folder of its name, and ``out/metrics.json`` holds ``{"datasets": {name: metrics}, "mean": {...}}``.
    """
    roots = [root for folder in datasets for root in find_datasets(Path(folder))]
    if site is not None and len(roots) > 1:
        raise OmniadError("--site names the site of one dataset; evaluate several without it")
    if len(roots) == 1:
        metrics = evaluate_dataset(roots[0], site, out, build_options, progress, options)
        table = format_table({read_dataset(roots[0]).name: metrics}, by_kind=True)
        return f"{table}\n{format_ablation(metrics['ablation'])}" if options.ablation else table
    names = [root.resolve().name for root in roots]
    if len(set(names)) < len(names):
        names = [f"{index}-{name}" for index, name in enumerate(names)]
    _check_out(out, *names)
    for root in roots:
        read_dataset(root)  # a bad one is told before hours are spent on the others
    results = {}
    for index, (root, name) in enumerate(zip(roots, names)):
        step = part(progress, index / len(roots), (index + 1) / len(roots))
        results[name] = evaluate_dataset(root, None, out / name, build_options, step, options)
    mean = mean_metrics(list(results.values()))
    write_json(out / "metrics.json", {"datasets": results, "mean": mean})
    return format_table({**results, "mean": mean})


def evaluate_dataset(
    root: Path, site: Path | Site | None, out: Path, build_options=None, progress: Progress = quiet,
    options: EvaluationOptions = EvaluationOptions(),
) -> dict:  # fmt: skip
    """Evaluate one dataset; writes ``out/metrics.json`` and ``out/contact_sheet.jpg`` and returns the metrics.

    site: built from the dataset's survey into ``out/site`` where None (an interrupted build goes on).
    Returns ``{"frames", "pixel": {"auroc", "aupro", "max_f1", "f1", "precision", "recall"}, "image": {"auroc"}, "by_kind": {kind:
    {"frames", "pixel", "image"}}, "by_size": {size: {"things", "recall"}}, "false_regions", "false_alarms": {"stated", "measured", "at": {rate: measured}}, "localization": {"success", "median_m", "median_deg", "localized"}, "reference": {"psnr",
    "covered"}, "ms": {"localize", "render", "detect", "total"}, "threshold", "states": {state: frames}}``, with "ablation" where it was asked for. f1, precision and recall are at the calibrated
    threshold; a kind's image AUROC is against the good frames; localization succeeds within 5 cm and 2 degrees of the true
    pose, in the dataset's own frame (`_dataset_frame`); psnr is the mean over good frames (where there are none: over
    all, outside the masks) of the covered pixels at working resolution; ms are medians. What cannot be known is None.
    Raises OmniadError where the dataset, the site or ``out`` cannot be used.
    """
    dataset, out = read_dataset(root), Path(out)
    _check_out(out, *OWN_FILES)
    source = _survey_of(dataset, site)
    check_frames(dataset, source)
    existed = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if site is None:
            survey = dataset.survey_without_tests(out / "survey")
            chosen = build_options or BuildOptions()
            if not chosen.outside_images:
                check_inside(source, dataset.root)
            chosen = replace(chosen, outside_images=True)  # it names the dataset's by ".."
            site = build_site(survey, out / "site", chosen, part(progress, 0.0, 0.7))
            progress = part(progress, 0.7, 1.0)
        site = site if isinstance(site, Site) else Site.open(site)
    except OmniadError:
        if not (out / "site").exists():
            shutil.rmtree(out / "survey", ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    inspection = InspectionOptions(
        evidence=False, tracking=False, detail_side=options.detail_side, whole_frame=options.whole_frame
    )
    inspector = Inspector(site, options=inspection)
    frames = TestFrames(dataset, site.mapped.camera, source)
    if options.adapt:
        _adapt(site, inspector, frames, out / "adapted", part(progress, 0.0, 0.5))
        progress = part(progress, 0.5, 1.0)
    looking = part(progress, 0.0, 0.3) if options.ablation else progress
    session = PatrolSession(inspector, site.survey)
    score, kept = DatasetScore(inspector.detector, _dataset_frame(site, source)), _Kept()
    for index, (test, frame) in enumerate(zip(dataset.frames, frames.source().open_frames(), strict=True)):
        looking(index / len(dataset.frames), f"inspecting {test.kind}/{test.image.name}")
        session.reset()  # the images are of no one drive
        inspected = session.inspect(frame, wait=False)
        inspection, working = inspected.inspection, inspector.working_camera(inspected.camera)
        seen = frames.seen(test, frame, inspected.image, inspection.heatmap)
        score.add(test, seen, inspection, working)
        if options.ablation:
            kept.add(seen, inspection, working)
    metrics = score.result()
    if options.ablation:
        metrics["ablation"] = kept.ablation(site, inspector.detector.options, part(progress, 0.3, 1.0))
    write_json(out / "metrics.json", metrics)
    write_image(out / ".contact_sheet.jpg", score.sheet.picture())
    (out / ".contact_sheet.jpg").replace(out / "contact_sheet.jpg")
    progress(1.0, f"evaluated {len(dataset.frames)} frames of {dataset.name}")
    return metrics


def _adapt(site: Site, inspector: Inspector, frames: TestFrames, folder: Path, progress: Progress) -> None:
    """Give the inspector a copy of the site's detector that is adapted to the poses of the test images."""
    poses, source = [], frames.source()
    for index, frame in enumerate(source.open_frames()):
        progress(0.2 * index / source.count, f"localizing {frame.name}")
        rectify = Rectifier(frame.camera)
        poses.append(inspector.localizer.localize(rectify(frame.image), rectify.camera, None).pose)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    adapt_into(site, [pose for pose in poses if pose is not None], folder, part(progress, 0.2, 1.0))
    inspector.detector = Detector.load(folder)
    inspector.render = ReferenceRenderer.of_site(site, folder).render


class _Kept:
    """What the ablation needs of the test frames, at working size."""

    def __init__(self):
        self.frames, self.masks, self.ours, self.aligned = [], [], [], []

    def add(self, seen: Seen, inspection: Inspection, working: Camera) -> None:
        size = working.width, working.height
        self.frames.append(resized(seen.image, *size))
        self.masks.append(resized_map(seen.mask.astype(np.uint8), *size) > 0)
        self.ours.append(resized(seen.heatmap, *size))
        if inspection.reference is not None:
            self.aligned.append(inspection.reference.image)

    def ablation(self, site: Site, options: DetectorOptions, progress: Progress) -> dict:
        images, field = site.mapped, load_field(site.radiance_dir)
        camera = site.working_camera(images.camera)
        survey = [resized(images.image(i), camera.width, camera.height) for i in range(len(images))]
        novel = []
        for pose in novel_poses(images, BuildOptions.novel_views, options.seed):
            progress(0.0, "rendering novel views of the normal site")
            novel.append(field.render(camera, pose).image)
        data = AblationData(survey, novel, self.aligned, self.frames, self.masks, self.ours, options)
        return ablation(data, progress)


def _survey_of(dataset: Dataset, site) -> SurveySource | None:
    """The dataset's survey, for its camera and poses; with a given site it may be missing."""
    try:
        return read_survey(dataset.survey)
    except OmniadError:
        if site is None:
            raise
        return None


def _check_out(out: Path, *own: str) -> None:
    if out.exists() and not out.is_dir():
        raise OmniadError(f"{out} is a file; choose a folder")
    foreign = (
        [entry.name for entry in out.iterdir() if entry.name not in (*own, "metrics.json")] if out.exists() else []
    )
    if foreign:
        raise OmniadError(f"{out} is not empty (it holds {foreign[0]}); choose an empty output folder")


def _dataset_frame(site: Site, source: SurveySource | None) -> Alignment | None:
    """From the map to the frame of the dataset's poses: the two agree where the map kept them, but a map from structure from
    motion has a gauge of its own. Least squares over the survey's camera centres; None without poses."""
    if source is None:
        return None
    truth = {Path(name).stem: pose for name, pose in zip(source.names, source.poses) if pose is not None}
    mapped = site.mapped
    pairs = [(pose, truth[Path(n).stem]) for n, pose in zip(mapped.names, mapped.poses) if Path(n).stem in truth]
    try:
        return Alignment.fit([a for a, _ in pairs], [b for _, b in pairs], with_scale=True)
    except ValueError:
        return None
