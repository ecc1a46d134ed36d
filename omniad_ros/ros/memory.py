"""What the inspector remembers of its patrol: the route for the report, and the state that survives a restart.

Both are bounded, and both are written so that a full disk leaves the old file whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from geometry_msgs.msg import PoseStamped
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json, write_atomically
from omniad_ros.core.geometry import Pose
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.recordings.source import SECOND
from omniad_ros.report import PatrolRecorder, PatrolReport
from omniad_ros.ros import messages
from omniad_ros.site import Site

FORMAT = "omniad-inspector-state"
Count = Annotated[int, msgspec.Meta(ge=0)]


class Statistics(msgspec.Struct):
    """How many frames were inspected, and with what outcome."""

    frames: Count
    ok: Count
    degraded: Count
    lost: Count


class SavedState(msgspec.Struct):
    """The state file. site: which one it is of; tracker: as `Tracker.to_json` writes it."""

    format: str
    site: str
    statistics: Statistics
    tracker: msgspec.Raw


class PatrolMemory:
    """Lives from the node's configuration to its cleanup; used from the worker's thread, or while it waits."""

    STEP = 0.05
    MOST = 2_000
    SAVE_EVERY = 5.0
    ROUTE_EVERY = 1.0

    def __init__(self, values, site: Site):
        self.site = site
        self.report_directory = Path(values.report_directory).expanduser().absolute()
        self._map_frame = values.map_frame
        self.state_file = Path(values.state_file).expanduser() if values.state_file else None
        self.statistics = {"frames": 0, "ok": 0, "degraded": 0, "lost": 0}
        self.recorder = PatrolRecorder()
        self._forget_route()
        self._saved_at = self._told_at = self._floor_at = 0.0
        self.trouble = ""
        """Why the state could not be saved; empty when it could."""

    def add(self, frame: PatrolFrame) -> None:
        """Take in a frame."""
        inspection = frame.inspection
        self.statistics["frames"] += 1
        self.statistics[inspection.state] += 1
        self.recorder.add(frame.stamp / SECOND, frame.image, inspection, frame.odometry_pose)
        pose = inspection.localization.pose
        if pose is None or (self._last is not None and pose.distance(self._last)[0] < self.STEP):
            return
        header = Header(stamp=messages.to_stamp(frame.stamp), frame_id=self._map_frame)
        self._route.append(messages.pose_stamped(pose, header))
        self._last, self._longer = pose, True
        if len(self._route) > self.MOST:
            self._route = self._route[::2]

    def floor_due(self) -> bool:
        """Whether the floor is to be told of again: at most every `ROUTE_EVERY` seconds."""
        due = time.monotonic() - self._floor_at >= self.ROUTE_EVERY
        if due:
            self._floor_at = time.monotonic()
        return due

    def route(self) -> list[PoseStamped] | None:
        """The camera's way in the map where it became longer since it was last asked for, at most every `ROUTE_EVERY` seconds."""
        if not self._longer or time.monotonic() - self._told_at < self.ROUTE_EVERY:
            return None
        self._longer, self._told_at = False, time.monotonic()
        return self._route

    def _forget_route(self) -> None:
        self._route: list[PoseStamped] = []
        self._last: Pose | None = None
        self._longer = False

    def reset(self) -> None:
        self.statistics = dict.fromkeys(self.statistics, 0)
        self._forget_route()
        self._longer = True  # an empty route is told too
        self.recorder.reset()

    def report(self, session: PatrolSession, loud: Callable[[list[Track]], list[Track]]) -> PatrolReport:
        """All that the report shows, as it is now. loud: which of the tracks it tells of."""
        counts = tuple(
            (f"frames {key}" if key != "frames" else key, str(value)) for key, value in self.statistics.items()
        )
        tracker = session.inspector.tracker
        return self.recorder.report(
            "Patrol",
            self.site,
            tracker,
            subtitle=str(self.site.path),
            facts=counts,
            tracks=loud(tracker.tracks),
            inspected=session.inspected.share,
        )

    def reload(self, session: PatrolSession) -> None:
        """Go on with the tracks of the state file. Raises OmniadError where it is damaged or of another site."""
        if self.state_file is None or not self.state_file.exists():
            return
        try:
            state = read_json(self.state_file, SavedState)
        except OmniadError as error:
            raise OmniadError(f"{error}; delete it to start clean") from None
        if state.format != FORMAT:
            raise OmniadError(f"{self.state_file} is not the state of an inspector; delete it to start clean")
        if state.site != self._identity():
            raise OmniadError(f"{self.state_file} is the state of another site; delete it or give another state_file")
        session.inspector.tracker = Tracker.from_json(state.tracker)
        self.statistics = msgspec.structs.asdict(state.statistics)

    def save_state(self, session: PatrolSession | None, at_most_every: float = 0.0) -> None:
        if self.state_file is None or session is None or time.monotonic() - self._saved_at < at_most_every:
            return
        self._saved_at = time.monotonic()
        tracker = msgspec.Raw(session.inspector.tracker.to_json())
        state = SavedState(FORMAT, self._identity(), Statistics(**self.statistics), tracker)
        try:
            self.state_file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.state_file, msgspec.json.encode(state))
            self.trouble = ""
        except OSError as error:
            self.trouble = f"the state cannot be saved to {self.state_file}: {error.strerror}"

    def _identity(self) -> str:
        return str(self.site.manifest["source"])
