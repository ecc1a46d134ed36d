"""Turns a `PatrolReport` into one HTML file with everything inside, written beside and then renamed."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np

from omniad_ros import __version__
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import write_atomically
from omniad_ros.core.images import data_uri
from omniad_ros.report.data import PatrolReport
from omniad_ros.report.floorplan import clock, floorplan_svg, timeline_svg
from omniad_ros.report.pictures import snapshot_pictures

LOOK = Path(__file__).parent / "look.css"
"""The style of the report, and of the operator's page."""
STAGES = ("localize", "render", "detect", "track")
STATES = ("ok", "degraded", "lost")
MOSTLY, DOUBTFUL = 0.5, 0.1
"""Share of the frames that must have been inspected in full, and that may show something unconfirmed, to say that all is normal."""
KIND_WORDS = {"missing": "something is missing", "added": "something was added", "changed": "something changed"}
BUILD_WORDS = {"survey": "Survey", "map": "Map", "radiance": "Radiance field", "detector": "Detector"}


def write_report(out: Path, data: PatrolReport) -> Path:
    """Write ``out/index.html`` and return its path; the old one stays whole until the new one is.

    Raises OmniadError where the folder cannot be written to.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("omniad_ros.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("template.html").render(**_page(data))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "index.html", page)
    except OSError as error:
        raise OmniadError(f"the report cannot be written to {out}: {error.strerror or error}") from error
    return out / "index.html"


def _page(data: PatrolReport) -> dict:
    confirmed = [track for track in data.tracks if track.confirmed]
    start = data.steps[0].stamp if data.steps else 0.0
    label = clock if data.timed else _number
    headline, calm = _headline(data)
    return {
        "title": data.title,
        "subtitle": data.subtitle,
        "headline": headline,
        "calm": calm,
        "summary": _summary(data),
        "figures": _figures(data),
        "plan": floorplan_svg(data),
        "has_odometry": len(data.odometry) > 1,
        "timed": data.timed,
        "has_route": any(step.pose is not None for step in data.steps),
        "planted": data.planted,
        "tracks": [_track(track, data, start) for track in sorted(confirmed, key=lambda t: t.id)],
        "gone": [_track(track, data, start) for track in data.gone],
        "timeline": timeline_svg(data.steps, label),
        "ends": (label(0.0), label(data.steps[-1].stamp - start)) if data.steps else ("", ""),
        "states": _states(data),
        "gallery": [
            {"src": data_uri(f.jpeg), "time": label(f.stamp - start), "state": f.state, "detections": f.detections}
            for f in data.gallery
        ],
        "stages": _stages(data.ms),
        "build": _build(data.build),
        "facts": data.facts,
        "version": __version__,
        "written": datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
    }


def _number(stamp: float) -> str:
    return f"picture {stamp + 1:.0f}"


def _headline(data: PatrolReport) -> tuple[str, bool]:
    """The page's first sentence, and whether it is good news: only where the frames could be inspected and show nothing."""
    count, share = sum(track.confirmed for track in data.tracks), _share_ok(data)
    if count:
        return ("One anomaly found" if count == 1 else f"{count} anomalies found"), False
    if share < MOSTLY:
        return (
            "Nothing found, but most frames could not be inspected" if share else "No frame could be inspected"
        ), False
    doubtful = sum(step.detections > 0 for step in data.steps)
    if doubtful > DOUBTFUL * len(data.steps):
        words = "One picture shows something" if doubtful == 1 else f"{doubtful} pictures show something"
        return f"{words} that no other view confirms", False
    return "Nothing differs from the survey", True


def _summary(data: PatrolReport) -> str:
    """One line: how many frames, how long, how far."""
    parts = []
    if data.steps:
        parts.append(f"{len(data.steps)} frames inspected")
    if not data.timed:
        return " · ".join(parts)
    if data.steps:
        length = data.steps[-1].stamp - data.steps[0].stamp
        parts += [f"{clock(length)} {'min' if length < 3600 else 'h'}"] if length > 0 else []
    route = np.array([step.pose.translation for step in data.steps if step.pose is not None])
    if len(route) > 1:
        parts.append(f"{np.linalg.norm(np.diff(route, axis=0), axis=1).sum():.1f} m driven")
    return " · ".join(parts)


def _figures(data: PatrolReport) -> list[dict]:
    """The tiles of the header: (label, value, note, tone)."""
    metrics, figures = data.metrics, []

    def add(label: str, value, form: str, note: str = "", tone: str = "") -> None:
        if value is not None:
            figures.append({"label": label, "value": format(value, form), "note": note, "tone": tone})

    if metrics:
        all_found = metrics["found"] == metrics["planted"]
        figures.append({
            "label": "Planted anomalies found", "value": f"{metrics['found']} of {metrics['planted']}",
            "note": "within 0.3 m", "tone": "good" if all_found else "",
        })  # fmt: skip
        add("False tracks", metrics["false_tracks"], "d", "", "good" if metrics["false_tracks"] == 0 else "")
        add("Place error", metrics["place_error_m"], ".2f", "m, median")
        add("Pixel AUROC", metrics["pixel"]["auroc"], ".3f")
        best = metrics["pixel"]["max_f1"]
        add("Pixel F1", metrics["pixel"]["f1"], ".2f", "" if best is None else f"at best {best:.2f}")
        error = metrics["localization"]["median_m"]
        add("Localization error", None if error is None else 100 * error, ".1f", "cm, median")
    else:
        add("Confirmed anomalies", sum(track.confirmed for track in data.tracks), "d")
        add("Frames inspected in full", _share_ok(data), ".0%")
    add("Of the place inspected", data.inspected, ".0%", "of the map's points")
    if "total" in data.ms:
        add("Time a frame", data.ms["total"], ".0f", "ms, median")
    return figures


def _share_ok(data: PatrolReport) -> float:
    """Of the frames, those inspected in full."""
    return sum(step.state == "ok" for step in data.steps) / max(len(data.steps), 1)


def _track(track, data: PatrolReport, start: float) -> dict:
    mark = next((mark for mark in data.planted if mark.track == track.id), None)
    x, y, z = (float(v) for v in track.center)
    return {
        "id": track.id,
        "kind": track.kind if track.kind in KIND_WORDS else "changed",
        "words": KIND_WORDS.get(track.kind, KIND_WORDS["changed"]),
        "score": f"{track.score:.2f}",
        "place": f"x {x:.2f}, y {y:.2f}, z {z:.2f} m",
        "size": " × ".join(f"{100 * float(v):.0f}" for v in track.size) + " cm",
        "views": track.views,
        "seen": f", {clock(track.first_seen - start)} – {clock(track.last_seen - start)}" if data.timed else "",
        "planted": None if mark is None else f"{mark.name} ({mark.kind})",
        "pictures": None if track.snapshot is None else snapshot_pictures(track.snapshot, track.snapshot_box),
    }


def _states(data: PatrolReport) -> list[dict]:
    """How many frames were in each state, and the reasons given."""
    rows = []
    for state in STATES:
        steps = [step for step in data.steps if step.state == state]
        if steps:
            reasons = list(dict.fromkeys(step.message for step in steps if step.message))
            rows.append(
                {
                    "state": state,
                    "count": len(steps),
                    "share": f"{len(steps) / len(data.steps):.0%}",
                    "reasons": reasons[:3],
                }
            )
    return rows


def _stages(ms: dict[str, float]) -> list[dict]:
    longest = max((ms[stage] for stage in STAGES if stage in ms), default=0.0)
    if longest <= 0:
        return []
    return [{"name": s, "ms": f"{ms[s]:.0f}", "width": f"{100 * ms[s] / longest:.1f}"} for s in STAGES if s in ms]


def _build(stages: dict[str, dict]) -> list[dict]:
    """What the build noted, in rows of plain text; nested and long values are left out."""
    groups = []
    for stage, words in BUILD_WORDS.items():
        rows = [
            (key.replace("_", " "), _plain(value)) for key, value in stages.get(stage, {}).items()
            if isinstance(value, (str, int, float, bool)) and len(str(value)) < 80
        ]  # fmt: skip
        if rows:
            groups.append({"name": words, "rows": rows})
    return groups


def _plain(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
