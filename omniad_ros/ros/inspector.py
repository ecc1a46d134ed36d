"""The node that inspects: subscribes to camera and odometry, publishes heatmaps, masks, markers and the robot's pose.

Only wiring: messages are converted in `messages`, what is done with a frame is in `omniad_ros.patrol.session`.
"""

from __future__ import annotations

import threading
import time
from os.path import expanduser

from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Rectifier
from omniad_ros.patrol.odometry import OdometryOptions
from omniad_ros.patrol.pipeline import UNCOVERED, InspectionOptions, Inspector, overlay
from omniad_ros.patrol.session import Patrol, PatrolFrame
from omniad_ros.recordings import messages as decoding
from omniad_ros.report import write_report
from omniad_ros.ros import messages
from omniad_ros.ros.inputs import Input
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.managed import ERROR, LATCHED, OK, OUTPUT, SENSOR, STALE, STREAM, WARN, Health, ManagedNode
from omniad_ros.ros.managed import main as run_node
from omniad_ros.ros.markers import TrackMarkers, detections_message, vision_msgs
from omniad_ros.ros.memory import PatrolMemory
from omniad_ros.ros.reference import ReferenceClient
from omniad_ros.ros.subscriptions import CameraSubscription
from omniad_ros.ros.transforms import Transforms
from omniad_ros.ros.worker import NewestFirst
from omniad_ros.site import MAP_FRAME, Site


class InspectorNode(ManagedNode):
    """See the table in the README for its topics and services."""

    def __init__(self):
        self.patrol: Patrol | None = None
        self.reference: ReferenceClient | None = None
        self.worker: NewestFirst | None = None
        self.transforms: Transforms | None = None
        self.memory: PatrolMemory | None = None
        self.outputs: dict = {}
        self.images: CameraSubscription | None = None
        self.subscriptions_: list = []
        self.inputs = {"image": Input("image"), "odom": Input("odometry"), "camera_info": Input("camera_info")}
        self.services_: list = []
        self.frame: PatrolFrame | None = None
        self.publishing_ms = 0.0
        self._forget_stream()
        self._busy = threading.Lock()
        """Held while a frame is in work: reset and save_report wait for it."""
        super().__init__("inspector", InspectorParameters())

    # lifecycle

    def configure(self) -> None:
        values = self.values
        values.check()
        site = Site.open(expanduser(values.site))
        self.memory = PatrolMemory(values, site)
        if values.reference == "renderer":
            self.reference = ReferenceClient(self, site, values.reference_timeout)
        render = {"renderer": self.reference, "inspector": None, "none": lambda camera, pose: None}[values.reference]
        inspector = Inspector(site, render, InspectionOptions(values.longest_side, evidence=values.evidence))
        self.patrol = Patrol(inspector, site.survey, values.initial_map_from_base())
        self.patrol.warm_up()
        self.memory.reload(self.patrol)
        self.apply(values)
        self.outputs = {
            name: self.create_lifecycle_publisher(kind, name, qos)
            for name, kind, qos in (
                ("heatmap", Image, OUTPUT), ("heatmap_independent", Image, OUTPUT), ("overlay", Image, OUTPUT),
                ("mask", Image, OUTPUT),
                ("markers", MarkerArray, OUTPUT), ("pose", PoseWithCovarianceStamped, OUTPUT),
                ("map_points", PointCloud2, LATCHED), ("route", Path, LATCHED),
            )
        }  # fmt: skip
        if vision_msgs is not None:
            self.outputs["detections"] = self.create_lifecycle_publisher(
                vision_msgs.Detection3DArray, "detections", OUTPUT
            )
        self.services_ = [
            self.create_service(Trigger, "~/reset", self._reset),
            self.create_service(Trigger, "~/save_report", self._save_report),
        ]
        self.markers = TrackMarkers()

    def activate(self) -> None:
        self._forget_stream()
        self.transforms = Transforms(self, self.values)
        if self.reference is not None:
            self.reference.open()
        self.worker = NewestFirst(self._inspect, self._failed, lambda: self.values.least_period())
        image = (CompressedImage, "image/compressed") if self.values.compressed else (Image, "image")
        self.images = CameraSubscription(self, *image, self._take_image)
        self.subscriptions_ = [
            self.create_subscription(CameraInfo, "camera_info", self._take_info, SENSOR),
            self.create_subscription(Odometry, "odom", self._take_odometry, STREAM),
        ]
        points = self.patrol.inspector.points
        self.outputs["map_points"].publish(messages.points_message(points.xyz, points.rgb, self._now_in_map()))

    def deactivate(self) -> None:
        self.destroy_all(*self.subscriptions_)
        if self.images is not None:
            self.images.destroy()
        self.subscriptions_, self.images = [], None
        if self.reference is not None:
            self.reference.cancel()
        if self.worker is not None and not self.worker.stop():
            self.get_logger().warning("the frame in work did not end in time")
        if self.transforms is not None:
            self.transforms.destroy()
        self._save_state()
        if "markers" in self.outputs:  # nobody would delete them any more
            self.outputs["markers"].publish(self.markers.clear(self._now_in_map()))
        self.worker = self.transforms = None

    def cleanup(self) -> None:
        if self.reference is not None:
            self.reference.destroy()
        for service in self.services_:
            self.destroy_service(service)
        self.destroy_all(*self.outputs.values())
        self.outputs, self.services_, self.reference, self.patrol, self.memory = {}, [], None, None, None

    # parameters

    def changed(self, values) -> None:
        if self.patrol is not None:
            self.apply(values)

    def apply(self, values: InspectorParameters) -> None:
        """Bring run-time parameters into effect. Raises OmniadError where the site cannot do what they ask."""
        inspector = self.patrol.inspector
        inspector.threshold = values.effective_threshold(inspector.detector)
        if self.reference is not None:
            self.reference.timeout = values.reference_timeout

    # inputs: checked here, on the executor's thread; the work is the worker's

    def _forget_stream(self) -> None:
        self.camera: Camera | None = None
        self.rectifiers: dict[Camera, Rectifier] = {}
        """Of the camera in use; made by the worker, for the maps of a large camera take a while."""
        self.frame = None
        self.failure = ""
        """Why the newest frame could not be inspected; empty where it was."""
        self.odometry_away: float | None = 0.0
        for source in self.inputs.values():
            source.forget()

    def _take_info(self, message: CameraInfo) -> None:
        try:
            self.camera = decoding.camera_from_info(message, self.values.rectified)
        except decoding.MessageDefect as defect:
            self._refuse("camera_info", defect)
        else:
            self.inputs["camera_info"].take()

    def _take_odometry(self, message: Odometry) -> None:
        try:
            stamp = decoding.check_stamp(message.header)
            self.transforms.odom_frame.check("header.frame_id", message.header.frame_id)
            self.transforms.base_frame.check("child_frame_id", message.child_frame_id)
            pose = decoding.pose_from_message(message.pose.pose, "pose.pose")
        except decoding.MessageDefect as defect:
            self._refuse("odom", defect)
            return
        self.inputs["odom"].take()
        self.patrol.add_odometry(stamp, pose)

    def _take_image(self, message: Image | CompressedImage) -> None:
        if not self.values.enabled:
            self.inputs["image"].take()
            return
        camera = self.camera
        try:
            decoding.check_stamp(message.header)
            self.transforms.camera_frame.check("header.frame_id", message.header.frame_id)
            width, height = decoding.image_size(message)
            if camera is not None:
                same = (width, height) == (camera.width, camera.height)
                told = f"are {width}x{height}, camera_info says {camera.width}x{camera.height}"
                decoding.check(same, "width and height", told)
        except decoding.MessageDefect as defect:
            self._refuse("image", defect)
            return
        self.inputs["image"].take()
        if camera is None:
            self.warn("no camera_info", "image is ignored: there is no camera_info yet")
            return
        self.worker.put((message, camera))

    def _refuse(self, topic: str, defect: decoding.MessageDefect) -> None:
        self.inputs[topic].refuse(defect)
        self.warn(f"{topic} {defect.field}", f"{topic} is ignored: {defect}")

    # the work, on the worker's thread

    def _inspect(self, item) -> None:
        message, camera = item
        image, stamp = decoding.image_to_rgb(message), decoding.nanoseconds(message.header.stamp)
        base_from_camera = self.transforms.base_from_camera(message.header)
        if camera not in self.rectifiers:
            self.rectifiers = {camera: Rectifier(camera)}
        rectifier = self.rectifiers[camera]
        image = rectifier(image)
        with self._busy:
            if self.reference is not None:
                self.reference.stamp = stamp
            frame = self.patrol.inspect(image, rectifier.camera, stamp, base_from_camera)
            self.memory.add(image, frame)
        started = time.perf_counter()
        self._publish(image, frame, message.header)
        if (route := self.memory.route()) is not None:
            in_map = Header(stamp=message.header.stamp, frame_id=MAP_FRAME)
            self.outputs["route"].publish(Path(header=in_map, poses=route))
        self.frame, self.failure, self.odometry_away = frame, "", self.patrol.odometry.away(stamp)
        self.publishing_ms = 1e3 * (time.perf_counter() - started)
        self.publish_health()
        self._save_state(PatrolMemory.SAVE_EVERY)

    def _publish(self, image, frame: PatrolFrame, header: Header) -> None:
        inspection, outputs = frame.inspection, self.outputs
        in_map = Header(stamp=header.stamp, frame_id=MAP_FRAME)
        # what is small goes first: behind images that fill DDS's shared memory it would have to be sent twice
        if inspection.pose is not None:
            outputs["pose"].publish(messages.pose_with_covariance(inspection.pose, frame.covariance, in_map))
        displays = outputs["markers"].get_subscription_count()
        outputs["markers"].publish(self.markers.update(inspection.tracks, in_map, displays))
        if "detections" in outputs:
            outputs["detections"].publish(detections_message(inspection.tracks, in_map))
        outputs["heatmap"].publish(messages.image_message(inspection.heatmap, header))
        outputs["mask"].publish(messages.image_message(inspection.mask, header))
        if outputs["heatmap_independent"].get_subscription_count():
            outputs["heatmap_independent"].publish(messages.image_message(inspection.independent, header))
        if outputs["overlay"].get_subscription_count():
            outputs["overlay"].publish(messages.image_message(overlay(image, inspection), header))
        self.transforms.map_from_odom = frame.map_from_odom

    def _failed(self, error: Exception) -> None:
        if isinstance(error, decoding.MessageDefect):
            self.failure = f"image is ignored: {error}"
            self._refuse("image", error)
        else:
            self.failure = f"a frame could not be inspected: {type(error).__name__}: {error}"
            self.warn(type(error).__name__, self.failure)

    def _now_in_map(self) -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=MAP_FRAME)

    def _save_state(self, at_most_every: float = 0.0) -> None:
        if self.memory is not None:
            self.memory.save_state(self.patrol, at_most_every)
            if self.memory.trouble:
                self.warn("state_file", self.memory.trouble)

    # services

    async def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def work() -> str:
            with self._busy:
                self.patrol.reset()
                self.memory.reset()
                self.outputs["markers"].publish(self.markers.clear(self._now_in_map()))
            return "tracks and pose are forgotten"

        return await self._answer(work, response)

    async def _save_report(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        def work() -> str:
            with self._busy:
                report = self.memory.report(self.patrol)
            return f"report: {write_report(self.memory.report_directory, report)}"

        return await self._answer(work, response)

    async def _answer(self, work, response: Trigger.Response) -> Trigger.Response:
        """Do a service's work on a thread of its own, so that frames and answers of the renderer still come in."""
        done = Future(executor=self.executor)

        def run() -> None:
            try:
                done.set_result((True, work()))
            except (OmniadError, OSError) as error:
                done.set_result((False, str(error)))
            except Exception as error:
                done.set_result((False, f"unexpected {type(error).__name__}: {error}"))

        threading.Thread(target=run, daemon=True).start()
        response.success, response.message = await done
        return response

    # diagnostics

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
            }
            values |= {f"ms {stage}": ms for stage, ms in inspection.ms.items()} | {"ms publish": self.publishing_ms}
        return Health(*self._judge(frame), values)

    def _judge(self, frame: PatrolFrame | None) -> tuple[int, str]:
        if not self.values.enabled:
            return OK, "disabled by parameter"
        for topic in ("image", "odom"):
            if why := self.inputs[topic].complaint(self.resolve_topic_name(topic), self.values.stale_after):
                return STALE, why
        if self.camera is None:
            return STALE, self.inputs["camera_info"].complaint(self.resolve_topic_name("camera_info"), 0.0)
        if self.failure:
            return ERROR, self.failure
        if frame is None:
            waiting = self.reference is not None and self.reference.discovering
            return OK, "waiting for the renderer" if waiting else "waiting for the first frame"
        inspection = frame.inspection
        level = {"ok": OK, "degraded": WARN, "lost": ERROR}[inspection.state]
        if self.reference is not None and self.reference.foreign:
            return max(level, WARN), "nerf_renderer has another site than this inspector; its views are not used"
        if level == OK and (inspection.mask == UNCOVERED).all():
            return WARN, "the survey saw nothing of what is in view: nothing is said of it"
        if level == OK and self.odometry_away is not None and self.odometry_away > OdometryOptions.gap:
            away = f"the nearest is {self.odometry_away:.1f} s away; do camera and odometry share a clock?"
            return WARN, f"no odometry at the image's stamp: {away}"
        return level, inspection.message or "ok"


def main() -> int:
    return run_node(InspectorNode)
