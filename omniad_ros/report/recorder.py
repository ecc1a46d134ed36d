"""Gathers a patrol for its report while it runs, in bounded memory; for the node and for `omniad inspect` alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import encode_jpeg
from omniad_ros.report.data import GalleryFrame, PatrolReport, RouteStep

if TYPE_CHECKING:
    from omniad_ros.patrol.pipeline import Inspection
    from omniad_ros.patrol.tracks import Tracker
    from omniad_ros.site import Site

PICTURE_WIDTH = 360
STAGES = ("localize", "render", "detect", "track", "total")


class PatrolRecorder:
    """Remembers route, states, times and some frames of a patrol.

    steps: how many route steps are kept at most, pictures: how many frames. Beyond, every second one is forgotten; of the
    pictures only every second one is then taken, so that they always span the whole patrol evenly.
    """

    def __init__(self, steps: int = 4000, pictures: int = 24):
        self._steps: list[RouteStep] = []
        self._odometry: list[Pose] = []
        self._gallery: list[GalleryFrame] = []
        self._ms: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self._limits = (steps, pictures)
        self._every = 1
        self._frames = 0

    def add(self, stamp: float, image: np.ndarray, inspection: Inspection, odometry: Pose | None = None) -> None:
        """Take in one frame. image: the frame, uint8 RGB (H, W, 3); odometry: where odometry alone has the camera, in the map."""
        from omniad_ros.patrol.pipeline import overlay

        step = RouteStep(stamp, inspection.pose, inspection.state, inspection.message, len(inspection.detections))
        self.add_step(step, inspection.ms, odometry, lambda: encode_jpeg(overlay(image, inspection), PICTURE_WIDTH))

    def add_step(
        self, step: RouteStep, ms: dict[str, float], odometry: Pose | None, picture: Callable[[], bytes]
    ) -> None:
        """Take in what is known of one frame. ms: milliseconds a stage; picture: makes its JPEG, `PICTURE_WIDTH` wide, if it is wanted."""
        self._steps.append(step)
        if odometry is not None:
            self._odometry.append(odometry)
        if step.state == "ok":
            for stage, values in self._ms.items():
                if stage in ms:
                    values.append(ms[stage])
        if self._frames % self._every == 0:
            self._gallery.append(GalleryFrame(step.stamp, picture(), step.state, step.detections))
        self._frames += 1
        most_steps, most_pictures = self._limits
        if len(self._gallery) > most_pictures:
            self._gallery = self._gallery[::2]
            self._every *= 2
        if len(self._steps) > most_steps:
            self._steps = self._steps[::2]
        if len(self._odometry) > most_steps:
            self._odometry = self._odometry[::2]
        for values in self._ms.values():
            if len(values) > most_steps:
                del values[::2]

    def reset(self) -> None:
        self.__init__(*self._limits)

    def median_ms(self) -> dict[str, float]:
        """Median milliseconds a stage, over the frames that were fully inspected."""
        return {stage: float(np.median(values)) for stage, values in self._ms.items() if values}

    def report(self, title: str, site: Site, tracker: Tracker, **further) -> PatrolReport:
        """The report so far; ``further`` are fields of `PatrolReport` that only the caller knows (metrics, planted, …)."""
        fields = {
            "tracks": tracker.tracks, "gone": tracker.gone, "points": site.sparse_points, "steps": list(self._steps),
            "odometry": list(self._odometry), "gallery": list(self._gallery), "ms": self.median_ms(),
            "build": site.manifest["stages"],
        }  # fmt: skip
        return PatrolReport(title, **{**fields, **further})
