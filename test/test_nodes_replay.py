"""A bag inspected offline and the same bag replayed through the nodes give the same."""

import json
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from nav_msgs.msg import Odometry
from nodes_robot import PATIENCE, displayed
from nodes_system import System
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from omniad_ros.commands.inspect import inspect_images
from omniad_ros.core.geometry import Pose
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages

TOPICS = {
    "/camera/camera_info": ("camera_info", CameraInfo),
    "/odom": ("odom", Odometry),
    "/camera/image_raw": ("image", Image),
}


@pytest.fixture(scope="module")
def system(tiny_site, tmp_path_factory):
    system = System(str(tiny_site), tmp_path_factory.mktemp("replay"))
    try:
        system.start("nerf_renderer", wait=False, longest_side=320, use_sim_time=True)
        system.start("inspector", wait=False, longest_side=320, use_sim_time=True, state_file="")
        system.wait_active("nerf_renderer")
        system.wait_active("inspector")
        system.healthy()
        yield system
    finally:
        system.close()


def record(system, path, storage) -> None:
    """A patrol past something that was added, by a camera with some distortion and drifting odometry."""
    store = get_typestore(Stores.ROS2_JAZZY)
    drift, robot = Pose.identity(), system.robot
    step = Pose(cv2.Rodrigues(np.array([0.0, 0.0, 0.002]))[0], np.array([0.003, 0.0, 0.0]))
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(topic, f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}", typestore=store)
            for topic, (_, kind) in TOPICS.items()
        }
        for index in range(len(system.survey)):
            image, pose = system.planted(index)
            stamp, drift = (index + 1) * 500_000_000, drift @ step
            header = robot.header(stamp, "camera")
            info = messages.camera_info_message(system.survey.camera, header)
            info.d = [0.01, 0.0, 0.0, 0.0, 0.0]
            moved = Odometry(header=robot.header(stamp, "odom"), child_frame_id="base_link")
            moved.pose.pose = messages.pose_message(drift @ pose @ robot.base_from_camera.inverse())
            parts = {
                "/camera/camera_info": info,
                "/odom": moved,
                "/camera/image_raw": messages.image_message(image, header),
            }
            for topic, message in parts.items():
                writer.write(connections[topic], stamp, serialize_message(message))


def replay(system, path) -> dict[int, str]:
    """The state of each frame by stamp; the next is said once a frame's state is told, as a slow `ros2 bag play` would."""
    robot, states, said = system.robot, {}, {}
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    with AnyReader([path]) as reader:
        for connection, recorded, raw in reader.messages():
            topic, kind = TOPICS[connection.topic]
            clock.publish(Clock(clock=messages.to_stamp(recorded)))
            robot.publishers[topic].publish(bytes(raw))
            said[topic] = bytes(raw)
            if topic == "image":
                stamp = decoding.nanoseconds(deserialize_message(bytes(raw), kind).header.stamp)
                end = time.monotonic() + PATIENCE
                while not told(system, stamp):  # it may pass unseen
                    assert time.monotonic() < end, system.level()
                    for name, message in said.items():
                        robot.publishers[name].publish(message)
                states[stamp] = system.level()[2]["state"]
    robot.until(lambda: 0 < robot.told_at["inspector"] <= recorded, what="diagnostics in simulated time")
    return states


def told(system, stamp: int) -> bool:
    end = time.monotonic() + 5.0
    while time.monotonic() < end:
        system.robot.executor.spin_once(timeout_sec=0.05)
        if system.level()[2].get("stamp") == str(stamp):
            return True
    return False


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3], ids=["mcap", "sqlite3"])
def test_a_bag_replayed_through_the_nodes_gives_what_its_offline_inspection_gives(system, tiny_site, tmp_path, storage):
    robot, bag = system.robot, tmp_path / "bag"
    record(system, bag, storage)
    tracks = inspect_images(tiny_site, bag, tmp_path / "offline")
    offline = json.loads((tmp_path / "offline" / "inspection.json").read_text())["frames"]
    assert robot.trigger("inspector/reset").success
    robot.spin(0.5)
    robot.heard["markers"].clear()
    states = replay(system, bag)
    assert len(states) == len(offline) == len(system.survey)
    differences = []
    for stamp, row in zip(states, offline):
        assert states[stamp] == row["state"], (stamp, row)
        if row["map_from_camera"] is not None:
            refined = decoding.pose_from_message(robot.answer("pose", stamp).pose.pose)
            metres, degrees = refined.distance(Pose.from_matrix(np.array(row["map_from_camera"])))
            assert metres < 0.01 and degrees < 0.5
        live = decoding.depth_from_image(robot.answer("heatmap", stamp))
        saved = cv2.imread(str(tmp_path / "offline" / "heatmaps" / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED) / 65535
        assert live.shape == saved.shape
        differences.append(float(np.abs(live - saved).mean()))
    print(
        f"tracks {len(tracks)}, mean difference of the heatmaps {np.mean(differences):.5f}, at most {max(differences):.5f}"
    )
    assert np.mean(differences) < 0.01

    def centers() -> np.ndarray:
        shown = displayed(robot.heard["markers"])
        boxes = {m.id: m.pose.position for array in robot.heard["markers"] for m in array.markers if m.ns == "tracks"}
        return np.array([(boxes[i].x, boxes[i].y, boxes[i].z) for ns, i in sorted(shown) if ns == "tracks"])

    assert tracks
    robot.until(lambda: len(centers()) == len(tracks), what="the same tracks")
    expected = np.array([track.center for track in sorted(tracks, key=lambda track: track.id)])
    assert np.linalg.norm(centers() - expected, axis=1).max() < 0.05
