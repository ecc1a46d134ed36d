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
from omniad_ros.patrol.lens_check import LensCheck
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


class SavedEye(msgspec.Struct):
    """An `_Eye` as JSON holds it."""

    check: SavedFrameCheck
    motion: SavedMotion = []
    mount: SavedMount = []


class SavedSession(msgspec.Struct):
    """A `PatrolSession` between two frames, as JSON holds it; what its evidence says lies beside it (EVIDENCE)."""

    tracker: msgspec.Raw
    correction: SavedCorrection
    eyes: dict[str, SavedEye]
    first_correction: list[list[float]] | None
    frames_without_pose: int
    inspected: str = ""


class _Eye:
    """One camera of the robot: what is judged by its own frames alone."""

    def __init__(self, survey: PosedImages):
        self.check, self.motion, self.mount, self.lens = FrameCheck(survey), MotionCheck(), MountCheck(), LensCheck()
        self._rectify: Rectifier | None = None
        self._rectified: Camera | None = None

    def reset(self) -> None:
        for part in (self.check, self.motion, self.mount, self.lens):
            part.reset()

    def rectifier(self, camera: Camera) -> Rectifier:
        """Kept for the camera in use: the maps of a large one take a while."""
        if camera != self._rectified:
            self._rectified, self._rectify = camera, Rectifier(camera)
        return self._rectify


class PatrolSession:
    """Inspects the frames of one robot, of all its cameras: what one of them learns of where the robot is, and what it finds, counts for
    the others. `add_odometry` may be called from another thread than `inspect`."""

    WAIT_FOR_ODOMETRY = 0.05

    def __init__(self, inspector: Inspector, survey: PosedImages, initial: Pose | None = None):
        self.inspector = inspector
        self.odometry = OdometryBuffer()
        self.correction = MapCorrection(initial)
        self.inspected = InspectedMap(inspector.points.xyz)
        self._survey = survey
        self._eyes: dict[str, _Eye] = {}
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
        for eye in self._eyes.values():
            eye.reset()
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
        eye = self._eye(frame.eye)
        self.inspector.lens = eye.lens
        rectify = eye.rectifier(frame.camera)
        image, stamp, mount = rectify(frame.image), frame.stamp, frame.base_from_camera
        odom_from_base = self.odometry.at(stamp, self.WAIT_FOR_ODOMETRY if wait and self.odometry.stamps else 0.0)
        prior = self.correction.prior(stamp, odom_from_base, mount, self.odometry.jumps)
        if self.correction.map_from_odom is None:  # at the start, and after odometry jumped
            for other in self._eyes.values():
                other.motion.reset()
                other.mount.reset()
        verdict = eye.check(image, odom_from_base)
        motion, misplaced = AGREED, ""

        def doubt(map_from_camera: Pose) -> str:
            nonlocal motion, misplaced
            motion = eye.motion(odom_from_base, map_from_camera @ mount.inverse())
            if not motion.reason:
                misplaced = eye.mount(odom_from_base, map_from_camera, mount)
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

    def _eye(self, name: str) -> _Eye:
        if name not in self._eyes:
            self._eyes[name] = _Eye(self._survey)
        return self._eyes[name]

    # ---- interruptions

    def save(self, directory: Path) -> None:
        """Write what is known between two frames into an empty ``directory``, so that `restore` goes on from here."""
        if self.inspector.evidence is not None:
            self.inspector.evidence.save(directory / EVIDENCE)
        first = rows_of(self._first_correction)
        eyes = {n: SavedEye(e.check.saved(), e.motion.saved(), e.mount.saved()) for n, e in self._eyes.items()}
        saved = SavedSession(
            msgspec.Raw(self.inspector.tracker.to_json()), self.correction.saved(), eyes, first,
            self.inspector.frames_without_pose, self.inspected.saved(),
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
        for name, eye in saved.eyes.items():
            self._eye(name).check.restore(eye.check)
            self._eye(name).motion.restore(eye.motion)
            self._eye(name).mount.restore(eye.mount)
        self.inspected.restore(saved.inspected)
        first = saved.first_correction
        self._first_correction = pose_of(first)
        self.inspector.tracker, self.inspector.frames_without_pose = tracker, saved.frames_without_pose
