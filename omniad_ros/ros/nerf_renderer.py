"""The node that makes reference views: answers the inspector's requests from the site's radiance field and photographs.

What it publishes is what a frame is compared with, to the bit. It may run on another computer with a GPU; it needs the site,
the requests and the camera_info.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from os.path import expanduser

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.inspector_parameters import SMALLEST, camera_names
from omniad_ros.ros.managed import OK, OUTPUT, WARN, Health, ManagedNode
from omniad_ros.ros.managed import main as run_node
from omniad_ros.ros.parameters import SITE, parameter
from omniad_ros.ros.reference import ANSWERS_ON, DETAIL, REFERENCE, reference_digest, reference_topics
from omniad_ros.ros.subscriptions import CameraSubscription
from omniad_ros.ros.worker import NewestFirst
from omniad_ros.site import DETAIL_SIDE, MAP_FRAME, Site


@dataclass(frozen=True)
class RendererParameters:
    """Parameters of the node ``nerf_renderer``."""

    site: str = parameter("", SITE, runtime=True)
    autostart: bool = parameter(True, "Configure and activate at the start; false where a lifecycle manager does it.")
    map_frame: str = parameter(MAP_FRAME, "Name of the map's frame; as the inspector has it.")
    cameras: str = parameter("", "Names of the robot's cameras, with spaces between; as the inspector has it.")
    rectified: bool = parameter(False, "The images are already rectified: use camera_info's P instead of K and D.")
    longest_side: int = parameter(
        0, "Pixels of the reference view's longer side; 0 for the site's.", minimum=0, maximum=4096, runtime=True
    )
    detail_side: int = parameter(
        DETAIL_SIDE, "Pixels of the longer side of the view's detail, for the inspector's second look; 0 for none.",
        minimum=0, maximum=4096, runtime=True,
    )  # fmt: skip


class _Eye:
    """One camera: what is known of it, and where its views go. prefix: before the names of its topics."""

    def __init__(self, prefix: str, outputs: dict):
        self.prefix, self.outputs = prefix, outputs
        self.camera: Camera | None = None
        self.frame_id = ""


class NerfRenderer(ManagedNode):
    """Subscribes reference/request and camera_info; publishes reference/image, reference/depth and, where the site has photographs,
    reference/support and reference/false_alarm; and, while somebody subscribes and the photographs are large enough,
    reference/detail."""

    def __init__(self):
        self.eyes: list[_Eye] = []
        self.worker: NewestFirst | None = None
        self.inputs: list = []
        self.milliseconds = 0.0
        super().__init__("nerf_renderer", RendererParameters())

    def configure(self) -> None:
        from omniad_ros.reference import ReferenceRenderer

        if not self.values.site:
            raise OmniadError("parameter site is empty; give it the folder of a site built by 'omniad build'")
        self.check(self.values)
        camera_names(self.values.cameras)
        self.site = Site.open(expanduser(self.values.site))
        self.digest = reference_digest(self.site)
        self.renderer = ReferenceRenderer.of_site(self.site)
        # once now, so that the first request does not wait for compilers
        self.renderer.render(self.site.camera.fitted(64), self.site.mapped.poses[0])
        for name in camera_names(self.values.cameras):
            prefix = f"{name}/" if name else ""
            topics = reference_topics(self.site, prefix)
            outputs = {part: self.create_lifecycle_publisher(Image, topic, OUTPUT) for part, topic in topics.items()}
            self.eyes.append(_Eye(prefix, outputs))

    def check(self, values: RendererParameters) -> None:
        if 0 < values.longest_side < SMALLEST:
            raise OmniadError(
                f"parameter longest_side is {values.longest_side}, must be 0 (the site's) or at least {SMALLEST}"
            )

    def activate(self) -> None:
        self.worker = NewestFirst(self._render, self._failed, lambda: 0.0)
        for eye in self.eyes:
            infos, requests = f"{eye.prefix}camera_info", f"{eye.prefix}reference/request"
            self.inputs += [
                CameraSubscription(self, CameraInfo, infos, partial(self._take_info, eye), latched=True),
                self.create_subscription(PoseStamped, requests, partial(self._take_request, eye), OUTPUT),
            ]

    def deactivate(self) -> None:
        self.destroy_all(*self.inputs)
        self.inputs = []
        if self.worker is not None:
            self.worker.stop()

    def cleanup(self) -> None:
        self.destroy_all(*(output for eye in self.eyes for output in eye.outputs.values()))
        self.eyes, self.renderer, self.worker = [], None, None

    def health(self) -> Health:
        worker = self.worker
        values = {
            "rendered": worker.done, "dropped": worker.dropped, "ms render": self.milliseconds,
            REFERENCE: self.digest, ANSWERS_ON: " ".join(eye.outputs["image"].topic_name for eye in self.eyes),
        }  # fmt: skip
        if silent := [eye.prefix for eye in self.eyes if eye.camera is None]:
            return Health(WARN, " and ".join(f"no {prefix}camera_info" for prefix in silent) + " yet", values)
        return Health(OK, "renders reference views", values)

    def _take_info(self, eye: _Eye, message: CameraInfo) -> None:
        try:
            eye.camera = decoding.camera_from_info(message, self.values.rectified)
            eye.frame_id = message.header.frame_id
        except decoding.MessageDefect as defect:
            self.warn(f"{eye.prefix}camera_info {defect.field}", f"{eye.prefix}camera_info is ignored: {defect}")

    def _take_request(self, eye: _Eye, message: PoseStamped) -> None:
        try:
            decoding.check_stamp(message.header)
            frame = message.header.frame_id
            decoding.check(
                frame == self.values.map_frame,
                "header.frame_id",
                f"is {decoding.quoted(frame)}, requests are in '{self.values.map_frame}'",
            )
            pose = decoding.pose_from_message(message.pose)
        except decoding.MessageDefect as defect:
            self.warn(f"reference/request {defect.field}", f"reference/request is ignored: {defect}")
            return
        if eye.camera is None:
            why = f"{eye.prefix}reference/request is not answered: there is no {eye.prefix}camera_info yet"
            self.warn(f"no {eye.prefix}camera_info", why)
            return
        self.worker.put((eye, message.header.stamp, eye.camera, pose), eye.prefix)

    def _render(self, request) -> None:
        eye, stamp, camera, pose = request
        started = time.perf_counter()
        side = self.values.detail_side
        wanted = side and DETAIL in eye.outputs and eye.outputs[DETAIL].get_subscription_count()
        detail = self.site.detail_camera(camera, side) if wanted else None
        view = self.renderer.render(self.site.working_camera(camera, self.values.longest_side), pose, detail)
        self.milliseconds = 1e3 * (time.perf_counter() - started)
        header = Header(stamp=stamp, frame_id=eye.frame_id)
        for part, output in eye.outputs.items():
            if (array := getattr(view, part)) is not None:
                output.publish(messages.image_message(array, header))

    def _failed(self, error: Exception) -> None:
        self.warn(type(error).__name__, f"a reference view could not be rendered: {type(error).__name__}: {error}")


def main() -> int:
    return run_node(NerfRenderer)
