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
from omniad_ros.patrol.pipeline import InspectionOptions, Inspector
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.source import SECOND
from omniad_ros.report import write_report
from omniad_ros.ros.cameras import NodeCamera, cameras_of
from omniad_ros.ros.inputs import Input
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.judging import judged, values_of
from omniad_ros.ros.live import LiveFrames, LiveImage
from omniad_ros.ros.managed import ERROR, OK, OUTPUT, STALE, Health, ManagedNode
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
        self.worker: NewestFirst | None = None
        self.transforms: Transforms | None = None
        self.memory: PatrolMemory | None = None
        self.patrols: NodePatrols | None = None
        self.outputs: InspectorOutputs | None = None
        self.cameras: list[NodeCamera] = []
        self.inputs: dict[str, Input] = {}
        """By the names of their topics."""
        self.subscriptions_: dict = {}
        """Of the inputs, by their names."""
        self.frame: PatrolFrame | None = None
        self.publishing_ms = 0.0
        self._inspected = 0
        """Frames, since the node's start."""
        self._busy = threading.Lock()
        """Held while a frame is in work: reset and save_report wait for it."""
        super().__init__("inspector", InspectorParameters())
        self.cameras = cameras_of(self, self.values)
        self.inputs = {"odom": Input("odometry")}
        self.inputs |= {c.prefix + part: source for c in self.cameras for part, source in c.inputs.items()}
        self._forget_stream()
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
            for camera in self.cameras:
                detailed = values.detail_side > 0
                camera.reference = ReferenceClient(self, site, values.reference_timeout, detailed, camera.prefix)
        render = {"renderer": self.cameras[0].reference, "inspector": None, "none": lambda *asked: None}
        options = InspectionOptions(
            values.longest_side or None, evidence=values.evidence, detail_side=values.detail_side
        )
        inspector = Inspector(site, render[values.reference], options)
        self.session = PatrolSession(inspector, site.survey, values.initial_map_from_base())
        self.session.warm_up()
        self.memory.reload(self.session)
        self.apply(values)
        self.patrols = NodePatrols(self, site, self.session)
        self.outputs = InspectorOutputs(self, self.patrols, [camera.prefix for camera in self.cameras])

    def activate(self) -> None:
        self._forget_stream()
        self.transforms = Transforms(self, self.values)
        self.worker = NewestFirst(self._inspect, self._failed, lambda: self.values.least_period())
        for camera in self.cameras:
            self._open(camera)
        self.subscriptions_ |= {
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

    def _open(self, camera: NodeCamera) -> None:
        """Listen to a camera."""
        if camera.reference is not None:
            camera.reference.open()
        camera.live = LiveFrames(self.transforms, camera.values, self.get_logger().warning, camera.name)
        kind, topic = image_subscription(self, self.values.compressed, camera.prefix)
        if kind is CompressedImage and not self.values.compressed:
            self.get_logger().info(f"{topic} is taken as compressed, by its name")
        if contradiction := rectified_contradiction(topic, camera.values.rectified):
            self.get_logger().warning(contradiction)
        infos, images = (f"{camera.prefix}{part}" for part in ("camera_info", "image"))
        # first, so that a camera_info that came with an image is most likely taken before it
        info = CameraSubscription(self, CameraInfo, infos, partial(self._take_info, camera), latched=True)
        self.subscriptions_[infos] = info
        self.subscriptions_[images] = CameraSubscription(self, kind, topic, partial(self._take_image, camera))

    def deactivate(self) -> None:
        self.destroy_all(*self.subscriptions_.values())
        self.subscriptions_ = {}
        for reference in self._references:
            reference.cancel()
        if self.worker is not None and not self.worker.stop():
            self.get_logger().warning("the frame in work did not end in time")
        if self.transforms is not None:
            self.transforms.destroy()
        self._save_state()
        if self.outputs is not None:
            self.outputs.clear_markers()
        self.worker = self.transforms = None

    def cleanup(self) -> None:
        for camera in self.cameras:
            if camera.reference is not None:
                camera.reference.destroy()
            camera.reference = None
        for service in self.services_:
            service.refuse("the inspector is no longer configured: there is no patrol")
        free = self._busy.acquire(timeout=10.0)  # but for a frame that does not end, nobody is left in the midst of it
        self.destroy_all(self.outputs, self.patrols)
        self.outputs = self.session = self.memory = self.patrols = None
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
        for reference in self._references:
            reference.timeout = values.reference_timeout

    @property
    def _references(self) -> list[ReferenceClient]:
        return [camera.reference for camera in self.cameras if camera.reference is not None]

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

    def _take_info(self, camera: NodeCamera, message: CameraInfo, info: dict) -> None:
        topic = f"{camera.prefix}camera_info"
        self._hear_from(topic, info)
        self._take(topic, camera.live.take_info, message)

    def _take_odometry(self, message: Odometry, info: dict) -> None:
        if (sample := self._take("odom", self.cameras[0].live.take_odometry, message)) is not None:
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

    def _take_image(self, camera: NodeCamera, message: Image | CompressedImage, info: dict) -> None:
        topic = f"{camera.prefix}image"
        self._hear_from(topic, info)
        if not self.values.enabled:
            self.inputs[topic].take()
            return
        image = self._take(topic, partial(self._checked, camera), message)
        if image is not None:
            self.worker.put((camera, image), camera.name)
        elif camera.live.camera is None:
            self.warn(
                f"no {camera.prefix}camera_info", f"{topic} is ignored: there is no {camera.prefix}camera_info yet"
            )

    def _checked(self, camera: NodeCamera, message: Image | CompressedImage) -> LiveImage | None:
        """`LiveFrames.take_image`; two cameras cannot be one frame on the robot."""
        image, name = camera.live.take_image(message), camera.live.camera_frame.name
        for other in self.cameras:
            if other is not camera and name and other.live.camera_frame.name == name:
                twice = f"header.frame_id is '{name}', which is that of the camera {other.name} too"
                raise decoding.MessageDefect("header.frame_id", twice)
        return image

    def _refuse(self, topic: str, defect: decoding.MessageDefect) -> None:
        self.inputs[topic].refuse(defect)
        self.warn(f"{topic} {defect.field}", f"{topic} is ignored: {defect}")

    # the work, on the worker's thread

    def _inspect(self, item: tuple[NodeCamera, LiveImage]) -> None:
        camera, image = item
        taken, header = camera.live.frame(image), image.message.header
        if (odometry := self.subscriptions_.get("odom")) is not None:
            odometry.poll()  # what was sent before the image
        with self._busy:
            if camera.reference is not None:
                camera.reference.stamp = taken.stamp
                self.session.inspector.render = camera.reference
            frame = self.session.inspect(taken)
            self.memory.add(frame)
            self.patrols.add(frame)
        started = time.perf_counter()
        self.outputs.frame(frame, header, camera.prefix)
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
            self._refuse(f"{self.cameras[0].prefix}image", error)
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
        for reference in self._references:
            reference.hear(values)

    def doubt(self) -> str:
        """The frame is inspected, but by what, or who else says so too, or for how long it is remembered is not as it should be."""
        doubts = [super().doubt(), *(source.doubt() for source in self.inputs.values())]
        doubts += [reference.doubt() for reference in self._references]
        if self.state == "active" and len(self.cameras) > 1:  # of one alone it is said that the state is stale
            doubts += [camera.complaint(self.values.stale_after) for camera in self.cameras]
        if self.memory is not None:
            doubts.append(self.memory.trouble)
        if self.patrols is not None:
            doubts.append(self.patrols.trouble)
        return next(filter(None, doubts), "")

    def health(self) -> Health:
        refused = sum(source.refused for source in self.inputs.values())
        values = {"frames": self.worker.done, "dropped": self.worker.dropped, "refused messages": refused}
        if references := self._references:
            answered, missed = (sum(getattr(r, name) for r in references) for name in ("answered", "unanswered"))
            values |= {"reference views": answered, "reference views missed": missed}
        frame = self.frame
        if frame is not None:
            values |= values_of(frame, self.session.inspected.share) | {"ms publish": self.publishing_ms}
        return Health(*self._judge(frame), values)

    def _judge(self, frame: PatrolFrame | None) -> tuple[int, str]:
        if not self.values.enabled:
            return OK, "disabled by parameter"
        silent = [camera.complaint(self.values.stale_after) for camera in self.cameras]
        if all(silent):
            return STALE, silent[0]
        if why := self.inputs["odom"].complaint(self.values.stale_after):
            return STALE, why
        if self.failure:
            return ERROR, self.failure
        if frame is None:
            waiting = any(reference.discovering for reference in self._references)
            return OK, "waiting for the renderer" if waiting else "waiting for the first frame"
        complaint = next(filter(None, (reference.complaint for reference in self._references)), "")
        return judged(frame, complaint, self.odometry_away)


def main() -> int:
    return run_node(InspectorNode)
