"""What only a ROS distribution has, cv_bridge, tf2_ros and vision_msgs, by stand-ins with their names and fields."""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from geometry_msgs.msg import Point, Quaternion, TransformStamped, Vector3
from geometry_msgs.msg import Pose as PoseMessage
from nav_msgs.msg import Odometry
from rclpy.time import Time
from std_msgs.msg import Header

from omniad_ros.core.geometry import Pose
from omniad_ros.patrol.tracks import Track
from omniad_ros.recordings.source import SECOND
from omniad_ros.ros import counterparts, markers, messages, processes, shared_memory, transforms
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.live import LiveFrames
from omniad_ros.ros.participant import Participant

ON_THE_MAST = messages.extrinsics((0.3, 0.0, 1.2), (0.0, 0.1, 0.0))


class TransformException(Exception):
    pass


class Buffer:
    """Knows the camera's place at second 5 and, where ``latest`` is set, at no particular time."""

    latest = True

    def lookup_transform(self, target: str, source: str, when):
        assert (target, source) == ("base_link", "camera")
        if when.nanoseconds != 5_000_000_000 and not (self.latest and when.nanoseconds == 0):
            raise TransformException("extrapolation")
        return messages.transform_message(ON_THE_MAST, Header(frame_id=target), source)


class TransformListener:
    def __init__(self, buffer, node):
        self.node = node
        self.subscription = node.create_subscription(TransformStamped, "/tf", lambda message: None, 10)

    def unregister(self) -> None:
        self.node.destroy_subscription(self.subscription)


class TransformBroadcaster:
    def __init__(self, node):
        self.sent = []
        self.pub_tf = node.create_publisher(TransformStamped, "/tf", 10)

    def sendTransform(self, transform) -> None:
        self.sent.append(transform)


@pytest.fixture
def robot(monkeypatch):
    stand_in = SimpleNamespace(
        Buffer=Buffer, TransformListener=TransformListener, TransformBroadcaster=TransformBroadcaster,
        TransformException=TransformException,
    )  # fmt: skip
    monkeypatch.setattr(transforms, "tf2_ros", stand_in)
    participant = Participant("robot", processes.private_environment())
    yield participant
    participant.close()


def header(second: int) -> Header:
    return Header(stamp=messages.to_stamp(second * 1_000_000_000), frame_id="camera")


def test_images_are_made_by_cv_bridge_where_it_is_installed(monkeypatch):
    from sensor_msgs.msg import Image

    class CvBridge:  # as it does it: the numbers' kind must be the encoding's
        def cv2_to_imgmsg(self, pixels, encoding="passthrough"):
            kind = {"rgb8": ("uint8", 3), "mono8": ("uint8", 1), "32FC1": ("float32", 1)}[encoding]
            assert (pixels.dtype.name, 1 if pixels.ndim == 2 else pixels.shape[2]) == kind
            message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
            message.is_bigendian = int(pixels.dtype.byteorder == ">")
            message.data.frombytes(pixels.tobytes())
            message.step = len(message.data) // message.height
            return message

    arrays = [np.arange(24, dtype=kind).reshape(shape) for kind, shape in (
        (np.uint8, (2, 4, 3)), (np.uint8, (4, 6)), (np.float32, (3, 8)),
    )]  # fmt: skip
    ours = [messages.image_message(array, header(3)) for array in arrays]
    monkeypatch.setitem(sys.modules, "cv_bridge", SimpleNamespace(CvBridge=CvBridge))
    try:
        importlib.reload(counterparts)
        assert hasattr(counterparts, "_bridge")
        assert [messages.image_message(array, header(3)) for array in arrays] == ours
    finally:
        monkeypatch.undo()
        importlib.reload(counterparts)


def test_the_cameras_place_comes_from_tf_else_from_parameters(robot, monkeypatch):
    values = InspectorParameters(camera_xyz=(0.1, 0.0, 0.0), base_frame="base_link")
    frames = transforms.Transforms(robot.node, values)
    given = LiveFrames(frames, values, lambda sentence: None).mount
    assert np.allclose(given.translation, (0.1, 0.0, 0.0))
    assert frames.base_from_camera(header(5), given).distance(ON_THE_MAST)[0] < 1e-9
    # the latest, where there is none at the stamp
    assert frames.base_from_camera(header(7), given).distance(ON_THE_MAST)[0] < 1e-9
    monkeypatch.setattr(Buffer, "latest", False)
    assert np.allclose(frames.base_from_camera(header(7), given).translation, (0.1, 0.0, 0.0))
    alone = transforms.Transforms(robot.node, InspectorParameters(base_frame="base_link", extrinsics_from_tf=False))
    assert alone.base_from_camera(header(5), given) is given


def test_odometry_that_does_not_name_the_robot_is_of_base_link_as_in_a_bag(robot):
    said = []
    frames = transforms.Transforms(robot.node, InspectorParameters())
    live = LiveFrames(frames, InspectorParameters(), said.append)
    for second in (4, 5):
        stamp, pose = live.take_odometry(Odometry(header=Header(stamp=header(second).stamp, frame_id="/odom")))
        assert stamp == second * SECOND and pose.distance(Pose.identity()) == (0.0, 0.0)
    assert frames.odom_frame.name == "odom"
    assert frames.base_from_camera(header(5), Pose.identity()).distance(ON_THE_MAST)[0] < 1e-9
    (sentence,) = said
    assert "child_frame_id" in sentence and "base_link" in sentence


def test_map_to_odom_reaches_beyond_the_images_stamp_at_any_pace_until_the_node_is_deactivated(robot):
    before = [len(list(entities)) for entities in (robot.node.publishers, robot.node.subscriptions, robot.node.timers)]
    frames = transforms.Transforms(robot.node, InspectorParameters(map_frame="plant", transform_tolerance=0.3))
    live = LiveFrames(frames, InspectorParameters(), lambda sentence: None)
    sent = frames._broadcaster.sent

    def drive(seconds) -> None:
        for second in seconds:
            stamp = messages.to_stamp(round(second * SECOND))
            frames.moved(live.take_odometry(Odometry(header=Header(stamp=stamp, frame_id="wheels")))[0])

    drive((100.0, 100.05))
    assert not sent  # nobody knows where the robot is
    frames.correct(Pose(np.eye(3), np.array([1.0, 2.0, 0.0])), 100 * SECOND)
    drive(np.arange(100.1, 102.0, 0.05))
    assert {(t.header.frame_id, t.child_frame_id, t.transform.translation.y) for t in sent} == {
        ("plant", "wheels", 2.0)
    }
    stamps = [Time.from_msg(t.header.stamp).nanoseconds / SECOND for t in sent]
    assert stamps[0] == 100.0 and stamps == sorted(stamps)  # the frame that said it has its transform too
    assert 102.1 < stamps[-1] < 102.3 and len(stamps) < 25
    drive((3.0, 3.05))  # the recording begins anew
    assert Time.from_msg(sent[-1].header.stamp).nanoseconds == 3.3 * SECOND
    frames.destroy()
    after = [len(list(entities)) for entities in (robot.node.publishers, robot.node.subscriptions, robot.node.timers)]
    assert after == before


def test_map_to_odom_is_left_to_another_node_that_publishes_it(robot, monkeypatch):
    frames = transforms.Transforms(robot.node, InspectorParameters())
    frames.odom_frame.check("header.frame_id", "odom")
    sent = frames._broadcaster.sent
    frames.correct(Pose.identity(), 5 * SECOND)
    frames._hear(SimpleNamespace(transforms=list(sent)))  # what it hears of itself
    frames.moved(6 * SECOND)
    assert len(sent) == 3
    other = messages.transform_message(Pose.identity(), Header(stamp=header(6).stamp, frame_id="/map"), "odom")
    frames._hear(SimpleNamespace(transforms=[other]))
    frames.moved(7 * SECOND)
    assert len(sent) == 3
    monkeypatch.setattr(frames, "_rival_at", frames._rival_at - frames.RIVAL_FOR)
    frames.moved(8 * SECOND)
    assert len(sent) == 4
    frames.destroy()


def message(**fields):
    """A message class that, as real ones, has these fields and no others."""

    class Message:
        __slots__ = tuple(fields)

        def __init__(self, **given):
            for name, make in fields.items():
                setattr(self, name, given.pop(name) if name in given else make())
            assert not given, given

    return Message


def test_tracks_become_vision_msgs_where_they_are_installed(monkeypatch):
    assert markers.detections_message([], Header()) is None or markers.vision_msgs is not None
    box = message(center=PoseMessage, size=Vector3)
    hypothesis = message(hypothesis=message(class_id=str, score=float), pose=message(pose=PoseMessage, covariance=list))
    monkeypatch.setattr(markers, "vision_msgs", SimpleNamespace(
        Detection3DArray=message(header=Header, detections=list), ObjectHypothesisWithPose=hypothesis,
        Detection3D=message(header=Header, results=list, bbox=box, id=str),
    ))  # fmt: skip
    given = dict(center=np.array([1.0, 2.0, 3.0]), size=np.array([0.2, 0.3, 0.4]), score=0.9, kind="added", views=7,
                 covariance=np.diag([1e-4, 4e-4, 9e-4]))  # fmt: skip
    tracks = [track(4, confirmed=True, **given), track(-2, confirmed=False, **given)]
    array = markers.detections_message([(t, None) for t in tracks], Header(frame_id="map"))
    (detection,) = array.detections
    assert detection.id == "4" and detection.bbox.center.position == Point(x=1.0, y=2.0, z=3.0)
    assert detection.bbox.center.orientation == Quaternion(w=1.0) and detection.bbox.size.z == 0.4
    (result,) = detection.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == (
        "added",
        0.9,
    ) and result.pose.pose.position.x == 1.0
    assert np.allclose(result.pose.covariance[[0, 7, 14]], [1e-4, 4e-4, 9e-4]) and result.pose.covariance[35] > 1


def track(number: int, **fields) -> Track:
    from dataclasses import fields as fields_of

    missing = {f.name: None for f in fields_of(Track) if f.name not in fields and f.name != "id"}
    return Track(id=number, **{**missing, **fields})


def test_pictures_have_room_in_shared_memory_unless_somebody_chose_otherwise(monkeypatch, tmp_path):
    for name in (*shared_memory.FILES, "FASTDDS_BUILTIN_TRANSPORTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    shared_memory.make_room()
    assert not any(name in os.environ for name in shared_memory.FILES)
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")
    for name in shared_memory.FILES:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    shared_memory.make_room()
    assert [os.environ[name] for name in shared_memory.FILES] == ["", str(shared_memory.PROFILE)]
    monkeypatch.delenv("ROS_DISTRO")
    monkeypatch.setenv(shared_memory.FILES[1], "")
    shared_memory.make_room()
    assert [os.environ[name] for name in shared_memory.FILES] == [str(shared_memory.PROFILE), ""]
    started = tmp_path / "started.py"
    started.write_text(
        "import rclpy; rclpy.init(); node = rclpy.create_node('room')\n"
        "mapped = [line.split() for line in open('/proc/self/maps') if '/dev/shm/fast' in line]\n"
        "sizes = [int(line[0].split('-')[1], 16) - int(line[0].split('-')[0], 16) for line in mapped]\n"
        "print(max(sizes))\n"
    )
    result = subprocess.run([sys.executable, started], capture_output=True, text=True, timeout=60)
    assert int(result.stdout) > 32e6, result
