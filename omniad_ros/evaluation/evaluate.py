"""`omniad evaluate`: build the site of a dataset's normal images, inspect its test images one by one, and score them.

Test images are localized without a prior pose; one that cannot be localized counts with an empty heatmap. Nothing is tuned
on them: threshold and detector come from the survey.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import write_json
from omniad_ros.core.geometry import Camera, Rectifier
from omniad_ros.core.images import check_picture, read_picture, write_image
from omniad_ros.evaluation.ablation import AblationData, ablation, format_ablation
from omniad_ros.evaluation.layouts import Dataset, TestFrame, find_datasets, read_dataset, read_mask
from omniad_ros.evaluation.metrics import PixelMeter, image_auroc, image_score, psnr
from omniad_ros.evaluation.patrol_score import SUCCESS_DEGREES, SUCCESS_METRES, Alignment
from omniad_ros.evaluation.sheet import ContactSheet, Row
from omniad_ros.recordings import read_survey
from omniad_ros.recordings.source import SurveySource
from omniad_ros.site import LARGEST_SIDE, Site

STAGES = ("localize", "render", "detect", "total")
OWN_FILES = ("site", "survey", "adapted", "contact_sheet.jpg")


@dataclass(frozen=True)
class EvaluationOptions:
    """adapt: adapt a copy of the site's detector to the poses of the test images first (QANV); ablation: also measure what each
    part of the method adds."""

    adapt: bool = False
    ablation: bool = False


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
    {"frames", "pixel", "image"}}, "localization": {"success", "median_m", "median_deg", "localized"}, "reference": {"psnr",
    "covered"}, "ms": {"localize", "render", "detect", "total"}, "threshold"}``, with "ablation" where it was asked for. f1, precision and recall are at the calibrated
    threshold; a kind's image AUROC is against the good frames; localization succeeds within 5 cm and 2 degrees of the true
    pose, in the dataset's own frame (`_dataset_frame`); psnr is the mean over good frames (where there are none: over
    all, outside the masks) of the covered pixels at working resolution; ms are medians. What cannot be known is None.
    Raises OmniadError where the dataset, the site or ``out`` cannot be used.
    """
    from omniad_ros.building.build import build_site
    from omniad_ros.patrol.pipeline import InspectionOptions, Inspector

    dataset, out = read_dataset(root), Path(out)
    _check_out(out, *OWN_FILES)
    source = _survey_of(dataset, site)
    _check_frames(dataset, source)
    existed = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if site is None:
            survey = dataset.survey_without_tests(out / "survey")
            site = build_site(survey, out / "site", build_options, part(progress, 0.0, 0.7))
            progress = part(progress, 0.7, 1.0)
        site = site if isinstance(site, Site) else Site.open(site)
    except OmniadError:
        if not (out / "site").exists():
            shutil.rmtree(out / "survey", ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
    inspector = Inspector(site, options=InspectionOptions(evidence=False, tracking=False))
    cameras = _TestCameras(site.mapped.camera, source)
    if options.adapt:
        _adapt(site, inspector, dataset, cameras, out / "adapted", part(progress, 0.0, 0.5))
        progress = part(progress, 0.5, 1.0)
    looking = part(progress, 0.0, 0.3) if options.ablation else progress
    alignment = _dataset_frame(site, source)
    score = _Score(inspector.threshold, alignment)
    kept = _Kept()
    for index, frame in enumerate(dataset.frames):
        looking(index / len(dataset.frames), f"inspecting {frame.kind}/{frame.image.name}")
        image, mask, camera = cameras.read(frame)
        inspector.reset()
        inspection = inspector.inspect(image, camera, None)
        score.add(frame, image, mask, inspection, camera)
        if options.ablation:
            kept.add(image, mask, inspection, camera.fitted(inspector.detector.options.longest_side))
    metrics = score.result()
    if options.ablation:
        metrics["ablation"] = kept.ablation(site, inspector.detector.options, part(progress, 0.3, 1.0))
    write_json(out / "metrics.json", metrics)
    write_image(out / ".contact_sheet.jpg", score.sheet.picture())
    (out / ".contact_sheet.jpg").replace(out / "contact_sheet.jpg")
    progress(1.0, f"evaluated {len(dataset.frames)} frames of {dataset.name}")
    return metrics


def _adapt(site: Site, inspector, dataset: Dataset, cameras: _TestCameras, folder: Path, progress: Progress) -> None:
    """Give the inspector a copy of the site's detector that is adapted to the poses of the test images."""
    from omniad_ros.building.build import adapt_into
    from omniad_ros.detection import Detector

    poses = []
    for index, frame in enumerate(dataset.frames):
        progress(0.2 * index / len(dataset.frames), f"localizing {frame.kind}/{frame.image.name}")
        image, _, camera = cameras.read(frame)
        poses.append(inspector.localizer.localize(image, camera, None).pose)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    adapt_into(site, [pose for pose in poses if pose is not None], folder, part(progress, 0.2, 1.0))
    inspector.detector = Detector.load(folder)
    inspector.threshold = inspector.detector.threshold


class _Kept:
    """What the ablation needs of the test frames, at working size."""

    def __init__(self):
        self.frames, self.masks, self.ours, self.aligned = [], [], [], []

    def add(self, image: np.ndarray, mask: np.ndarray, inspection, small: Camera) -> None:
        from omniad_ros.patrol.pipeline import resize

        self.frames.append(resize(image, small))
        self.masks.append(resize(mask.astype(np.uint8), small, nearest=True) > 0)
        self.ours.append(resize(inspection.heatmap, small))
        if inspection.rendering is not None:
            self.aligned.append(inspection.rendering.image)

    def ablation(self, site: Site, options, progress: Progress) -> dict:
        from omniad_ros.building.build import BuildOptions
        from omniad_ros.patrol.pipeline import resize
        from omniad_ros.reference import load_field, novel_poses

        images, field = site.mapped, load_field(site.radiance_dir)
        camera = images.camera.fitted(options.longest_side)
        survey = [resize(images.image(i), camera) for i in range(len(images))]
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


def _check_frames(dataset: Dataset, source: SurveySource | None) -> None:
    """Raise OmniadError where a test image or a mask cannot be used, before hours are spent on the site."""
    for frame in dataset.frames:
        width, height, _ = check_picture(frame.image, source is None or source.upright)
        camera = source.camera if source else None
        if camera and not _same_shape(width, height, camera.width, camera.height):
            raise OmniadError(
                f"{frame.image} is {width}x{height}; that is not the shape of the survey's {camera.width}x{camera.height}"
            )
        if frame.mask is not None:
            w, h, _ = check_picture(frame.mask, upright=False)
            if not _same_shape(w, h, width, height):
                raise OmniadError(f"{frame.mask} is {w}x{h}; that is not the shape of its image, {width}x{height}")


def _same_shape(width: int, height: int, other_width: int, other_height: int) -> bool:
    return abs(width * other_height / (height * other_width) - 1) <= 0.02


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


class _TestCameras:
    """Reads test images as the inspector wants them: rectified, and not larger than surveys are."""

    def __init__(self, mapped: Camera, source: SurveySource | None):
        self.mapped, self.source = mapped, source.camera if source else mapped
        self.upright = source is None or source.upright
        self._rectifiers: dict[tuple[int, int], Rectifier] = {}

    def read(self, frame: TestFrame) -> tuple[np.ndarray, np.ndarray, Camera]:
        """(image uint8 (H, W, 3), mask bool (H, W), camera). Raises OmniadError where the image is of another shape."""
        import cv2

        image = read_picture(frame.image, self.upright)
        height, width = image.shape[:2]
        if not _same_shape(width, height, self.source.width, self.source.height):
            raise OmniadError(
                f"{frame.image} is {width}x{height}; that is not the shape of the survey's {self.source.width}x{self.source.height}"
            )
        if (width, height) not in self._rectifiers:
            self._rectifiers[width, height] = Rectifier(self.source.resized(width, height))
        rectify = self._rectifiers[width, height]
        image = rectify(image)
        mask = read_mask(frame.mask, width, height)
        if rectify.maps is not None:
            mask = rectify(mask.astype(np.uint8) * 255) > 127
        small = self.mapped.resized(width, height).fitted(LARGEST_SIDE)
        if small.width != width:
            size = (small.width, small.height)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
        return image, mask, small


@dataclass
class _Outcome:
    """One test frame's figures."""

    frame: TestFrame
    image_score: float
    localized: bool
    metres: float | None
    degrees: float | None
    psnr: float | None
    covered: float | None
    ms: dict[str, float]


class _Score:
    """Gathers what the test frames gave."""

    def __init__(self, threshold: float, alignment: Alignment | None):
        self.threshold, self.alignment = threshold, alignment
        self.pixel = PixelMeter(threshold)
        self.kinds: dict[str, PixelMeter] = {}
        self.outcomes: list[_Outcome] = []
        self.sheet = ContactSheet()

    def add(self, frame: TestFrame, image: np.ndarray, mask: np.ndarray, inspection, camera: Camera) -> None:
        from omniad_ros.patrol.pipeline import resize

        f1 = None
        if frame.normal or frame.mask is not None:
            f1 = self.pixel.add(inspection.heatmap, mask)
            self.kinds.setdefault(frame.kind, PixelMeter(self.threshold)).add(inspection.heatmap, mask)
        localized = inspection.localization.pose is not None
        metres = degrees = None
        if localized and frame.pose is not None and self.alignment is not None:
            metres, degrees = self.alignment.pose(inspection.localization.pose).distance(frame.pose)
        quality = covered = None
        if inspection.rendering is not None:
            height, width = inspection.rendering.depth.shape
            small = camera.resized(width, height)
            seen = np.isfinite(inspection.rendering.depth)
            covered = float(seen.mean())
            clean = seen & ~resize(mask.astype(np.uint8), small, nearest=True).astype(bool)
            quality = psnr(resize(image, small), inspection.rendering.image, clean)
        self.outcomes.append(
            _Outcome(
                frame, image_score(inspection.heatmap), localized, metres, degrees, quality, covered, inspection.ms
            )
        )
        reference = None if inspection.rendering is None else inspection.rendering.image
        title = f"{frame.kind}/{frame.image.stem}" + ("" if localized else "  not localized")
        false = float((inspection.heatmap >= self.threshold)[~mask].mean()) if (~mask).any() else 0.0
        self.sheet.add(Row(title, image, reference, inspection.heatmap, mask, self.threshold, f1, false))

    def result(self) -> dict:
        outcomes = self.outcomes
        good = [o.image_score for o in outcomes if o.frame.normal]
        kinds = {}
        for kind in sorted({o.frame.kind for o in outcomes}):
            own = [o.image_score for o in outcomes if o.frame.kind == kind]
            auroc = None if kind == "good" else image_auroc(good + own, [False] * len(good) + [True] * len(own))
            meter = self.kinds.get(kind, PixelMeter(self.threshold))
            kinds[kind] = {"frames": len(own), "pixel": _rounded(meter.result()), "image": _rounded({"auroc": auroc})}
        posed = [o for o in outcomes if o.frame.pose is not None and self.alignment is not None]
        errors = [(o.metres, o.degrees) for o in posed if o.metres is not None]
        success = [m <= SUCCESS_METRES and d <= SUCCESS_DEGREES for m, d in errors]
        fit = [o for o in outcomes if o.psnr is not None and (o.frame.normal or not good)]
        return {
            "frames": len(outcomes),
            "pixel": _rounded(self.pixel.result()),
            "image": _rounded({"auroc": image_auroc([o.image_score for o in outcomes], [not o.frame.normal for o in outcomes])}),
            "by_kind": kinds,
            "localization": _rounded({
                "success": sum(success) / len(posed) if posed else None,
                "median_m": _median([m for m, _ in errors]),
                "median_deg": _median([d for _, d in errors]),
                "localized": sum(o.localized for o in outcomes) / len(outcomes),
            }),
            "reference": _rounded({"psnr": _mean([o.psnr for o in fit]), "covered": _mean([o.covered for o in fit])}),
            "ms": {stage: round(_median([o.ms[stage] for o in outcomes]), 1) for stage in STAGES},
            "threshold": round(float(self.threshold), 6),
        }  # fmt: skip


def _median(values) -> float | None:
    return float(np.median(values)) if len(values) else None


def _mean(values) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _rounded(values: dict) -> dict:
    return {key: None if value is None else round(float(value), 5) for key, value in values.items()}


def mean_metrics(results: Sequence[dict]) -> dict:
    """The mean over datasets of every figure that all of them have (frames are summed; kinds are left out)."""

    def mean(values):
        if isinstance(values[0], dict):
            return {key: mean([v[key] for v in values]) for key in values[0] if all(key in v for v in values)}
        known = [v for v in values if v is not None]
        return round(float(np.mean(known)), 5) if known else None

    merged = mean([{k: v for k, v in result.items() if k != "by_kind"} for result in results])
    return {**merged, "frames": sum(result["frames"] for result in results)}


COLUMNS = (
    ("frames", lambda m: m["frames"], "d"),
    ("pose ok", lambda m: m["localization"]["success"], ".3f"),
    ("PSNR", lambda m: m["reference"]["psnr"], ".1f"),
    ("AUROC", lambda m: m["pixel"]["auroc"], ".4f"),
    ("AUPRO", lambda m: m["pixel"]["aupro"], ".3f"),
    ("max F1", lambda m: m["pixel"]["max_f1"], ".3f"),
    ("F1", lambda m: m["pixel"]["f1"], ".3f"),
    ("image", lambda m: m["image"]["auroc"], ".3f"),
    ("ms", lambda m: m["ms"]["total"], ".0f"),
)


def format_table(results: dict[str, dict], by_kind: bool = False) -> str:
    """Metrics of datasets as a table for a terminal; ``by_kind`` adds a row for each kind of anomaly."""
    rows = [("", *(title for title, _, _ in COLUMNS))]
    for name, metrics in results.items():
        rows.append((name, *(_cell(read(metrics), form) for _, read, form in COLUMNS)))
        for kind, own in metrics.get("by_kind", {}).items() if by_kind else ():
            absent = {"localization": {"success": None}, "reference": {"psnr": None}, "ms": {"total": None}}
            rows.append((f"  {kind}", *(_cell(read({**absent, **own}), form) for _, read, form in COLUMNS)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _cell(value, form: str) -> str:
    return "-" if value is None else format(value, form)
