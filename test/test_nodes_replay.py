"""The same frame gives the same live, from a bag, and in `omniad evaluate`."""

import json
import shutil
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

from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import write_image
from omniad_ros.evaluation import evaluate_dataset
from omniad_ros.patrol.pipeline import InspectionOptions
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings import messages as decoding
from omniad_ros.report.recorded import InspectOptions, inspect_images
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
        system.start("nerf_renderer", wait=False, use_sim_time=True)
        system.start("inspector", wait=False, use_sim_time=True, state_file="")
        system.wait_active("nerf_renderer")
        system.wait_active("inspector")
        system.healthy()
        yield system
    finally:
        system.close()


def write_bag(path, storage, messages_by_stamp) -> None:
    """messages_by_stamp: of each frame (stamp, {topic: message})."""
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections = {
            topic: writer.add_connection(topic, f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}", typestore=store)
            for topic, (_, kind) in TOPICS.items()
        }
        for stamp, parts in messages_by_stamp:
            for topic, message in parts.items():
                writer.write(connections[topic], stamp, serialize_message(message))


def record(system, path, storage) -> None:
    """A patrol past something that was added, by a camera with some distortion and drifting odometry."""
    step = Pose(cv2.Rodrigues(np.array([0.0, 0.0, 0.002]))[0], np.array([0.003, 0.0, 0.0]))

    def patrol():
        drift, robot = Pose.identity(), system.robot
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
            yield stamp, parts

    write_bag(path, storage, patrol())


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
            assert metres < 1e-5 and degrees < 1e-3  # inspection.json has six decimals
        live = decoding.depth_from_image(robot.answer("heatmap", stamp))
        saved = cv2.imread(str(tmp_path / "offline" / "heatmaps" / f"{row['name']}.png"), cv2.IMREAD_UNCHANGED) / 65535
        assert live.shape == saved.shape
        differences.append(float(np.abs(live - saved).mean()))
    print(
        f"tracks {len(tracks)}, mean difference of the heatmaps {np.mean(differences):.5f}, at most {max(differences):.5f}"
    )
    # that the evidence of earlier frames adds up differently by rounding is all that may remain
    assert np.mean(differences) < 1e-4 and max(differences) < 1e-3

    def centers() -> np.ndarray:
        shown = displayed(robot.heard["markers"])
        boxes = {m.id: m.pose.position for array in robot.heard["markers"] for m in array.markers if m.ns == "tracks"}
        return np.array([(boxes[i].x, boxes[i].y, boxes[i].z) for ns, i in sorted(shown) if ns == "tracks"])

    assert tracks
    robot.until(lambda: len(centers()) == len(tracks), what="the same tracks")
    expected = np.array([track.center for track in sorted(tracks, key=lambda track: track.id)])
    assert np.linalg.norm(centers() - expected, axis=1).max() < 0.05


CHOSEN = (2, 11, 20, 29)
HOUR = 3600 * 10**9
"""From one picture to the next: none tells where the next one was taken."""


@pytest.fixture
def pictures(system) -> dict[str, np.ndarray]:
    return {f"{index:03d}": system.planted(index)[0] for index in CHOSEN}


def seen_live(system, pictures) -> dict[str, tuple[Pose, np.ndarray]]:
    """(refined pose, heatmap of this frame alone) of each picture, by the nodes."""
    robot, seen = system.robot, {}
    system.healthy()  # the camera_info of the bags before is forgotten
    for name, image in pictures.items():
        assert robot.trigger("inspector/reset").success
        stamp, state, why = robot.inspect(image, None, robot.next_stamp(3600.0))
        assert state == "ok", why
        heatmap = decoding.depth_from_image(robot.answer("heatmap_independent", stamp))
        seen[name] = decoding.pose_from_message(robot.answer("pose", stamp).pose.pose), heatmap
    return seen


def seen_in_a_bag(system, pictures, site, folder) -> dict[str, tuple[Pose, np.ndarray]]:
    def recorded():
        for number, image in enumerate(pictures.values(), 1):
            header = system.robot.header(number * HOUR, "camera")
            info = messages.camera_info_message(system.survey.camera, header)
            yield (
                number * HOUR,
                {"/camera/camera_info": info, "/camera/image_raw": messages.image_message(image, header)},
            )

    write_bag(folder / "bag", StoragePlugin.MCAP, recorded())
    inspect_images(
        site, folder / "bag", folder / "inspected", options=InspectOptions(inspection=InspectionOptions(evidence=False))
    )
    rows = json.loads((folder / "inspected" / "inspection.json").read_text())["frames"]
    saved = (folder / "inspected" / "heatmaps" / f"{row['name']}.png" for row in rows)
    heatmaps = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 65535 for path in saved]
    poses = [Pose.from_matrix(np.array(row["map_from_camera"])) for row in rows]
    return dict(zip(pictures, zip(poses, heatmaps), strict=True))


def seen_by_evaluate(pictures, dataset, site, folder, monkeypatch) -> dict[str, tuple[Pose, np.ndarray]]:
    root = folder / "dataset"
    shutil.copytree(dataset, root)
    for name in ("test", "ground_truth"):
        shutil.rmtree(root / name)
    for name, image in pictures.items():
        for place, picture in (
            (root / "test" / "added" / f"{name}.png", image),
            (root / "ground_truth" / "added" / f"{name}_mask.png", np.full(image.shape[:2], 255, np.uint8)),
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_image(place, picture)
    seen, inspect = {}, PatrolSession.inspect

    def watched(session, frame, wait=True):
        inspected = inspect(session, frame, wait)
        seen[frame.name.removeprefix("added_")] = inspected.inspection
        return inspected

    monkeypatch.setattr(PatrolSession, "inspect", watched)
    evaluate_dataset(root, site, folder / "evaluated")
    return {name: (inspection.localization.pose, inspection.heatmap) for name, inspection in seen.items()}


def test_a_frame_gives_the_same_heatmap_live_from_a_bag_and_in_evaluate(
    system, pictures, tiny_dataset, tiny_site, tmp_path, monkeypatch
):
    live = seen_live(system, pictures)
    bag = seen_in_a_bag(system, pictures, tiny_site, tmp_path)
    evaluated = seen_by_evaluate(pictures, tiny_dataset, tiny_site, tmp_path, monkeypatch)
    for name in pictures:
        (pose, heatmap), others = live[name], (bag[name], evaluated[name])
        assert heatmap.max() > 0.1, "the planted ball is to be seen"
        for other_pose, other in others:
            assert np.abs(other_pose.matrix() - pose.matrix()).max() < 1e-6  # inspection.json has six decimals
            assert np.abs(other - heatmap).max() < 1e-3
