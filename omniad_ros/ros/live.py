"""What comes live becomes what a recording gives: `Frame`s, and odometry by stamp, by the decoder that reads bags.

Messages are checked where they come in, without looking at a pixel; an image is decoded when it is to be inspected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.recordings import Frame
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.frames import ROBOT_FRAMES
from omniad_ros.ros import messages
from omniad_ros.ros.inspector_parameters import CameraParameters
from omniad_ros.ros.transforms import FrameName, Transforms


@dataclass(frozen=True)
class LiveImage:
    """An image that may be inspected, still as it was sent, and the camera that took it."""

    message: Image | CompressedImage
    camera: Camera


class LiveFrames:
    """Of one camera of a robot; lives from the node's activation to its deactivation.

    eye: the camera's name, empty where the robot has one; rectified: the images are, by their driver; said: called once with each thing
    that was assumed.
    The ``take_…`` raise MessageDefect where a message cannot be right.
    """

    def __init__(self, transforms: Transforms, values: CameraParameters, said: Callable[[str], None], eye: str = ""):
        self.eye = eye
        self.camera_frame = FrameName(values.camera_frame)
        self.mount = messages.extrinsics(values.camera_xyz, values.camera_rpy)
        """Where /tf does not say."""
        self.camera: Camera | None = None
        """As the newest camera_info has it."""
        self._transforms, self._rectified, self._said = transforms, values.rectified, said
        self._assumed: set[str] = set()

    def take_info(self, message: CameraInfo) -> None:
        self.camera = decoding.camera_from_info(message, self._rectified)

    def take_odometry(self, message: Odometry) -> tuple[int, Pose]:
        """(stamp in nanoseconds, odom_from_base)"""
        stamp = decoding.check_stamp(message.header)
        self._transforms.odom_frame.check("header.frame_id", message.header.frame_id)
        self._transforms.base_frame.check("child_frame_id", message.child_frame_id or self._assumed_base())
        return stamp, decoding.pose_from_message(message.pose.pose, "pose.pose")

    def take_image(self, message: Image | CompressedImage) -> LiveImage | None:
        """None as long as no camera_info came."""
        decoding.check_stamp(message.header)
        self.camera_frame.check("header.frame_id", message.header.frame_id)
        width, height = decoding.image_size(message)
        if self.camera is None:
            return None
        camera = decoding.camera_of_size(self.camera, width, height)
        if camera is not self.camera:
            told = f"{self.camera.width}x{self.camera.height}"
            self._assume(f"camera_info is of images of {told}: it is scaled to the {width}x{height} of those that come")
        return LiveImage(message, camera)

    def frame(self, image: LiveImage) -> Frame:
        """The image decoded, with the camera's place on the robot. Raises MessageDefect; for the worker's thread."""
        stamp = decoding.nanoseconds(image.message.header.stamp)
        mount = self._transforms.base_from_camera(image.message.header, self.mount)
        return Frame(stamp, f"{stamp:019d}", decoding.image_to_rgb(image.message), image.camera, mount, self.eye)

    def _assumed_base(self) -> str:
        """The robot's frame where odometry does not name it, as in a bag."""
        base = self._transforms.base_frame.name or ROBOT_FRAMES[0]
        self._assume(f"the odometry names no child_frame_id: assuming that it is of {base}")
        return base

    def _assume(self, sentence: str) -> None:
        if sentence not in self._assumed:
            self._assumed.add(sentence)
            self._said(sentence)
