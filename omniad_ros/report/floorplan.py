"""The map from above as an SVG picture: the sparse map as a faint floor plan, routes, tracks and planted anomalies."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.images import data_uri
from omniad_ros.report.data import PatrolReport

WIDTH = 1000
"""Of the drawing, in its own units."""
MARGIN = 0.06


@dataclass(frozen=True)
class PlanFrame:
    """Of a drawing, WIDTH wide: from metres in the map (x right, y up) to the drawing (x right, y down)."""

    low: np.ndarray
    high: np.ndarray

    @property
    def unit(self) -> float:
        return WIDTH / float(self.high[0] - self.low[0])

    @property
    def height(self) -> float:
        return float(self.high[1] - self.low[1]) * self.unit

    def __call__(self, points) -> np.ndarray:
        points = np.asarray(points, float)[..., :2]
        return np.stack([points[..., 0] - self.low[0], self.high[1] - points[..., 1]], axis=-1) * self.unit


def floorplan_svg(report: PatrolReport) -> str | None:
    """The drawing as an inline SVG element whose colours are the page's CSS variables; None where there is nothing to show."""
    route = np.array([step.pose.translation for step in report.steps if step.pose is not None]).reshape(-1, 3)
    odometry = np.array([pose.translation for pose in report.odometry]).reshape(-1, 3)
    tracks = [track for track in report.tracks if track.confirmed]
    marks = np.array([t.center for t in tracks] + [np.asarray(p.place) for p in report.planted]).reshape(-1, 3)
    points = np.zeros((0, 3), np.float32) if report.points is None else report.points.xyz
    frame = extent_of(points, np.concatenate([route, marks]))
    if frame is None:
        return None
    parts = [
        f'<svg class="plan" viewBox="0 0 {WIDTH} {frame.height:.0f}" role="img" aria-label="map of the site from above">',
        background(points, report.points.rgb if len(points) else None, frame),
        grid(frame),
        line(frame(odometry), "odometry"),
        line(frame(route), "route") if report.timed else "",
        _headings(report, frame),
        *(_planted(mark, frame) for mark in report.planted),
        *(_track(track, frame) for track in tracks),
        scale_bar(frame),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def extent_of(points: np.ndarray, important: np.ndarray) -> PlanFrame | None:
    """All that matters, and of the sparse points the bulk: a few far outliers shall not shrink the rest."""
    corners = [important[:, :2]] if len(important) else []
    if len(points) >= 10:
        corners.append(np.percentile(points[:, :2], [3, 97], axis=0))
    if not corners:
        return None
    corners = np.concatenate(corners)
    low, high = corners.min(0), corners.max(0)
    size = max(float((high - low).max()), 0.5)
    low, high = low - MARGIN * size, high + MARGIN * size
    # not narrower than 5:3 and not taller than a square, so that it sits well on a page
    shape = (high - low) / 2
    wanted = np.array([max(shape[0], shape[1] * 1.05), max(shape[1], shape[0] * 0.55)])
    middle = (low + high) / 2
    return PlanFrame(middle - wanted, middle + wanted)


def background(points: np.ndarray, colors: np.ndarray | None, frame: PlanFrame) -> str:
    """Points (N, 3) with colours (N, 3) uint8 as an SVG image; empty without colours."""
    if colors is None:
        return ""
    width, height = WIDTH, max(1, round(frame.height))
    pixels = np.round(frame(points)).astype(int)
    inside = ((pixels >= 0) & (pixels < [width, height])).all(1)
    order = np.argsort(points[inside, 2])  # what stands high covers what lies low, as seen from above
    pixels, colors, heights = pixels[inside][order], colors[inside][order], points[inside, 2][order]
    # the floor is fainter than what stands on it
    low, high = np.percentile(heights, [5, 60]) if len(heights) else (0.0, 1.0)
    opacity = np.interp(heights, [low, max(high, low + 1e-6)], [70, 190])
    picture = np.zeros((height, width, 4), np.uint8)
    for (x, y), color, alpha in zip(pixels.tolist(), colors.tolist(), opacity.tolist()):
        cv2.circle(picture, (x, y), 2, (color[2], color[1], color[0], round(alpha)), -1)
    data = cv2.imencode(".png", picture)[1].tobytes()
    return f'<image href="{data_uri(data, "png")}" width="{width}" height="{height}"/>'


def grid(frame: PlanFrame) -> str:
    """Lines at round metres."""
    step = _round_step(float(frame.high[0] - frame.low[0]) / 8)
    lines = []
    for axis in (0, 1):
        for index in range(math.ceil(frame.low[axis] / step), math.floor(frame.high[axis] / step) + 1):
            start, end = frame.low.copy(), frame.high.copy()
            start[axis] = end[axis] = index * step
            (x0, y0), (x1, y1) = frame(start), frame(end)
            lines.append(f"M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}")
    return f'<path class="grid" d="{"".join(lines)}"/>'


def _round_step(length: float) -> float:
    power = 10.0 ** math.floor(math.log10(length))
    return power * min((m for m in (1, 2, 5, 10) if m * power >= length), default=10)


def scale_bar(frame: PlanFrame) -> str:
    """A length in metres, in the lower left corner."""
    length = _round_step(float(frame.high[0] - frame.low[0]) / 8)
    x, y = 24, frame.height - 24
    text = f"{length:g} m" if length >= 0.1 else f"{100 * length:g} cm"
    return (
        f'<g class="scale"><path d="M{x} {y - 6}v6h{length * frame.unit:.1f}v-6"/>'
        f'<text x="{x + length * frame.unit / 2:.1f}" y="{y - 10}" text-anchor="middle">{text}</text></g>'
    )


def line(pixels: np.ndarray, name: str) -> str:
    """A polyline of a class; empty for less than two places (N, 2)."""
    if len(pixels) < 2:
        return ""
    return f'<polyline class="{name}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)}"/>'


def _headings(report: PatrolReport, frame: PlanFrame) -> str:
    """The start, the end, and small arrows that show where the camera looked."""
    posed = [step.pose for step in report.steps if step.pose is not None]
    if not posed:
        return ""
    parts, last = [], None
    for pose in posed:
        x, y = frame(pose.translation)
        if report.timed and last is not None and math.hypot(x - last[0], y - last[1]) < 55:
            continue
        last = (x, y)
        forward = pose.rotation[:2, 2]
        length = float(np.linalg.norm(forward))
        if length > 0.2:
            parts.append(
                f'<path class="look" transform="translate({x:.1f} {y:.1f}) rotate({-math.degrees(math.atan2(forward[1], forward[0])):.1f})" d="M4 0l13 0m-5 -4l5 4l-5 4"/>'
            )
    if not report.timed:
        return "".join(parts)
    (x0, y0), (x1, y1) = frame(posed[0].translation), frame(posed[-1].translation)
    parts.append(f'<circle class="start" cx="{x0:.1f}" cy="{y0:.1f}" r="6"><title>start of the patrol</title></circle>')
    parts.append(
        f'<rect class="end" x="{x1 - 5:.1f}" y="{y1 - 5:.1f}" width="10" height="10"><title>end of the patrol</title></rect>'
    )
    return "".join(parts)


def _planted(mark, frame: PlanFrame) -> str:
    x, y = frame(mark.place)
    state = "found" if mark.found else "missed"
    return (
        f'<path class="planted {state}" d="M{x:.1f} {y - 15:.1f}l15 15l-15 15l-15 -15z">'
        f"<title>planted: {escaped(mark.name)} ({escaped(mark.kind)}), {state}</title></path>"
    )


def _track(track, frame: PlanFrame) -> str:
    x, y = frame(track.center)
    width, height = np.clip(np.asarray(track.size)[:2] * frame.unit, 6, 400)
    kind = track.kind if track.kind in ("missing", "added", "changed") else "changed"
    return (
        f'<a href="#track-{track.id}" class="track {kind}">'
        f'<rect class="footprint" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="13"/><text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle">{track.id}</text>'
        f"<title>track {track.id}: {kind}, score {track.score:.2f}</title></a>"
    )


def escaped(text: str) -> str:
    """Text for HTML and SVG."""
    return html.escape(str(text))


def timeline_svg(steps: Sequence, label=None) -> str | None:
    """The states of the patrol's frames over time, as an inline SVG bar; None for less than two frames.

    label: turns seconds since the start into text (default: `clock`).
    """
    label = label or clock
    if len(steps) < 2 or steps[-1].stamp <= steps[0].stamp:
        return None
    start, length = steps[0].stamp, steps[-1].stamp - steps[0].stamp
    typical = float(np.median(np.diff([step.stamp for step in steps])))
    parts, index = [], 0
    while index < len(steps):
        end = index
        while end + 1 < len(steps) and (steps[end + 1].state, steps[end + 1].message) == (
            steps[index].state,
            steps[index].message,
        ):
            end += 1
        x0 = 1000 * (steps[index].stamp - start) / (length + typical)
        x1 = 1000 * (steps[end].stamp + typical - start) / (length + typical)
        reason = f": {escaped(steps[index].message)}" if steps[index].message else ""
        parts.append(
            f'<rect class="{escaped(steps[index].state)}" x="{x0:.1f}" width="{max(x1 - x0, 2):.1f}" y="0" height="20">'
            f"<title>{escaped(steps[index].state)} from {label(steps[index].stamp - start)} to {label(steps[end].stamp - start)}{reason}</title></rect>"
        )
        index = end + 1
    return f'<svg class="timeline" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label="states over time">{"".join(parts)}</svg>'


def clock(seconds: float) -> str:
    """Minutes and seconds, and hours where there are any."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
