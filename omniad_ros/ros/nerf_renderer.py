"""The node that makes reference views: answers the inspector's requests from the site's radiance field and photographs.

What it publishes is what a frame is compared with, to the bit. It may run on another computer with a GPU; it needs the site,
the requests and the camera_info.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from os.path import expanduser

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.inspector_parameters import SMALLEST
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
    rectified: bool = parameter(False, "The images are already rectified: use camera_info's P instead of K and D.")
    longest_side: int = parameter(
        0, "Pixels of the reference view's longer side; 0 for the site's.", minimum=0, maximum=4096, runtime=True
    )
    detail_side: int = parameter(
        DETAIL_SIDE, "Pixels of the longer side of the view's detail, for the inspector's second look; 0 for none.",
        minimum=0, maximum=4096, runtime=True,
    )  # fmt: skip


class NerfRenderer(ManagedNode):
    """Subscribes reference/request and camera_info; publishes reference/image, reference/depth and, where the site has photographs,
    reference/support and reference/false_alarm; and, while somebody subscribes and the photographs are large enough,
    reference/detail."""

    def __init__(self):
        self.camera: Camera | None = None
        self.frame_id = ""
        self.worker: NewestFirst | None = None
        self.outputs: dict = {}
        self.inputs: list = []
        self.milliseconds = 0.0
        super().__init__("nerf_renderer", RendererParameters())

    def configure(self) -> None:
        from omniad_ros.reference import ReferenceRenderer

        if not self.values.site:
            raise OmniadError("parameter site is empty; give it the folder of a site built by 'omniad build'")
        self.check(self.values)
        self.site = Site.open(expanduser(self.values.site))
        self.digest = reference_digest(self.site)
        self.renderer = ReferenceRenderer.of_site(self.site)
        # once now, so that the first request does not wait for compilers
        self.renderer.render(self.site.camera.fitted(64), self.site.mapped.poses[0])
        self.outputs = {
            part: self.create_lifecycle_publisher(Image, topic, OUTPUT)
            for part, topic in reference_topics(self.site).items()
        }

    def check(self, values: RendererParameters) -> None:
        if 0 < values.longest_side < SMALLEST:
            raise OmniadError(
                f"parameter longest_side is {values.longest_side}, must be 0 (the site's) or at least {SMALLEST}"
            )

    def activate(self) -> None:
        self.worker = NewestFirst(self._render, self._failed, lambda: 0.0)
        self.inputs = [
            CameraSubscription(self, CameraInfo, "camera_info", self._take_info, latched=True),
            self.create_subscription(PoseStamped, "reference/request", self._take_request, OUTPUT),
        ]

    def deactivate(self) -> None:
        self.destroy_all(*self.inputs)
        self.inputs = []
        if self.worker is not None:
            self.worker.stop()

    def cleanup(self) -> None:
        self.destroy_all(*self.outputs.values())
        self.outputs, self.renderer, self.worker, self.camera = {}, None, None, None

    def health(self) -> Health:
        worker = self.worker
        values = {
            "rendered": worker.done, "dropped": worker.dropped, "ms render": self.milliseconds,
            REFERENCE: self.digest, ANSWERS_ON: self.outputs["image"].topic_name,
        }  # fmt: skip
        if self.camera is None:
            return Health(WARN, "no camera_info yet", values)
        return Health(OK, "renders reference views", values)

    def _take_info(self, message: CameraInfo) -> None:
        try:
            self.camera = decoding.camera_from_info(message, self.values.rectified)
            self.frame_id = message.header.frame_id
        except decoding.MessageDefect as defect:
            self.warn(f"camera_info {defect.field}", f"camera_info is ignored: {defect}")

    def _take_request(self, message: PoseStamped) -> None:
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
        if self.camera is None:
            self.warn("no camera_info", "reference/request is not answered: there is no camera_info yet")
            return
        self.worker.put((message.header.stamp, self.camera, pose))

    def _render(self, request) -> None:
        stamp, camera, pose = request
        started = time.perf_counter()
        side = self.values.detail_side
        wanted = side and DETAIL in self.outputs and self.outputs[DETAIL].get_subscription_count()
        detail = self.site.detail_camera(camera, side) if wanted else None
        view = self.renderer.render(self.site.working_camera(camera, self.values.longest_side), pose, detail)
        self.milliseconds = 1e3 * (time.perf_counter() - started)
        header = Header(stamp=stamp, frame_id=self.frame_id)
        for part, output in self.outputs.items():
            if (array := getattr(view, part)) is not None:
                output.publish(messages.image_message(array, header))

    def _failed(self, error: Exception) -> None:
        self.warn(type(error).__name__, f"a reference view could not be rendered: {type(error).__name__}: {error}")


def main() -> int:
    return run_node(NerfRenderer)
