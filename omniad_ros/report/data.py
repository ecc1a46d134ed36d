"""What a report is made of. Everything but the title is optional: a part that is not known is not shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from omniad_ros.core.geometry import Pose
from omniad_ros.patrol.tracks import Track
from omniad_ros.site import SparsePoints


@dataclass(frozen=True)
class RouteStep:
    """One frame of the patrol. stamp: seconds; pose: map_from_camera, None where unknown; state: ok, degraded or lost;
    detections: how many anomalous regions it has, confirmed by other frames or not."""

    stamp: float
    pose: Pose | None
    state: str
    message: str = ""
    detections: int = 0


@dataclass(frozen=True)
class GalleryFrame:
    """A picture of the patrol, for the strip of frames. jpeg: encoded, so that a long patrol stays small in memory."""

    stamp: float
    jpeg: bytes
    state: str = "ok"
    detections: int = 0


@dataclass(frozen=True)
class PlantedMark:
    """A planted anomaly of a simulated patrol, in the map. place: (3,) metres; track: the id of the track that found it."""

    name: str
    kind: str
    place: np.ndarray
    found: bool
    track: int | None = None


@dataclass(frozen=True)
class PatrolReport:
    """One patrol.

    tracks: all tracks, of which the confirmed ones are shown; gone: confirmed ones whose place was seen normal again;
    points: the site's sparse map; steps: the frames in order; odometry: the same route as odometry alone has it, in the map;
    metrics: of `omniad_ros.evaluation.score_patrol`; ms: median milliseconds a stage; build: the site's
    ``manifest["stages"]``; facts: further (label, value) lines; timed: the stamps are times of one drive, not the mere
    numbers of pictures; inspected: share of the map's points that a frame has shown.
    """

    title: str
    subtitle: str = ""
    tracks: Sequence[Track] = ()
    gone: Sequence[Track] = ()
    points: SparsePoints | None = None
    steps: Sequence[RouteStep] = ()
    odometry: Sequence[Pose] = ()
    gallery: Sequence[GalleryFrame] = ()
    planted: Sequence[PlantedMark] = ()
    metrics: dict | None = None
    ms: dict[str, float] = field(default_factory=dict)
    build: dict[str, dict] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()
    timed: bool = True
    inspected: float | None = None
