"""A robot's coordinate frames over time, out of /tf and /tf_static: where the camera is on the robot, and odometry where only
/tf carries it."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field

from omniad_ros.core.geometry import Pose

GAP_NANOSECONDS = 500_000_000
"""Poses are not interpolated over longer gaps."""
ROBOT_FRAMES = ("base_link", "base_footprint")
"""What a robot's own frame is called by REP 105, the likelier first."""


@dataclass
class PoseTrack:
    """Poses by stamp (nanoseconds, ascending)."""

    stamps: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    @staticmethod
    def of(samples: dict[int, Pose]) -> PoseTrack:
        stamps = sorted(samples)
        return PoseTrack(stamps, [samples[stamp] for stamp in stamps])

    def __len__(self) -> int:
        return len(self.stamps)

    def at(self, stamp: int) -> Pose | None:
        """Interpolated; None before the first sample, after the last, and in gaps."""
        after = bisect.bisect_left(self.stamps, stamp)
        if after < len(self.stamps) and self.stamps[after] == stamp:
            return self.poses[after]
        if after in (0, len(self.stamps)) or self.stamps[after] - self.stamps[after - 1] > GAP_NANOSECONDS:
            return None
        start, end = self.stamps[after - 1], self.stamps[after]
        return self.poses[after - 1].interpolate(self.poses[after], (stamp - start) / (end - start))

    def nearest(self, stamp: int) -> Pose:
        after = bisect.bisect_left(self.stamps, stamp)
        near = [i for i in (after - 1, after) if 0 <= i < len(self.stamps)]
        return self.poses[min(near, key=lambda i: abs(self.stamps[i] - stamp))]


class TransformTree:
    """Frames by name, each with its parent; names are compared without a leading slash."""

    def __init__(self):
        self._parents: dict[str, str] = {}
        self._static: dict[str, Pose] = {}
        self._moving: dict[str, dict[int, Pose]] = {}
        self._tracks: dict[str, PoseTrack] = {}

    def add(self, parent: str, child: str, pose: Pose, stamp: int | None = None) -> None:
        """parent_from_child; stamp: nanoseconds, None where it holds for ever."""
        parent, child = parent.lstrip("/"), child.lstrip("/")
        self._parents[child] = parent
        if stamp is None:
            self._static[child] = pose
        else:
            self._moving.setdefault(child, {})[stamp] = pose
            self._tracks.pop(child, None)

    def knows(self, frame: str) -> bool:
        frame = frame.lstrip("/")
        return frame in self._parents or frame in self._parents.values()

    def above(self, frame: str) -> list[str]:
        """The frame itself, its parent, and so on up to the root."""
        chain = [frame.lstrip("/")]
        while (parent := self._parents.get(chain[-1])) is not None and parent not in chain:
            chain.append(parent)
        return chain

    def lookup(self, target: str, source: str, stamp: int) -> Pose | None:
        """target_from_source at a stamp, between samples interpolated, beyond them the nearest; None where they do not hang together."""
        up, down = self.above(source), self.above(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            return None
        source_in_common = self._along(up[: up.index(common)], stamp)
        target_in_common = self._along(down[: down.index(common)], stamp)
        return target_in_common.inverse() @ source_in_common

    def _along(self, chain: list[str], stamp: int) -> Pose:
        pose = Pose.identity()
        for frame in chain:
            pose = self._edge(frame, stamp) @ pose
        return pose

    def _edge(self, child: str, stamp: int) -> Pose:
        if child in self._static:
            return self._static[child]
        track = self._track(child)
        return track.at(stamp) or track.nearest(stamp)

    def _track(self, child: str) -> PoseTrack:
        if child not in self._tracks:
            self._tracks[child] = PoseTrack.of(self._moving[child])
        return self._tracks[child]

    def robot_frame(self, camera: str) -> str:
        """The frame of the robot that carries ``camera``: by its usual name, else the root of what never moves around the camera."""
        chain = self.above(camera)
        named = next((name for usual in ROBOT_FRAMES for name in chain if name.split("/")[-1] == usual), None)
        rigid = [chain[0]]
        for frame in chain[1:]:
            if rigid[-1] in self._moving:
                break
            rigid.append(frame)
        return named or rigid[-1]

    def odometry(self, camera: str) -> tuple[str, str, PoseTrack] | None:
        """(frame of odometry, frame of the robot, poses of the latter in the former) of what drives the robot that carries ``camera``.

        It is the edge below a frame called odom, or the only moving one; None where /tf has none.
        """
        chain = self.above(camera)
        moving = [(child, parent) for child, parent in itertools.pairwise(chain) if child in self._moving]
        named = [edge for edge in moving if edge[1].split("/")[-1].startswith("odom")]
        if not named and len(moving) != 1:
            return None
        child, parent = (named or moving)[-1]
        return parent, child, self._track(child)
