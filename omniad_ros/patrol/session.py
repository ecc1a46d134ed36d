"""A patrol: the frames and the odometry of one robot, in; inspections with pose and covariance, out.

The inspector node and the offline inspection of a bag both run this, so both give the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.mapping import Localization
from omniad_ros.patrol.frame_check import FrameCheck
from omniad_ros.patrol.odometry import SECOND, MapCorrection, OdometryBuffer
from omniad_ros.patrol.pipeline import UNCOVERED, Inspection, Inspector
from omniad_ros.site import PosedImages


@dataclass(frozen=True)
class PatrolFrame:
    """One inspected frame.

    stamp: nanoseconds; covariance: (6, 6) of ``inspection.pose``, order x y z and rotations about x y z, None without
    a pose; map_from_odom: the correction in effect, None where it is unknown; odometry_pose: ``map_from_camera`` as
    odometry alone has it since the first refined pose, None where it is unknown.
    """

    stamp: int
    inspection: Inspection
    covariance: np.ndarray | None
    map_from_odom: Pose | None
    odometry_pose: Pose | None


class Patrol:
    """Inspects the frames of one robot. `add_odometry` may be called from another thread than `inspect`."""

    WAIT_FOR_ODOMETRY = 0.05

    def __init__(self, inspector: Inspector, survey: PosedImages, initial: Pose | None = None):
        self.inspector = inspector
        self.odometry = OdometryBuffer()
        self.correction = MapCorrection(initial)
        self.check = FrameCheck(survey)
        self._survey = survey
        self._first_correction: Pose | None = None

    def warm_up(self) -> None:
        """Let the first frame not wait for compilers and caches."""
        self.inspector.warm_up(self._survey.image(0), self._survey.camera, self._survey.poses[0])

    def add_odometry(self, stamp: int, odom_from_base: Pose) -> None:
        self.odometry.add(stamp, odom_from_base)

    def reset(self) -> None:
        """Forget tracks and where the robot is."""
        self.inspector.reset()
        self.correction.forget()
        self.check.reset()
        self._first_correction = None

    def inspect(
        self, image: np.ndarray, camera: Camera, stamp: int, base_from_camera: Pose, wait: bool = True
    ) -> PatrolFrame:
        """Inspect a rectified frame (uint8 RGB H x W x 3).

        wait: give odometry that is under way a moment to arrive.
        """
        started = time.perf_counter()
        odom_from_base = self.odometry.at(stamp, self.WAIT_FOR_ODOMETRY if wait and self.odometry.stamps else 0.0)
        prior = self.correction.prior(stamp, odom_from_base, base_from_camera, self.odometry.jumps)
        if unfit := self.check(image, odom_from_base):
            inspection = self._unfit(image, prior, unfit, started)
        else:
            doubted = self.correction.doubted
            inspection = self.inspector.inspect(image, camera, None if doubted else prior, stamp / SECOND)
            if inspection.localization.pose is not None:
                self.correction.correct(stamp, inspection.localization.pose, odom_from_base, base_from_camera)
            else:
                self.correction.failed()
        covariance = inspection.localization.covariance
        if covariance is None and inspection.pose is not None:
            covariance = self.correction.covariance(odom_from_base)
        if self._first_correction is None:
            self._first_correction = self.correction.map_from_odom
        alone = None
        if odom_from_base is not None and self._first_correction is not None:
            alone = self._first_correction @ odom_from_base @ base_from_camera
        return PatrolFrame(stamp, inspection, covariance, self.correction.map_from_odom, alone)

    def _unfit(self, image: np.ndarray, prior: Pose | None, reason: str, started: float) -> Inspection:
        total = 1e3 * (time.perf_counter() - started)
        nothing = np.zeros(image.shape[:2], np.float32)
        ms = {"localize": 0.0, "render": 0.0, "detect": 0.0, "track": 0.0, "total": total}
        return Inspection(
            prior, Localization(None, None, 0, "lost"), None, nothing, nothing, np.full(image.shape[:2], UNCOVERED, np.uint8), [],
            self.inspector.tracker.tracks, "degraded", reason, ms,
        )  # fmt: skip
