"""Findings as plain rows, for JSON and for programs."""

from __future__ import annotations

from omniad_ros.living.schema import Finding


def finding_summary(finding: Finding) -> dict:
    """A finding without its history."""
    return own(finding, "name", "kind", "state", "verdict", "score", "center", "size")


def finding_row(finding: Finding) -> dict:
    """A finding with its sightings and verdicts, as `PatrolStore.finding` gives it: numbers in metres and seconds, crops by their names."""
    return {
        **finding_summary(finding),
        "sightings": [
            own(s, "kind", "state", "score", "views", "first_seen", "last_seen", "center", "size", "frame", "reference", "heatmap")
            | {"patrol": s.patrol_id, "robot": s.patrol.robot, "source": s.patrol.source}
            for s in finding.sightings
        ],
        "verdicts": [own(v, "verdict", "who", "at", "comment", "undone") for v in finding.verdicts],
    }  # fmt: skip


def own(row: object, *names: str) -> dict:
    """Some columns of a row, by their names."""
    return {name: getattr(row, name) for name in names}
