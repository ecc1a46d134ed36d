"""What an inspected frame says of how the inspector is, for /diagnostics."""

from __future__ import annotations

from omniad_ros.patrol.odometry import OdometryOptions
from omniad_ros.patrol.pipeline import UNCOVERED
from omniad_ros.patrol.session import PatrolFrame
from omniad_ros.ros.managed import ERROR, OK, WARN


def values_of(frame: PatrolFrame, inspected: float) -> dict:
    """What is told of the newest frame; inspected: share of the map that the patrol has shown."""
    inspection = frame.inspection
    values = {"camera": frame.frame.eye} if frame.frame.eye else {}
    return values | {
        "stamp": frame.stamp, "state": inspection.state, "verdict": inspection.localization.verdict, "why": inspection.message,
        "inliers": inspection.localization.inliers, "tracks": sum(t.confirmed for t in inspection.tracks),
        "inspected %": 100 * inspected, **{f"ms {stage}": ms for stage, ms in inspection.ms.items()},
    }  # fmt: skip


def judged(frame: PatrolFrame, complaint: str, odometry_away: float | None) -> tuple[int, str]:
    """Level and sentence. complaint: why reference views are not used, empty where they are; odometry_away: seconds from the frame to
    the nearest odometry, None without any."""
    inspection = frame.inspection
    level = {"ok": OK, "degraded": WARN, "lost": ERROR}[inspection.state]
    if complaint:
        return max(level, WARN), complaint
    if level == OK and (inspection.mask == UNCOVERED).all():
        return WARN, "the survey saw nothing of what is in view: nothing is said of it"
    if level == OK and odometry_away is not None and odometry_away > OdometryOptions.gap:
        away = f"the nearest is {odometry_away:.1f} s away; do camera and odometry share a clock?"
        return WARN, f"no odometry at the image's stamp: {away}"
    return level, inspection.message or "ok"
