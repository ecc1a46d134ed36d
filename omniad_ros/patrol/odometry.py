"""From odometry to the prior pose: where a frame's camera should be in the map before anything was seen.

Odometry is kept for some seconds and interpolated at the frame's stamp. `MapCorrection` holds ``map_from_odom``, renewed by
every refined pose; between two of them odometry carries the pose, and its uncertainty grows with the way driven.
Stamps are integer nanoseconds, poses of odometry are ``odom_from_base``.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from dataclasses import dataclass

import msgspec
import numpy as np

from omniad_ros.core.geometry import Pose, pose_of, rows_of
from omniad_ros.recordings.source import SECOND


@dataclass(frozen=True)
class OdometryOptions:
    """What is believed of odometry.

    seconds: how long it is kept; gap: seconds between two samples over which is not interpolated, and beyond the newest
    one over which is not extrapolated; close: seconds to the newest sample for which it is not worth waiting; speed:
    metres a second that no robot reaches: a faster step is a jump.
    """

    seconds: float = 10.0
    gap: float = 0.5
    close: float = 0.02
    speed: float = 10.0


class OdometryBuffer:
    """The last seconds of odometry, by stamp. Safe to use from several threads."""

    def __init__(self, options: OdometryOptions | None = None):
        self.options = options or OdometryOptions()
        self.stamps: deque[int] = deque()
        self.poses: deque[Pose] = deque()
        self.jumps = 0
        self._changed = threading.Condition()

    def add(self, stamp: int, pose: Pose) -> None:
        """Add a sample. One that is a little late is ignored; stamps that jump begin a new buffer."""
        with self._changed:
            if self.stamps:
                step = (stamp - self.stamps[-1]) / SECOND
                if -self.options.gap <= step <= 0:
                    return
                moved = pose.distance(self.poses[-1])[0]
                if step < 0 or moved > 0.3 + self.options.speed * min(step, 1.0):
                    self._clear()
                    self.jumps += moved > 0.3
            self.stamps.append(stamp)
            self.poses.append(pose)
            while stamp - self.stamps[0] > self.options.seconds * SECOND:
                self.stamps.popleft()
                self.poses.popleft()
            self._changed.notify_all()

    def at(self, stamp: int, wait: float = 0.0) -> Pose | None:
        """``odom_from_base`` at a stamp, interpolated; None where the samples do not say.

        wait: seconds to wait for a sample at or after the stamp; without one the newest is taken if it is not too old.
        """
        deadline = time.monotonic() + wait
        gap = self.options.gap * SECOND
        with self._changed:
            while not self.stamps or -gap < self.stamps[-1] - stamp < -self.options.close * SECOND:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    break
            if not self.stamps:
                return None
            after = bisect.bisect_left(self.stamps, stamp)
            if after == len(self.stamps):
                return self.poses[-1] if stamp - self.stamps[-1] <= gap else None
            if self.stamps[after] == stamp:
                return self.poses[after]
            if after == 0 or self.stamps[after] - self.stamps[after - 1] > gap:
                return None
            fraction = (stamp - self.stamps[after - 1]) / (self.stamps[after] - self.stamps[after - 1])
            return self.poses[after - 1].interpolate(self.poses[after], fraction)

    def away(self, stamp: int) -> float | None:
        """Seconds from a stamp to the nearest sample; None where there is none."""
        with self._changed:
            if not self.stamps:
                return None
            after = bisect.bisect_left(self.stamps, stamp)
            return min(abs(stamp - self.stamps[i]) for i in (after - 1, after) if 0 <= i < len(self.stamps)) / SECOND

    def clear(self) -> None:
        with self._changed:
            self._clear()

    def _clear(self) -> None:
        self.stamps.clear()
        self.poses.clear()


class SavedCorrection(msgspec.Struct):
    """A `MapCorrection` as JSON holds it; poses as rows of their (4, 4) matrices."""

    map_from_odom: list[list[float]] | None
    pending: list[list[float]] | None
    corrected_at: list[list[float]] | None
    last: tuple[int, list[list[float]]] | None
    failures: int
    jumps: int


class MapCorrection:
    """``map_from_odom``, learnt from refined poses; without odometry the last refined pose itself.

    initial: ``map_from_base`` at the first frame where somebody knows it, else None: the first frame is then found
    from the map alone.
    """

    POSITION, ANGLE = 0.05, 0.02
    """Standard deviation of a correction just made, in metres and radians."""
    POSITION_DRIFT, ANGLE_DRIFT, TURN_DRIFT = 0.1, 0.05, 0.1
    """What odometry adds to it: metres a metre, radians a metre, radians a radian."""
    LAST_POSE_SECONDS = 2.0
    LOST_FRAMES = 2
    """After how many frames without a refined pose every second one is tried without a prior."""

    def __init__(self, initial: Pose | None = None):
        self.initial = initial
        self.forget()

    def forget(self) -> None:
        """Forget where the robot is; the initial pose is used again where there is one."""
        self.map_from_odom: Pose | None = None
        self._pending = self.initial
        self._corrected_at: Pose | None = None
        self._last: tuple[int, Pose] | None = None
        self._failures = 0
        self._jumps = 0

    def begin(self, map_from_base: Pose) -> None:
        """Somebody says where the robot is: that is believed at the next frame."""
        self.map_from_odom, self._last, self._failures = None, None, 0
        self._pending = map_from_base

    def prior(self, stamp: int, odom_from_base: Pose | None, base_from_camera: Pose, jumps: int = 0) -> Pose | None:
        """``map_from_camera`` as odometry has it, or None where it cannot be known.

        jumps: `OdometryBuffer.jumps`; after a new one nothing is known any more.
        """
        if jumps != self._jumps:
            self._jumps = jumps
            self.map_from_odom = None
        if odom_from_base is None:
            recent = self._last is not None and abs(stamp - self._last[0]) < self.LAST_POSE_SECONDS * SECOND
            return self._last[1] if recent else None
        if self.map_from_odom is None and self._pending is not None:
            self.map_from_odom = self._pending @ odom_from_base.inverse()
            self._corrected_at = odom_from_base
        self._pending = None
        if self.map_from_odom is None:
            return None
        return self.map_from_odom @ odom_from_base @ base_from_camera

    @property
    def doubted(self) -> bool:
        """Whether the next frame should be found from the map alone, because the prior may be wrong."""
        return self._failures >= self.LOST_FRAMES and self._failures % 2 == 0

    def correct(self, stamp: int, map_from_camera: Pose, odom_from_base: Pose | None, base_from_camera: Pose) -> None:
        """Learn from a refined pose."""
        self._failures = 0
        self._last = (stamp, map_from_camera)
        if odom_from_base is not None:
            self.map_from_odom = map_from_camera @ base_from_camera.inverse() @ odom_from_base.inverse()
            self._corrected_at = odom_from_base

    def failed(self) -> None:
        """The frame had no refined pose."""
        self._failures += 1

    def saved(self) -> SavedCorrection:
        """What `restore` needs to go on."""
        last = None if self._last is None else (self._last[0], rows_of(self._last[1]))
        known = (self.map_from_odom, self._pending, self._corrected_at)
        return SavedCorrection(*map(rows_of, known), last, self._failures, self._jumps)

    def restore(self, saved: SavedCorrection) -> None:
        """Go on where another one was saved. Raises ValueError where a pose is none."""
        known = (saved.map_from_odom, saved.pending, saved.corrected_at)
        self.map_from_odom, self._pending, self._corrected_at = map(pose_of, known)
        self._last = None if saved.last is None else (saved.last[0], pose_of(saved.last[1]))
        self._failures, self._jumps = saved.failures, saved.jumps

    def covariance(self, odom_from_base: Pose | None) -> np.ndarray:
        """(6, 6) of the prior pose, order x y z and rotations about x y z, in metres and radians."""
        metres, radians = 0.0, 0.0
        if odom_from_base is not None and self._corrected_at is not None:
            metres, degrees = odom_from_base.distance(self._corrected_at)
            radians = np.radians(degrees)
        position = self.POSITION + self.POSITION_DRIFT * metres
        angle = self.ANGLE + self.ANGLE_DRIFT * metres + self.TURN_DRIFT * radians
        return np.diag([position**2] * 3 + [angle**2] * 3)
