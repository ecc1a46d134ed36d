"""The node that inspects: subscribes to camera and odometry, publishes heatmaps, masks, markers and the robot's pose.

Only wiring: what comes in becomes frames in `live`, what goes out becomes messages in `outputs`, and what is done with a frame
is in `omniad_ros.patrol.session`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from os.path import expanduser

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from omniad_ros.core.feedback import OmniadError
from omniad_ros.patrol.odometry import OdometryOptions
from omniad_ros.patrol.pipeline import UNCOVERED, InspectionOptions, Inspector
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.source import SECOND
from omniad_ros.report import write_report
from omniad_ros.ros.inputs import Input
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.live import LiveFrames, LiveImage
from omniad_ros.ros.managed import ERROR, OK, OUTPUT, STALE, WARN, Health, ManagedNode
from omniad_ros.ros.managed import main as run_node
from omniad_ros.ros.memory import PatrolMemory
from omniad_ros.ros.outputs import InspectorOutputs
from omniad_ros.ros.patrols import NodePatrols
from omniad_ros.ros.reference import ReferenceClient
from omniad_ros.ros.shared_work import SharedWork
from omniad_ros.ros.speakers import publisher
from omniad_ros.ros.stream import Stream
from omniad_ros.ros.subscriptions import CameraSubscription
from omniad_ros.ros.topics import image_subscription, rectified_contradiction
from omniad_ros.ros.transforms import Transforms
from omniad_ros.ros.worker import NewestFirst
from omniad_ros.site import Site


class InspectorNode(ManagedNode):
    """See the table in the README for its topics and services."""

    LOOK_FRAMES, LOOK_PATIENCE = 3, 30.0
    """Frames that ~/look waits for, and seconds."""

    def __init__(self):
        self.session: PatrolSession | None = None
        self.reference: ReferenceClient | None = None
        self.worker: NewestFirst | None = None
        self.transforms: Transforms | None = None
        self.memory: PatrolMemory | None = None
        self.patrols: NodePatrols | None = None
        self.live: LiveFrames | None = None
        self.outputs: InspectorOutputs | None = None
        self.inputs = {"image": Input("image"), "odom": Input("odometry"), "camera_info": Input("camera_info")}
        self.subscriptions_: dict = {}
        """Of the inputs, by their names."""
        self.frame: PatrolFrame | None = None
        self.publishing_ms = 0.0
        self._inspected = 0
        """Frames, since the node's start."""
        self._forget_stream()
        self._busy = threading.Lock()
        """Held while a frame is in work: reset and save_report wait for it."""
        super().__init__("inspector", InspectorParameters())
        self.services_ = [
            SharedWork(self, "~/reset", self._reset),
            SharedWork(self, "~/save_report", self._save_report),
            SharedWork(self, "~/begin_patrol", self._begin_patrol),
            SharedWork(self, "~/end_patrol", self._end_patrol),
            SharedWork(self, "~/look", self._look),
        ]

    # lifecycle

    def configure(self) -> None:
        values = self.values
        values.check()
        site = Site.open(expanduser(values.site))
        self.memory = PatrolMemory(values, site)
        if values.reference == "renderer":
            self.reference = ReferenceClient(self, site, values.reference_timeout, values.detail_side > 0)
        render = {"renderer": self.reference, "inspector": None, "none": lambda *asked: None}[values.reference]
        options = InspectionOptions(
            values.longest_side or None, evidence=values.evidence, detail_side=values.detail_side
        )
        inspector = Inspector(site, render, options)
        self.session = PatrolSession(inspector, site.survey, values.initial_map_from_base())
        self.session.warm_up()
        self.memory.reload(self.session)
        self.apply(values)
        self.patrols = NodePatrols(self, site, self.session)
        self.outputs = InspectorOutputs(self, self.patrols)

    def activate(self) -> None:
        self._forget_stream()
        self.transforms = Transforms(self, self.values)
        if self.reference is not None:
            self.reference.open()
        self.live = LiveFrames(self.transforms, self.values.rectified, self.get_logger().warning)
        self.worker = NewestFirst(self._inspect, self._failed, lambda: self.values.least_period())
        kind, topic = image_subscription(self, self.values.compressed)
        if kind is CompressedImage and not self.values.compressed:
            self.get_logger().info(f"{topic} is taken as compressed, by its name")
        if contradiction := rectified_contradiction(topic, self.values.rectified):
            self.get_logger().warning(contradiction)
        self.subscriptions_ = {
            # first, so that a camera_info that came with an image is most likely taken before it
            "camera_info": CameraSubscription(self, CameraInfo, "camera_info", self._take_info, latched=True),
            "image": CameraSubscription(self, kind, topic, self._take_image),
            "initialpose": self.create_subscription(
                PoseWithCovarianceStamped, "/initialpose", self._take_initial_pose, OUTPUT
            ),
            "odom": Stream(
                self, Odometry, "odom", self._take_odometry, partial(self._hear_from, "odom"), self._unreadable
            ),
        }
        for name, source in self.inputs.items():
            source.topic = self.subscriptions_[name].topic_name
        self.outputs.points(self.session.inspector.points)

    def deactivate(self) -> None:
        self.destroy_all(*self.subscriptions_.values())
        self.subscriptions_ = {}
        if self.reference is not None:
            self.reference.cancel()
        if self.worker is not None and not self.worker.stop():
            self.get_logger().warning("the frame in work did not end in time")
        if self.transforms is not None:
            self.transforms.destroy()
        self._save_state()
        if self.outputs is not None:
            self.outputs.clear_markers()
        self.worker = self.transforms = None

    def cleanup(self) -> None:
        if self.reference is not None:
            self.reference.destroy()
        for service in self.services_:
            service.refuse("the inspector is no longer configured: there is no patrol")
        free = self._busy.acquire(timeout=10.0)  # but for a frame that does not end, nobody is left in the midst of it
        self.destroy_all(self.outputs, self.patrols)
        self.outputs = self.reference = self.session = self.memory = self.patrols = None
        if free:
            self._busy.release()

    # parameters

    def check(self, values: InspectorParameters) -> None:
        if self.session is not None:
            values.effective_threshold(self.session.inspector.detector)

    def changed(self, values: InspectorParameters) -> None:
        if self.session is not None:
            self.apply(values)

    def apply(self, values: InspectorParameters) -> None:
        """Bring run-time parameters into effect: from the next frame on. Raises OmniadError for what `check` refuses."""
        inspector = self.session.inspector
        inspector.options = replace(
            inspector.options,
            threshold=values.effective_threshold(inspector.detector),
            whole_frame=values.whole_frame,
            smallest_thing=values.smallest_thing or None,
            smallest_extent=values.smallest_extent,
        )
        if self.reference is not None:
            self.reference.timeout = values.reference_timeout

    # inputs: checked here, on the executor's thread; the work is the worker's

    def _forget_stream(self) -> None:
        self.frame = None
        self.failure = ""
        """Why the newest frame could not be inspected; empty where it was."""
        self.odometry_away: float | None = 0.0
        for source in self.inputs.values():
            source.forget()

    def _hear_from(self, topic: str, info: dict) -> None:
        self.inputs[topic].speakers.heard(publisher(info))

    def _take(self, topic: str, take: Callable, message):
        """What ``take`` makes of a message; None where it refuses it."""
        try:
            taken = take(message)
        except decoding.MessageDefect as defect:
            self._refuse(topic, defect)
            return None
        self.inputs[topic].take()
        return taken

    def _take_info(self, message: CameraInfo, info: dict) -> None:
        self._hear_from("camera_info", info)
        self._take("camera_info", self.live.take_info, message)

    def _take_odometry(self, message: Odometry, info: dict) -> None:
        if (sample := self._take("odom", self.live.take_odometry, message)) is not None:
            self.session.add_odometry(*sample)
            self.transforms.moved(sample[0])

    def _unreadable(self, error: Exception) -> None:
        self.warn("odom unreadable", f"odom is ignored: it cannot be read ({type(error).__name__}: {error})")

    def _take_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        """Somebody says where the robot is, as with RViz's 2D Pose Estimate: the next frame is searched for there."""
        frame = message.header.frame_id.lstrip("/")
        try:
            decoding.check(
                frame == self.values.map_frame, "header.frame_id", f"is {decoding.quoted(frame)}, expected is the map's"
            )
            pose = decoding.pose_from_message(message.pose.pose, "pose.pose")
        except decoding.MessageDefect as defect:
            self.warn("initialpose", f"initialpose is ignored: {defect}")
            return
        self.session.correction.begin(pose)
        self.get_logger().info("the next frame is searched for where initialpose says that the robot is")

    def _take_image(self, message: Image | CompressedImage, info: dict) -> None:
        self._hear_from("image", info)
        if not self.values.enabled:
            self.inputs["image"].take()
            return
        image = self._take("image", self.live.take_image, message)
        if image is not None:
            self.worker.put(image)
        elif self.live.camera is None:
            self.warn("no camera_info", "image is ignored: there is no camera_info yet")

    def _refuse(self, topic: str, defect: decoding.MessageDefect) -> None:
        self.inputs[topic].refuse(defect)
        self.warn(f"{topic} {defect.field}", f"{topic} is ignored: {defect}")

    # the work, on the worker's thread

    def _inspect(self, image: LiveImage) -> None:
        taken, header = self.live.frame(image), image.message.header
        if (odometry := self.subscriptions_.get("odom")) is not None:
            odometry.poll()  # what was sent before the image
        with self._busy:
            if self.reference is not None:
                self.reference.stamp = taken.stamp
            frame = self.session.inspect(taken)
            self.memory.add(frame)
            self.patrols.add(frame)
        started = time.perf_counter()
        self.outputs.frame(frame, header)
        self.transforms.correct(frame.map_from_odom, frame.stamp)
        if (route := self.memory.route()) is not None:
            self.outputs.route(route, header)
        if self.memory.floor_due():
            self.outputs.floor(self.session.inspected, frame.inspection.tracks, header)
        self.frame, self.failure, self.odometry_away = frame, "", self.session.odometry.away(taken.stamp)
        self.publishing_ms = 1e3 * (time.perf_counter() - started)
        self._inspected += 1
        self._save_state(PatrolMemory.SAVE_EVERY)
        self.publish_health()

    def _failed(self, error: Exception) -> None:
        if isinstance(error, decoding.MessageDefect):
            self.failure = f"image is ignored: {error}"
            self._refuse("image", error)
        else:
            self.failure = f"a frame could not be inspected: {type(error).__name__}: {error}"
            self.warn(type(error).__name__, self.failure)

    def _save_state(self, at_most_every: float = 0.0) -> None:
        if self.memory is not None:
            self.memory.save_state(self.session, at_most_every)
            if self.memory.trouble:
                self.warn("state_file", self.memory.trouble)

    # services

    def _reset(self) -> str:
        self._begin(PatrolSession.reset)
        return "tracks and pose are forgotten"

    def _begin_patrol(self) -> str:
        return self._begin(PatrolSession.new_patrol)

    def _begin(self, forget: Callable[[PatrolSession], None]) -> str:
        with self._busy:
            self._check_configured()
            forget(self.session)
            self.memory.reset()
            said = self.patrols.reset()
            self.outputs.clear_markers()
        return said

    def _save_report(self) -> str:
        with self._busy:
            self._check_configured()
            folder, report = self.memory.report_directory, self.memory.report(self.session, self.patrols.loud)
        return f"report: {write_report(folder, report)}"

    def _end_patrol(self) -> str:
        with self._busy:
            self._check_configured()
            said = self.patrols.end()
            share = self.session.inspected.share
        return f"{said}; {100 * share:.0f} % of the map inspected"

    def _look(self) -> str:
        """Look here: wait for some frames more, and say what they show."""
        self._check_configured()
        first, end = self._inspected, time.monotonic() + self.LOOK_PATIENCE
        while self._inspected - first < self.LOOK_FRAMES:
            if time.monotonic() > end or self.outputs is None:
                told = self._inspected - first
                raise OmniadError(f"only {told} frames could be inspected within {self.LOOK_PATIENCE:.0f} s")
            time.sleep(0.05)
        with self._busy:
            self._check_configured()
            frame, patrols = self.frame, self.patrols
            inspection = frame.inspection
            tracks = [t for t in patrols.loud(inspection.tracks) if t.confirmed and t.last_seen >= frame.stamp / SECOND]
            seen = [patrols.name(track) for track in tracks]
        return f"{inspection.state}: " + (f"{', '.join(seen)} in view" if seen else "nothing in view differs")

    def _check_configured(self) -> None:
        if self.outputs is None:
            raise OmniadError(f"the inspector is {self.state}: there is no patrol")

    @property
    def unanswered(self) -> int:
        return super().unanswered + sum(service.unanswered for service in self.services_)

    # diagnostics

    def heard(self, hardware: str, values: dict) -> None:
        if self.reference is not None:
            self.reference.hear(values)

    def doubt(self) -> str:
        """The frame is inspected, but by what, or who else says so too, or for how long it is remembered is not as it should be."""
        doubts = [super().doubt(), *(source.doubt() for source in self.inputs.values())]
        if self.reference is not None:
            doubts.append(self.reference.doubt())
        if self.memory is not None:
            doubts.append(self.memory.trouble)
        if self.patrols is not None:
            doubts.append(self.patrols.trouble)
        return next(filter(None, doubts), "")

    def health(self) -> Health:
        refused = sum(source.refused for source in self.inputs.values())
        values = {"frames": self.worker.done, "dropped": self.worker.dropped, "refused messages": refused}
        if self.reference is not None:
            values |= {"reference views": self.reference.answered, "reference views missed": self.reference.unanswered}
        frame = self.frame
        if frame is not None:
            inspection = frame.inspection
            values |= {
                "stamp": frame.stamp,
                "state": inspection.state,
                "verdict": inspection.localization.verdict,
                "why": inspection.message,
            }
            values |= {
                "inliers": inspection.localization.inliers,
                "tracks": sum(t.confirmed for t in inspection.tracks),
                "inspected %": 100 * self.session.inspected.share,
            }
            values |= {f"ms {stage}": ms for stage, ms in inspection.ms.items()} | {"ms publish": self.publishing_ms}
        return Health(*self._judge(frame), values)

    def _judge(self, frame: PatrolFrame | None) -> tuple[int, str]:
        if not self.values.enabled:
            return OK, "disabled by parameter"
        patience = {"image": self.values.stale_after, "odom": self.values.stale_after}
        if self.live.camera is None:
            patience["camera_info"] = 0.0
        for name, seconds in patience.items():
            if why := self.inputs[name].complaint(seconds):
                return STALE, why
        if self.failure:
            return ERROR, self.failure
        if frame is None:
            waiting = self.reference is not None and self.reference.discovering
            return OK, "waiting for the renderer" if waiting else "waiting for the first frame"
        inspection = frame.inspection
        level = {"ok": OK, "degraded": WARN, "lost": ERROR}[inspection.state]
        if self.reference is not None and (why := self.reference.complaint):
            return max(level, WARN), why
        if level == OK and (inspection.mask == UNCOVERED).all():
            return WARN, "the survey saw nothing of what is in view: nothing is said of it"
        if level == OK and self.odometry_away is not None and self.odometry_away > OdometryOptions.gap:
            away = f"the nearest is {self.odometry_away:.1f} s away; do camera and odometry share a clock?"
            return WARN, f"no odometry at the image's stamp: {away}"
        return level, inspection.message or "ok"


def main() -> int:
    return run_node(InspectorNode)
