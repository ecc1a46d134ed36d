"""What comes live, and by which names: frames from messages, parameters set together, topics and namespaces that users give."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from nav_msgs.msg import Odometry
from nodes_robot import PATIENCE
from nodes_system import System
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera
from omniad_ros.recordings.messages import MessageDefect
from omniad_ros.ros import messages, processes, shared_memory
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.live import LiveFrames
from omniad_ros.ros.managed import LATCHED
from omniad_ros.ros.parameters import declare, parameter
from omniad_ros.ros.participant import Participant
from omniad_ros.ros.processes import RobotTopics, run_site
from omniad_ros.ros.transforms import Transforms

CAMERA = Camera.from_opencv(64, 48, np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]))


@pytest.fixture
def participant():
    participant = Participant("robot", processes.private_environment())
    yield participant
    participant.close()


def header(frame_id: str = "camera") -> Header:
    return Header(stamp=messages.to_stamp(5_000_000_000), frame_id=frame_id)


def image_of(width: int, height: int):
    return messages.image_message(np.full((height, width, 3), 77, np.uint8), header())


def test_live_messages_become_frames(participant):
    said = []
    values = InspectorParameters(camera_xyz=(0.2, 0.0, 0.5))
    live = LiveFrames(Transforms(participant.node, values), values, said.append)
    assert live.take_image(image_of(64, 48)) is None  # there is no camera yet
    live.take_info(messages.camera_info_message(CAMERA, header()))
    frame = live.frame(live.take_image(image_of(64, 48)))
    assert (frame.stamp, frame.name, frame.camera) == (5_000_000_000, "0000000005000000000", CAMERA)
    assert frame.image.shape == (48, 64, 3) and np.allclose(frame.base_from_camera.translation, (0.2, 0.0, 0.5))
    assert not said
    for _ in range(2):  # a camera_info of the unreduced images
        half = live.frame(live.take_image(image_of(32, 24)))
        assert half.camera == CAMERA.resized(32, 24)
    assert len(said) == 1 and "64x48" in said[0] and "32x24" in said[0]
    with pytest.raises(MessageDefect, match="camera_info says 64x48"):
        live.take_image(image_of(32, 32))
    with pytest.raises(MessageDefect, match="gripper"):
        live.take_image(messages.image_message(np.zeros((48, 64, 3), np.uint8), header("gripper")))
    with pytest.raises(MessageDefect, match="orientation"):
        nowhere = Odometry(header=header("odom"), child_frame_id="base_link")
        nowhere.pose.pose.orientation.w = 0.0
        live.take_odometry(nowhere)


@dataclass(frozen=True)
class Pair:
    first: float = parameter(1.0, "A number.", minimum=0.0, maximum=9.0, runtime=True)
    second: float = parameter(2.0, "Another one.", minimum=0.0, maximum=9.0, runtime=True)


def test_of_parameters_set_together_none_is_applied_where_one_is_refused(participant):
    node, asked, applied = participant.node, [], []

    def check(values: Pair) -> None:
        asked.append(values)
        if values.first > values.second:
            raise OmniadError("first must not exceed second")

    assert declare(node, Pair(), check, applied.append) == Pair() and not applied

    def set_both(first: float, second: float):
        pair = [Parameter("first", value=first), Parameter("second", value=second)]
        return node.set_parameters_atomically(pair)

    for first, second in ((5.0, 3.0), (1.5, float("nan")), (1.5, 10.0)):
        assert not set_both(first, second).successful
        assert not applied and (node.get_parameter("first").value, node.get_parameter("second").value) == (1.0, 2.0)
    assert asked == [Pair(5.0, 3.0)]
    assert set_both(3.0, 4.0).successful and applied == [Pair(3.0, 4.0)]
    assert node.set_parameters([Parameter("first", value=3.5)])[0].successful and applied[-1] == Pair(3.5, 4.0)


TOPICS = RobotTopics("/camera/image_raw", "/camera/camera_info", "/odom")


@pytest.mark.parametrize(
    "topics, namespace, word",
    [
        (TOPICS, "my robot", "'my robot' is no name for a namespace"), (TOPICS, "/a//b", "namespace"),
        (RobotTopics("my camera", "info", "odom"), "/omniad", "'my camera' is no name for a topic"),
        (RobotTopics("{place}/image", "info", "odom"), "/omniad", "unknown substitution"),
    ],
)  # fmt: skip
def test_a_name_that_cannot_be_is_one_sentence(topics, namespace, word, tmp_path):
    with pytest.raises(OmniadError, match=word) as caught:
        run_site(tmp_path, topics, namespace)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def system(tiny_site, tmp_path_factory):
    system = System(str(tiny_site), tmp_path_factory.mktemp("live"))
    yield system
    system.close()


class Run:
    """`omniad run` as a process on a system's domain; `lines` holds what it said."""

    def __init__(self, system: System, *arguments: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "omniad_ros.cli", "run", system.site, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **system.environment},
        )  # fmt: skip
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self._reader.start()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(PATIENCE)
        self._reader.join(5.0)
        return code


def test_run_takes_a_cameras_topics_as_they_are_named(system):
    """A namespace without a slash, a topic relative to it, and images whose name says compressed and rectified."""
    robot, topic = system.robot, "/cam/image_rect/compressed"
    robot.status.clear()
    run = Run(system, "--namespace", "rob1", "--image", topic, "--camera-info", "cam/info")
    try:
        robot.until(lambda: f"on {topic}" in system.level()[1], what="the complaint that names what is subscribed")
        names = {name: kinds for name, kinds in robot.node.get_topic_names_and_types()}
        assert names[topic] == ["sensor_msgs/msg/CompressedImage"] and f"{topic}/compressed" not in names
        assert "/rob1/cam/info" in names and "/rob1/heatmap" in names
        for node in ("/rob1/inspector", "/rob1/nerf_renderer"):
            assert robot.get(node, "rectified") is True
    finally:
        assert run.end() == 0, run.lines
    assert sum("compressed, by its name" in line for line in run.lines) == 1
    assert not [line for line in run.lines if "Traceback" in line or "WARN" in line], run.lines


def test_a_camera_info_latched_before_the_nodes_start_and_of_the_whole_sensor_is_enough(system):
    """Said once, by a driver that halves its images by binning."""
    robot = system.robot
    whole = messages.camera_info_message(
        robot.camera.resized(2 * robot.camera.width, 2 * robot.camera.height), robot.header(1, "camera")
    )
    whole.binning_x = whole.binning_y = 2
    robot.node.destroy_publisher(robot.publishers["camera_info"])
    latched = robot.publishers["camera_info"] = robot.node.create_publisher(CameraInfo, "camera_info", LATCHED)
    latched.publish(whole)
    robot.say_info = lambda stamp, **changes: None
    try:
        system.start_both()
        system.healthy()
        assert not system.said("inspector", "scaled"), "the binned image has the camera's size"
    finally:
        del robot.say_info


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_ends_with_0_however_early_it_is_asked_to(system, number):
    script = "import sys; from omniad_ros.cli import main; sys.exit(main())"
    for wait in (0.4, 0.9, 1.6, 4.0):
        process = subprocess.Popen(
            [sys.executable, "-c", script, "run", system.site], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **system.environment},
        )  # fmt: skip
        time.sleep(wait)
        process.send_signal(number)
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode == 0 and "Traceback" not in said and "Error" not in said, (wait, said)


@pytest.mark.skipif(not shared_memory.MEMORY.is_dir(), reason="shared memory is not a folder here")
@pytest.mark.parametrize("how", ["orderly", "asked twice while it loads", "killed"])
def test_an_ended_node_leaves_nothing_in_shared_memory(system, how):
    process = processes.start("nerf_renderer", {"site": system.site}, environment=processes.private_environment())
    end, owned = time.monotonic() + PATIENCE, set()
    while len(owned) < 2 or (
        how != "asked twice while it loads" and not any(": active" in line for line in process.lines)
    ):
        assert time.monotonic() < end and process.returncode is None, list(process.lines)
        owned |= shared_memory.owned(process.pid)
    files = [shared_memory.MEMORY / f"{name}{shared_memory.LOCK}" for name in owned | shared_memory.owned(process.pid)]
    assert len(files) >= 2 and all(file.exists() for file in files)
    if how == "asked twice while it loads":  # by a launcher, which does not know what it left
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        assert process._process.wait(PATIENCE) == 0
    elif how == "killed":
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL
    else:
        assert process.stop() == 0
    assert not [file for file in files if file.exists()]
