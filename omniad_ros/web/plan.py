"""The plan of a site: its findings by state and verdict, its zones, and the route of a patrol."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from omniad_ros.living import Finding, Zone
from omniad_ros.report.floorplan import WIDTH, escaped, grid, line, scale_bar
from omniad_ros.web.places import Place

SETTLED = ("accepted", "ignored", "false alarm")


def tone(state: str, verdict: str) -> str:
    """One word for how a finding is drawn."""
    if verdict in SETTLED:
        return "settled"
    if state == "gone":
        return "gone"
    return "confirmed" if verdict == "confirmed" else "fresh" if state in ("new", "changed") else "known"


def plan_svg(
    place: Place, findings: Sequence[Finding], zones: Sequence[Zone] = (), route: np.ndarray | None = None
) -> str:
    """An inline SVG element. route: (N, 3) metres in the map. Its data attributes let a page turn a pixel into metres."""
    frame = place.frame
    low, unit = frame.low, frame.unit
    parts = [
        f'<svg class="plan" viewBox="0 0 {WIDTH} {frame.height:.0f}" role="img" aria-label="map of the site from above" '
        f'data-left="{low[0]:.4f}" data-top="{frame.high[1]:.4f}" data-unit="{unit:.4f}">',
        place.background,
        grid(frame),
        *(_zone(zone, frame) for zone in zones),
        "" if route is None else line(frame(route), "route"),
        *(_finding(place, finding, frame) for finding in reversed(findings)),
        scale_bar(frame),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part)


def _zone(zone: Zone, frame) -> str:
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in frame(json.loads(zone.outline)))
    title = f"zone {zone.id}: {escaped(zone.name)}, {zone.low:g} to {zone.high:g} m"
    return f'<polygon class="zone" points="{corners}"><title>{title}</title></polygon>'


def _finding(place: Place, finding: Finding, frame) -> str:
    x, y = frame(finding.center)
    width, height = np.clip(np.array(finding.size[:2]) * frame.unit, 6, 400)
    words = f"{finding.name}: {finding.kind}, {finding.state}" + (f", {finding.verdict}" if finding.verdict else "")
    return (
        f'<a href="/sites/{escaped(place.name)}/findings/{finding.name}" class="mark {tone(finding.state, finding.verdict)}">'
        f'<rect class="footprint" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="14"/><text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle">{finding.id}</text>'
        f"<title>{escaped(words)}</title></a>"
    )
