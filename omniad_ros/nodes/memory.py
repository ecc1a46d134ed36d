"""What the inspector remembers of its patrol: the route for the report, and the state that survives a restart.

Both are bounded, and both are written so that a full disk leaves the old file whole.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from omniad_ros.feedback import OmniadError
from omniad_ros.geometry import Pose
from omniad_ros.inspection import Inspection
from omniad_ros.patrol import Patrol, PatrolFrame
from omniad_ros.site import Site, read_json, write_atomically
from omniad_ros.tracking import Track, Tracker

FORMAT = "omniad-inspector-state"


@dataclass(frozen=True)
class Recorded:
    """A patrol so far, as the report wants it: refined poses along the route, all tracks, and statistics."""

    route: list[Pose]
    tracks: list[Track]
    statistics: dict


class PatrolMemory:
    """Lives from the node's configuration to its cleanup; used from the worker's thread, or while it waits."""

    STEP = 0.05
    MOST = 4_000
    SAVE_EVERY = 5.0

    def __init__(self, values, site: Site):
        self.site = site
        self.report_directory = Path(values.report_directory)
        self.state_file = Path(values.state_file) if values.state_file else None
        self.statistics = {"frames": 0, "ok": 0, "degraded": 0, "lost": 0}
        self.route: list[Pose] = []
        self._saved_at = 0.0
        self.trouble = ""
        """Why the state could not be saved; empty when it could."""

    def add(self, frame: PatrolFrame) -> bool:
        """Whether the route became longer."""
        inspection: Inspection = frame.inspection
        self.statistics["frames"] += 1
        self.statistics[inspection.state] += 1
        pose = inspection.localization.pose
        if pose is None or (self.route and pose.distance(self.route[-1])[0] < self.STEP):
            return False
        self.route.append(pose)
        if len(self.route) > self.MOST:
            self.route = self.route[::2]
        return True

    def reset(self) -> None:
        self.statistics = dict.fromkeys(self.statistics, 0)
        self.route = []

    def snapshot(self, patrol: Patrol) -> Recorded:
        """A copy that does not change while the report is written."""
        tracker = patrol.inspector.tracker
        tracks = [track for track in tracker.tracks if track.confirmed] + tracker.gone
        return Recorded(list(self.route), tracks, dict(self.statistics))

    def reload(self, patrol: Patrol) -> None:
        """Go on with the tracks of the state file. Raises OmniadError where it is damaged or of another site."""
        if self.state_file is None or not self.state_file.exists():
            return
        data = read_json(self.state_file)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise OmniadError(f"{self.state_file} is not the state of an inspector; delete it to start clean")
        if data.get("site") != self._identity():
            raise OmniadError(f"{self.state_file} is the state of another site; delete it or give another state_file")
        patrol.inspector.tracker = Tracker.from_dict(data.get("tracker"))
        saved = data.get("statistics", {})
        self.statistics = {key: int(saved.get(key, 0)) for key in self.statistics}

    def save_state(self, patrol: Patrol | None, at_most_every: float = 0.0) -> None:
        if self.state_file is None or patrol is None or time.monotonic() - self._saved_at < at_most_every:
            return
        self._saved_at = time.monotonic()
        data = {
            "format": FORMAT,
            "site": self._identity(),
            "statistics": self.statistics,
            "tracker": patrol.inspector.tracker.to_dict(),
        }
        try:
            self.state_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.state_file, json.dumps(data))
            self.trouble = ""
        except OSError as error:
            self.trouble = f"the state cannot be saved to {self.state_file}: {error.strerror}"

    def _identity(self) -> str:
        return str(self.site.manifest["source"])
