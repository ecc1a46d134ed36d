"""The node that renders reference views: answers the inspector's requests from the site's radiance field.

It may run on another computer with a GPU; it needs the site, the requests and the camera_info.
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
from omniad_ros.ros import messages
from omniad_ros.ros.managed import OK, OUTPUT, SENSOR, WARN, Health, ManagedNode
from omniad_ros.ros.managed import main as run_node
from omniad_ros.ros.parameters import parameter
from omniad_ros.ros.reference import ANSWERS_ON, FIELD, field_digest
from omniad_ros.ros.worker import NewestFirst
from omniad_ros.site import MAP_FRAME, Site


@dataclass(frozen=True)
class RendererParameters:
    """Parameters of the node ``nerf_renderer``."""

    site: str = parameter("", "Folder of the site, as built by 'omniad build'.")
    autostart: bool = parameter(True, "Configure and activate at the start; false where a lifecycle manager does it.")
    rectified: bool = parameter(False, "The images are already rectified: use camera_info's P instead of K and D.")
    longest_side: int = parameter(
        320, "Pixels of the reference view's longer side.", minimum=32, maximum=4096, runtime=True
    )


class NerfRenderer(ManagedNode):
    """Subscribes reference/request and camera_info; publishes reference/image and reference/depth."""

    def __init__(self):
        self.camera: Camera | None = None
        self.frame_id = ""
        self.worker: NewestFirst | None = None
        self.outputs: list = []
        self.inputs: list = []
        self.milliseconds = 0.0
        super().__init__("nerf_renderer", RendererParameters())

    def configure(self) -> None:
        from omniad_ros.reference import load_field

        if not self.values.site:
            raise OmniadError("parameter site is empty; give it the folder of a site built by 'omniad build'")
        site = Site.open(expanduser(self.values.site))
        self.digest = field_digest(site)
        self.field = load_field(site.radiance_dir)
        # once now, so that the first request does not wait for compilers
        self.field.render(site.camera.fitted(64), site.mapped.poses[0])
        self.image = self.create_lifecycle_publisher(Image, "reference/image", OUTPUT)
        self.depth = self.create_lifecycle_publisher(Image, "reference/depth", OUTPUT)
        self.outputs = [self.image, self.depth]

    def activate(self) -> None:
        self.worker = NewestFirst(self._render, self._failed, lambda: 0.0)
        self.inputs = [
            self.create_subscription(CameraInfo, "camera_info", self._take_info, SENSOR),
            self.create_subscription(PoseStamped, "reference/request", self._take_request, OUTPUT),
        ]

    def deactivate(self) -> None:
        self.destroy_all(*self.inputs)
        self.inputs = []
        if self.worker is not None:
            self.worker.stop()

    def cleanup(self) -> None:
        self.destroy_all(*self.outputs)
        self.outputs, self.field, self.worker, self.camera = [], None, None, None

    def health(self) -> Health:
        worker = self.worker
        values = {
            "rendered": worker.done, "dropped": worker.dropped, "ms render": self.milliseconds,
            FIELD: self.digest, ANSWERS_ON: self.image.topic_name,
        }  # fmt: skip
        if self.camera is None:
            return Health(WARN, "no camera_info yet", values)
        return Health(OK, "renders reference views", values)

    def _take_info(self, message: CameraInfo) -> None:
        try:
            self.camera = messages.camera_from_info(message, self.values.rectified).undistorted()
            self.frame_id = message.header.frame_id
        except messages.MessageDefect as defect:
            self.warn(f"camera_info {defect.field}", f"camera_info is ignored: {defect}")

    def _take_request(self, message: PoseStamped) -> None:
        try:
            messages.check_stamp(message.header)
            frame = message.header.frame_id
            messages.check(
                frame == MAP_FRAME, "header.frame_id", f"is {messages.quoted(frame)}, requests are in '{MAP_FRAME}'"
            )
            pose = messages.pose_from_message(message.pose)
        except messages.MessageDefect as defect:
            self.warn(f"reference/request {defect.field}", f"reference/request is ignored: {defect}")
            return
        if self.camera is None:
            self.warn("no camera_info", "reference/request is not answered: there is no camera_info yet")
            return
        self.worker.put((message.header.stamp, self.camera, pose))

    def _render(self, request) -> None:
        stamp, camera, pose = request
        started = time.perf_counter()
        rendering = self.field.render(camera.fitted(self.values.longest_side), pose)
        self.milliseconds = 1e3 * (time.perf_counter() - started)
        header = Header(stamp=stamp, frame_id=self.frame_id)
        self.image.publish(messages.image_message(rendering.image, header))
        self.depth.publish(messages.image_message(rendering.depth, header))

    def _failed(self, error: Exception) -> None:
        self.warn(type(error).__name__, f"a reference view could not be rendered: {type(error).__name__}: {error}")


def main() -> int:
    return run_node(NerfRenderer)
