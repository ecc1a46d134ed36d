"""Findings as plain rows, for JSON and for programs."""

from __future__ import annotations

from omniad_ros.living.schema import Finding


def finding_row(finding: Finding) -> dict:
    """A finding with its sightings and verdicts, as `PatrolStore.finding` gives it: numbers in metres and seconds, crops by their names."""
    return {
        **_own(finding, "name", "kind", "state", "verdict", "score", "center", "size"),
        "sightings": [
            _own(s, "kind", "state", "score", "views", "first_seen", "last_seen", "center", "size", "frame", "reference", "heatmap")
            | {"patrol": s.patrol_id, "robot": s.patrol.robot, "source": s.patrol.source}
            for s in finding.sightings
        ],
        "verdicts": [_own(v, "verdict", "who", "at", "comment", "undone") for v in finding.verdicts],
    }  # fmt: skip


def _own(row: object, *names: str) -> dict:
    return {name: getattr(row, name) for name in names}
