"""The figures of `omniad evaluate`: what the test frames of a dataset gave, and the table that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omniad_ros.core.geometry import Camera
from omniad_ros.core.images import resized, resized_map
from omniad_ros.detection import Detector
from omniad_ros.detection.calibration import region_level
from omniad_ros.evaluation.frames import Seen
from omniad_ros.evaluation.layouts import TestFrame
from omniad_ros.evaluation.metrics import SIZES, PixelMeter, ThingMeter, image_auroc, image_score, psnr
from omniad_ros.evaluation.patrol_score import SUCCESS_DEGREES, SUCCESS_METRES, Alignment
from omniad_ros.evaluation.sheet import ContactSheet, Row
from omniad_ros.patrol.pipeline import Inspection

STAGES = ("localize", "render", "detect", "total")
FALSE_ALARM_RATES = (0.05, 0.1, 0.2, 0.5)
"""Stated shares of normal frames with a false region, beside which the measured ones are put."""


@dataclass
class Outcome:
    """One test frame's figures; regions: how many were reported in it; level: the threshold from which on there would be none."""

    frame: TestFrame
    image_score: float
    localized: bool
    metres: float | None
    degrees: float | None
    psnr: float | None
    covered: float | None
    state: str
    ms: dict[str, float]
    regions: int
    level: float


class DatasetScore:
    """Gathers what the test frames gave."""

    def __init__(self, detector: Detector, alignment: Alignment | None):
        self.detector, self.threshold, self.alignment = detector, detector.threshold, alignment
        threshold = self.threshold
        self.pixel, self.things = PixelMeter(threshold), ThingMeter(threshold)
        self.kinds: dict[str, PixelMeter] = {}
        self.outcomes: list[Outcome] = []
        self.sheet = ContactSheet()

    def add(self, frame: TestFrame, seen: Seen, inspection: Inspection, working: Camera) -> None:
        """Take in one frame. working: the camera of its reference view."""
        f1 = None
        if frame.normal or frame.mask is not None:
            f1 = self.pixel.add(seen.heatmap, seen.mask)
            self.things.add(seen.heatmap, seen.mask)
            self.kinds.setdefault(frame.kind, PixelMeter(self.threshold)).add(seen.heatmap, seen.mask)
        localized = inspection.localization.pose is not None
        metres = degrees = None
        if localized and frame.pose is not None and self.alignment is not None:
            metres, degrees = self.alignment.pose(inspection.localization.pose).distance(frame.pose)
        quality, covered = self._reference(seen, inspection, working)
        score = image_score(seen.heatmap)
        state = inspection.state
        regions, level = len(inspection.detections), self._level(inspection)
        self.outcomes.append(
            Outcome(frame, score, localized, metres, degrees, quality, covered, state, inspection.ms, regions, level)
        )
        reference = None if inspection.reference is None else inspection.reference.image
        why = (
            ""
            if state == "ok"
            else f"  {inspection.message}"
            if localized or state == "degraded"
            else "  not localized"
        )
        false = float((seen.heatmap >= self.threshold)[~seen.mask].mean()) if (~seen.mask).any() else 0.0
        title = f"{frame.kind}/{frame.image.stem}{why}"
        self.sheet.add(Row(title, seen.image, reference, seen.heatmap, seen.mask, self.threshold, f1, false))

    def _level(self, inspection: Inspection) -> float:
        """The threshold from which on a frame of which something is said holds no region; 0 where nothing is said of it."""
        if inspection.reference is None:
            return 0.0
        heatmap = inspection.heatmap
        smallest = self.detector.options.smallest_area(*heatmap.shape, inspection.reference.detail is not None)
        return region_level(heatmap, max(1, round(smallest)))

    def _false_alarms(self) -> dict:
        """What share of the normal frames holds a false region: at the default threshold, stated and measured, and at other rates."""
        levels = np.array([o.level for o in self.outcomes if o.frame.normal])

        def measured(threshold: float) -> float | None:
            return round(float((levels >= threshold).mean()), 5) if len(levels) else None

        at = {str(rate): measured(self.detector.threshold_at(rate)) for rate in FALSE_ALARM_RATES}
        return {"stated": round(self.detector.false_alarm_rate, 5), "measured": measured(self.threshold), "at": at}

    def _reference(self, seen: Seen, inspection: Inspection, working: Camera) -> tuple[float | None, float | None]:
        """PSNR of the reference view where it is covered and nothing is anomalous, and the share that is covered."""
        if inspection.reference is None:
            return None, None
        size = working.width, working.height
        known = np.isfinite(inspection.reference.depth)
        clean = known & ~resized_map(seen.mask.astype(np.uint8), *size).astype(bool)
        return psnr(resized(seen.image, *size), inspection.reference.image, clean), float(known.mean())

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
            "states": dict(Counter(o.state for o in outcomes)),
            "pixel": _rounded(self.pixel.result()),
            "image": _rounded({"auroc": image_auroc([o.image_score for o in outcomes], [not o.frame.normal for o in outcomes])}),
            "by_kind": kinds,
            "by_size": self.things.result(),
            "false_regions": _mean([o.regions for o in outcomes if o.frame.normal]),
            "false_alarms": self._false_alarms(),
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
    """The mean over datasets of every figure that all of them have (frames and things are summed; kinds are left out)."""

    def mean(values):
        if isinstance(values[0], dict):
            return {key: mean([v[key] for v in values]) for key in values[0] if all(key in v for v in values)}
        known = [v for v in values if v is not None]
        return round(float(np.mean(known)), 5) if known else None

    merged = mean(
        [{k: v for k, v in result.items() if k not in ("by_kind", "by_size", "states")} for result in results]
    )
    sizes = {size: _merged([result["by_size"][size] for result in results]) for size in SIZES}
    return {**merged, "by_size": sizes, "frames": sum(result["frames"] for result in results)}


def _merged(sizes: Sequence[dict]) -> dict:
    """Things of one size of several datasets, each thing weighing the same: a dataset may have hardly any."""
    things = sum(size["things"] for size in sizes)
    found = sum(size["things"] * (size["recall"] or 0.0) for size in sizes)
    return {"things": things, "recall": round(found / things, 5) if things else None}


Column = tuple[str, Callable[[dict], float | None], str]
"""A title, what it shows of a dataset's metrics, and the form of the number."""


def _recall(size: str) -> Callable[[dict], float | None]:
    return lambda metrics: metrics["by_size"][size]["recall"]


SIZE_COLUMNS: tuple[Column, ...] = tuple(
    (f"<{limit}" if np.isfinite(limit) else ">=1000", _recall(size), ".2f") for size, limit in SIZES.items()
)
COLUMNS: tuple[Column, ...] = (
    ("frames", lambda m: m["frames"], "d"),
    ("pose ok", lambda m: m["localization"]["success"], ".3f"),
    ("PSNR", lambda m: m["reference"]["psnr"], ".1f"),
    ("AUROC", lambda m: m["pixel"]["auroc"], ".4f"),
    ("AUPRO", lambda m: m["pixel"]["aupro"], ".3f"),
    ("max F1", lambda m: m["pixel"]["max_f1"], ".3f"),
    ("F1", lambda m: m["pixel"]["f1"], ".3f"),
    ("image", lambda m: m["image"]["auroc"], ".3f"),
    *SIZE_COLUMNS,
    ("false", lambda m: m["false_regions"], ".2f"),
    ("ms", lambda m: m["ms"]["total"], ".0f"),
)


ABSENT = {
    "localization": {"success": None}, "reference": {"psnr": None}, "ms": {"total": None}, "false_regions": None,
    "by_size": {size: {"recall": None} for size in SIZES},
}  # fmt: skip
"""What is not measured of each kind of anomaly."""


def format_table(results: dict[str, dict], by_kind: bool = False, columns: Sequence[Column] = COLUMNS) -> str:
    """Metrics of datasets as a table for a terminal; ``by_kind`` adds a row for each kind of anomaly."""
    rows = [("", *(title for title, _, _ in columns))]
    for name, metrics in results.items():
        rows.append((name, *(_cell(read(metrics), form) for _, read, form in columns)))
        for kind, own in metrics.get("by_kind", {}).items() if by_kind else ():
            rows.append((f"  {kind}", *(_cell(read({**ABSENT, **own}), form) for _, read, form in columns)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _cell(value, form: str) -> str:
    return "-" if value is None else format(value, form)
