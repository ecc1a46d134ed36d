"""A robot with two cameras: one inspector, one renderer and one odometry; each camera's pictures in its own namespace."""

import time
from collections import defaultdict

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from nodes_robot import PATIENCE
from nodes_system import System
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Pose
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages
from omniad_ros.ros.managed import OUTPUT, WARN

CAMERAS = "front", "left"
SEEN = {"heatmap": Image, "mask": Image, "pose": PoseWithCovarianceStamped, "heatmap/camera_info": CameraInfo}
FIRST, SECOND = 4, 9
"""Survey pictures that the two cameras see at once."""


class Rig:
    """What the two cameras of the system's robot send, and what is said of it."""

    def __init__(self, system: System):
        self.system, self.robot = system, system.robot
        node = self.robot.node
        self.heard = defaultdict(list)
        for camera in CAMERAS:
            for topic, kind in SEEN.items():
                node.create_subscription(kind, f"{camera}/{topic}", self.heard[f"{camera}/{topic}"].append, OUTPUT)
        self.images = {camera: node.create_publisher(Image, f"{camera}/image", OUTPUT) for camera in CAMERAS}
        self.infos = {camera: node.create_publisher(CameraInfo, f"{camera}/camera_info", OUTPUT) for camera in CAMERAS}
        (self.front, front), (self.left, left) = system.frame(FIRST), system.frame(SECOND)
        self.poses = {"front": front, "left": left}
        base = front @ self.robot.base_from_camera.inverse()
        body = base.inverse() @ left @ Pose(BODY_FROM_OPTICAL.T, np.zeros(3))
        self.mount = {
            "left.camera_xyz": body.translation.tolist(),
            "left.camera_rpy": Rotation.from_matrix(body.rotation).as_euler("xyz").tolist(),
        }

    def show(self, left: np.ndarray | None = None, frames: dict | None = None) -> int:
        """One picture of each camera, of one stamp; left: what its camera shows, nothing where it is empty."""
        stamp = self.robot.next_stamp()
        self.robot.say_odometry(stamp, self.poses["front"])
        for camera, image in (("front", self.front), ("left", self.left if left is None else left)):
            if not image.size:
                continue
            header = Header(stamp=messages.to_stamp(stamp), frame_id=(frames or {}).get(camera, f"{camera}_optical"))
            self.infos[camera].publish(messages.camera_info_message(self.robot.camera, header))
            self.images[camera].publish(messages.image_message(image, header))
        return stamp

    def until(self, told, pause: float = 3.0, **shown) -> None:
        """Show pictures, for at most so many seconds each, until something is told."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            stamp = self.show(**shown)
            moment = time.monotonic() + pause
            while time.monotonic() < moment:
                if told(stamp):
                    return
                self.robot.spin(0.05)
        raise AssertionError(f"not told; diagnostics: {self.robot.status}")

    def newest(self, topic: str, stamp: int):
        wanted = messages.to_stamp(stamp)
        return next((m for m in self.heard[topic] if m.header.stamp == wanted), None)


@pytest.fixture(scope="module")
def rig(tiny_site, tmp_path_factory):
    system = System(str(tiny_site), tmp_path_factory.mktemp("rig"))
    try:
        rig = Rig(system)
        system.start("nerf_renderer", wait=False, cameras=" ".join(CAMERAS))
        system.start("inspector", wait=False, cameras=" ".join(CAMERAS), **rig.mount)
        system.wait_active("nerf_renderer")
        system.wait_active("inspector")
        yield rig
    finally:
        system.close()


def near(message: PoseWithCovarianceStamped, pose: Pose) -> bool:
    metres, degrees = decoding.pose_from_message(message.pose.pose, "pose").distance(pose)
    return metres < 0.03 and degrees < 1.5


def test_both_cameras_are_inspected_in_their_namespaces(rig):
    def told(stamp) -> bool:
        topics = [f"{camera}/{topic}" for camera in CAMERAS for topic in SEEN]
        said = rig.system.level()[2].get("state")
        return said == "ok" and all(rig.newest(topic, stamp) is not None for topic in topics)

    rig.until(told)
    for camera in CAMERAS:
        heatmap, pose = rig.heard[f"{camera}/heatmap"][-1], rig.heard[f"{camera}/pose"][-1]
        assert heatmap.header.frame_id == f"{camera}_optical" and near(pose, rig.poses[camera])
    assert rig.system.level("nerf_renderer")[2]["lifecycle"] == "active"
    assert int(rig.system.level()[2]["reference views"]) >= 2


def test_a_camera_that_sees_nothing_known_still_has_its_pose(rig):
    noise = np.random.default_rng(0).integers(0, 255, rig.left.shape, np.uint8)  # a floor of pebbles
    since = len(rig.heard["left/pose"])

    def told(stamp) -> bool:
        pose = rig.newest("left/pose", stamp)
        return pose is not None and rig.newest("front/pose", stamp) is not None

    rig.until(told, left=noise)
    pose = rig.heard["left/pose"][-1]
    assert len(rig.heard["left/pose"]) > since and near(pose, rig.poses["left"])
    assert pose.pose.covariance[0] > rig.heard["front/pose"][-1].pose.covariance[0]


def test_a_silent_camera_is_said_and_the_other_goes_on(rig):
    def told(stamp) -> bool:
        level, said, _ = rig.system.level()
        return level == WARN and "left image" in said and rig.newest("front/heatmap", stamp) is not None

    rig.until(told, left=np.zeros((0, 0, 3), np.uint8))


def test_two_cameras_cannot_be_one_frame(rig):
    since = len(rig.system.nodes["inspector"].lines)
    frames = {camera: "front_optical" for camera in CAMERAS}
    said = "which is that of the camera front too"
    rig.until(lambda stamp: rig.system.said("inspector", said, since), pause=0.3, frames=frames)


def test_names_that_cannot_be_are_refused(tiny_site, tmp_path):
    system = System(str(tiny_site), tmp_path)
    try:
        system.start("inspector", wait=False, cameras="front front")
        system.robot.until(lambda: system.nodes["inspector"].returncode is not None, PATIENCE, "the end")
        assert system.said("inspector", "names the camera front twice")
    finally:
        system.close()
