"""Do odometry and the refined poses tell of one motion? Where they do not, one of the two is not of this robot, or not of now."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omniad_ros.core.geometry import Pose, pose_of, rows_of


@dataclass(frozen=True)
class MotionCheckOptions:
    """When two motions contradict each other.

    frames: over how many back they are compared; metres, degrees: that one of the two must have moved for it to be judged; still: share of
    the one below which the other stands; ratio: of the longer way to the shorter one from which they differ; turned: degrees by which
    the turns may differ, and of_turn: as a share of the turn. Set by judgement: odometry on carpet is some 10 % off.
    """

    frames: int = 12
    metres: float = 0.3
    degrees: float = 15.0
    still: float = 0.2
    ratio: float = 1.6
    turned: float = 8.0
    of_turn: float = 0.25


class MotionVerdict(NamedTuple):
    """reason: one phrase, empty where the motions agree; standing: the picture stays while odometry moves, so that nothing that it
    shows is of where the robot is."""

    reason: str
    standing: bool


AGREED = MotionVerdict("", False)
SavedMotion = list[list[list[list[float]]]]
"""A `MotionCheck` as JSON holds it: pairs of poses as rows of their (4, 4) matrices."""


class MotionCheck:
    """Compares the two over the last frames of one robot."""

    def __init__(self, options: MotionCheckOptions | None = None):
        self.options = options or MotionCheckOptions()
        self._poses: deque[tuple[Pose, Pose]] = deque(maxlen=self.options.frames)

    def reset(self) -> None:
        self._poses.clear()

    def saved(self) -> SavedMotion:
        """What `restore` needs to go on."""
        return [list(map(rows_of, pair)) for pair in self._poses]

    def restore(self, saved: Sequence) -> None:
        """Go on where another one was saved. Raises ValueError where a pose is none."""
        self._poses.clear()
        self._poses.extend((pose_of(odometry), pose_of(refined)) for odometry, refined in saved)

    def __call__(self, odom_from_base: Pose | None, map_from_base: Pose) -> MotionVerdict:
        """Judge the newest frame; the poses are odometry's and the refined one."""
        if odom_from_base is None:
            self.reset()
            return AGREED
        self._poses.append((odom_from_base, map_from_base))
        options = self.options
        for odometry, refined in reversed(self._poses):
            told, told_turn = odometry.distance(odom_from_base)
            seen, seen_turn = refined.distance(map_from_base)
            if max(told, seen) >= options.metres or max(told_turn, seen_turn) >= options.degrees:
                return self._judged(told, seen, told_turn, seen_turn)
        return AGREED

    def _judged(self, told: float, seen: float, told_turn: float, seen_turn: float) -> MotionVerdict:
        """told, seen: metres by odometry and by the refined poses, and the turns in degrees."""
        options = self.options
        ways = f"{told:.1f} m and {told_turn:.0f} degrees by odometry, {seen:.1f} m and {seen_turn:.0f} degrees by the camera"
        nearly = options.still * options.metres, options.still * options.degrees
        if seen < max(nearly[0], options.still * told) and seen_turn < max(nearly[1], options.still * told_turn):
            return MotionVerdict(
                f"the picture stays while odometry moves ({ways}): a frozen camera, a picture before the lens, or wheels that slip",
                True,
            )
        if told < max(nearly[0], options.still * seen) and told_turn < max(nearly[1], options.still * seen_turn):
            return MotionVerdict(f"odometry stands while the camera moves ({ways}); it is not used well", False)
        long, short = max(told, seen), min(told, seen)
        turned_apart = abs(told_turn - seen_turn) > options.turned + options.of_turn * max(told_turn, seen_turn)
        if turned_apart or (long >= options.metres and long > options.ratio * short + nearly[0]):
            return MotionVerdict(
                f"odometry and the camera's poses contradict each other ({ways}): another robot's, or a wrong scale",
                False,
            )
        return AGREED
