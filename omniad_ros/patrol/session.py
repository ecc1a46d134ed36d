"""The session of one robot: its frames and its odometry, in; inspections with pose and covariance, out.

The inspector node, the inspection of recordings and the evaluation of datasets all run this over `Frame`s, so that all three see
the same heatmap for the same frame.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from omniad_ros.core.files import read_json, write_atomically
from omniad_ros.core.geometry import Camera, Pose, Rectifier, pose_of, rows_of
from omniad_ros.mapping import Localization
from omniad_ros.patrol.frame_check import FrameCheck, SavedFrameCheck
from omniad_ros.patrol.inspected import InspectedMap
from omniad_ros.patrol.motion_check import AGREED, MotionCheck, SavedMotion
from omniad_ros.patrol.mount_check import MountCheck, SavedMount
from omniad_ros.patrol.odometry import MapCorrection, OdometryBuffer, SavedCorrection
from omniad_ros.patrol.pipeline import Inspection, Inspector
from omniad_ros.patrol.tracks import Tracker
from omniad_ros.recordings.source import SECOND, Frame, FrameSource
from omniad_ros.site import PosedImages

SAVED, EVIDENCE = "session.json", "evidence.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatrolFrame:
    """One inspected frame.

    frame: as it was taken; image: uint8 RGB (H, W, 3), rectified, with its camera; covariance: (6, 6) of ``inspection.pose``, order x y
    z and rotations about x y z, None without a pose; map_from_odom: the correction in effect, None where it is unknown;
    odometry_pose: ``map_from_camera`` as odometry alone has it since the first refined pose, None where it is unknown.
    """

    frame: Frame
    image: np.ndarray
    camera: Camera
    inspection: Inspection
    covariance: np.ndarray | None
    map_from_odom: Pose | None
    odometry_pose: Pose | None

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return self.frame.stamp


class SavedSession(msgspec.Struct):
    """A `PatrolSession` between two frames, as JSON holds it; what its evidence says lies beside it (EVIDENCE)."""

    tracker: msgspec.Raw
    correction: SavedCorrection
    check: SavedFrameCheck
    first_correction: list[list[float]] | None
    frames_without_pose: int
    motion: SavedMotion = []
    mount: SavedMount = []
    inspected: str = ""


class PatrolSession:
    """Inspects the frames of one robot. `add_odometry` may be called from another thread than `inspect`."""

    WAIT_FOR_ODOMETRY = 0.05

    def __init__(self, inspector: Inspector, survey: PosedImages, initial: Pose | None = None):
        self.inspector = inspector
        self.odometry = OdometryBuffer()
        self.correction = MapCorrection(initial)
        self.check = FrameCheck(survey)
        self.motion, self.mount = MotionCheck(), MountCheck()
        self.inspected = InspectedMap(inspector.points.xyz)
        self._survey = survey
        self._rectifiers: dict[Camera, Rectifier] = {}
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
        self.motion.reset()
        self.mount.reset()
        self.inspected.reset()
        self._first_correction = None

    def new_patrol(self) -> None:
        """Forget what was seen, but not where the robot is."""
        self.inspector.reset()
        self.inspected.reset()

    def run(self, source: FrameSource, first: int = 0) -> Iterator[PatrolFrame]:
        """Inspect a recorded patrol from its frame number ``first`` on, each frame with the odometry around its stamp."""
        waiting, newest = iter(source.odometry), -1
        for number, frame in enumerate(source.open_frames()):
            # up to the first sample after the frame, so that it can be interpolated
            while newest < frame.stamp and (sample := next(waiting, None)) is not None:
                newest = sample[0]
                self.add_odometry(*sample)
            if number >= first:
                yield self.inspect(frame, wait=False)

    def inspect(self, frame: Frame, wait: bool = True) -> PatrolFrame:
        """Inspect a frame. wait: give odometry that is under way a moment to arrive."""
        started = time.perf_counter()
        rectify = self._rectifier(frame.camera)
        image, stamp, mount = rectify(frame.image), frame.stamp, frame.base_from_camera
        odom_from_base = self.odometry.at(stamp, self.WAIT_FOR_ODOMETRY if wait and self.odometry.stamps else 0.0)
        prior = self.correction.prior(stamp, odom_from_base, mount, self.odometry.jumps)
        if self.correction.map_from_odom is None:  # at the start, and after odometry jumped
            self.motion.reset()
            self.mount.reset()
        verdict = self.check(image, odom_from_base)
        motion, misplaced = AGREED, ""

        def doubt(map_from_camera: Pose) -> str:
            nonlocal motion, misplaced
            motion = self.motion(odom_from_base, map_from_camera @ mount.inverse())
            if not motion.reason:
                misplaced = self.mount(odom_from_base, map_from_camera, mount)
            return motion.reason if motion.standing else ""

        if verdict.hopeless:
            ms = {"total": 1e3 * (time.perf_counter() - started)}
            nowhere = Localization(None, None, 0, "lost")
            inspection = self.inspector.silent(image, prior, nowhere, "degraded", verdict.reason, ms)
        else:
            known = None if self.correction.doubted else prior
            # what a blurred frame shows counts for this frame only
            inspection = self.inspector.inspect(
                image, rectify.camera, known, stamp / SECOND, alone=bool(verdict.reason), doubt=doubt
            )
            if (reason := verdict.reason or motion.reason or misplaced) and inspection.state == "ok":
                inspection = replace(inspection, state="degraded", message=reason)
            if inspection.localization.pose is not None:
                self.correction.correct(stamp, inspection.localization.pose, odom_from_base, mount)
            else:
                self.correction.failed()
        if inspection.state == "ok" and (reference := inspection.reference) is not None:
            seen_by = rectify.camera.resized(*reference.depth.shape[::-1])
            self.inspected.add(seen_by, inspection.pose, reference.depth, reference.covered)
        covariance = inspection.localization.covariance
        if covariance is None and inspection.pose is not None:
            covariance = self.correction.covariance(odom_from_base)
        if self._first_correction is None:
            self._first_correction = self.correction.map_from_odom
        alone = None
        if odom_from_base is not None and self._first_correction is not None:
            alone = self._first_correction @ odom_from_base @ mount
        map_from_odom = self.correction.map_from_odom
        return PatrolFrame(frame, image, rectify.camera, inspection, covariance, map_from_odom, alone)

    def _rectifier(self, camera: Camera) -> Rectifier:
        """Kept for the camera in use: the maps of a large one take a while."""
        if camera not in self._rectifiers:
            self._rectifiers = {camera: Rectifier(camera)}
        return self._rectifiers[camera]

    # ---- interruptions

    def save(self, directory: Path) -> None:
        """Write what is known between two frames into an empty ``directory``, so that `restore` goes on from here."""
        if self.inspector.evidence is not None:
            self.inspector.evidence.save(directory / EVIDENCE)
        first = rows_of(self._first_correction)
        saved = SavedSession(
            msgspec.Raw(self.inspector.tracker.to_json()), self.correction.saved(), self.check.saved(), first,
            self.inspector.frames_without_pose, self.motion.saved(), self.mount.saved(), self.inspected.saved(),
        )  # fmt: skip
        write_atomically(directory / SAVED, msgspec.json.encode(saved))

    def restore(self, directory: Path) -> None:
        """Go on where `save` was called; odometry is to be added again.

        Raises OmniadError, OSError, KeyError, ValueError or IndexError where what lies there is damaged.
        """
        saved = read_json(directory / SAVED, SavedSession)
        tracker = Tracker.from_json(saved.tracker, self.inspector.tracker.options)
        if self.inspector.evidence is not None:
            self.inspector.evidence.restore(directory / EVIDENCE)
        self.correction.restore(saved.correction)
        self.check.restore(saved.check)
        self.motion.restore(saved.motion)
        self.mount.restore(saved.mount)
        self.inspected.restore(saved.inspected)
        first = saved.first_correction
        self._first_correction = pose_of(first)
        self.inspector.tracker, self.inspector.frames_without_pose = tracker, saved.frames_without_pose
