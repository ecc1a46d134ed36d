"""Who else is there, and what cannot be relied on though the work is in order: said in one sentence, `degraded`, until it is over."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from nodes_robot import PATIENCE
from nodes_system import REFERENCE, System
from sensor_msgs.msg import CameraInfo, Image

from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages, processes
from omniad_ros.ros.managed import OUTPUT, STREAM
from omniad_ros.ros.participant import Participant
from omniad_ros.ros.speakers import Speakers


@pytest.fixture(scope="module")
def system(tiny_site, tmp_path_factory):
    system = System(str(tiny_site), tmp_path_factory.mktemp("company"))
    try:
        system.start_both()
        system.healthy()
        yield system
    finally:
        system.close()


def told(system, words: str) -> None:
    """Show frames until the inspector doubts what it says of them, for this reason."""
    frames = iter(range(10**6))

    def doubted() -> bool:
        stamp, state, why = system.robot.inspect(*system.frame(next(frames)))
        said = (state, system.level()[:2]) == ("degraded", (1, why)) and words in why
        return said and system.robot.answer("heatmap", stamp) is not None

    system.robot.until(doubted, what=f"the notice of {words}")


def test_another_robot_of_the_same_domain_is_another_matter(system, tiny_site, tmp_path):
    other = System(str(tiny_site), tmp_path, system.environment, "/robot2/omniad")
    system.robot.others, other.robot.others = {"/robot2/omniad"}, {"/omniad"}
    try:
        other.start_both()
        other.healthy()
        for index in range(3):  # both look at once, at different things
            stamps = [s.robot.show(*s.frame(index + shift)) for s, shift in ((system, 0), (other, 3))]
            for robot, stamp in zip((system.robot, other.robot), stamps):
                robot.answer("heatmap", stamp)
        mine, others = (
            {decoding.nanoseconds(image.header.stamp) for image in s.robot.heard["heatmap"]} for s in (system, other)
        )
        assert mine and others and not mine & others
    finally:
        other.close()
    system.healthy()


@pytest.mark.parametrize(
    "node, words", [("inspector", "more than one inspector runs in /omniad"), ("nerf_renderer", "more than one nerf_renderer")]
)  # fmt: skip
def test_a_second_node_of_the_same_name(system, node, words):
    second = processes.start(node, {"site": system.site, "reference_timeout": 15.0}, environment=system.environment)
    try:
        told(system, words)
        if node == "nerf_renderer":
            expected = 1, "more than one nerf_renderer runs in /omniad; end all but one"
            system.robot.until(lambda: system.level(node)[:2] == expected, what="the renderer's own notice")
    finally:
        second.stop(PATIENCE)
    system.healthy()


@pytest.mark.parametrize(
    "topic, kind, words",
    [("odom", Odometry, "sends odometry on /omniad/odom"), ("image", Image, "sends image on /omniad/image"),
     ("camera_info", CameraInfo, "sends camera_info on /omniad/camera_info")],
)  # fmt: skip
def test_a_second_publisher_on_an_inputs_topic(system, topic, kind, words):
    robot, other = system.robot, Participant("other_robot", system.environment)
    system.healthy()
    mute = robot.node.create_publisher(kind, topic, OUTPUT)  # one that never says anything harms nobody
    system.healthy(3)
    publisher = other.node.create_publisher(kind, topic, STREAM if topic == "odom" else OUTPUT)
    says = {"odom": robot.say_odometry, "image": robot.say_image, "camera_info": robot.say_info}[topic]
    real, image = robot.publishers[topic], system.frame(2)

    def both() -> bool:
        """The robot shows a frame, and the other one speaks in between."""
        stamp = robot.show(*system.frame(2))
        robot.publishers[topic] = publisher
        says(stamp + 1, *({"odom": image[1:], "image": image[:1]}.get(topic, ())))
        robot.publishers[topic] = real
        robot.spin(0.3)
        return words in system.level()[1]

    try:
        robot.until(both, what="the notice")
        values = system.level()[2]
        assert system.level()[0] == 1 and (values["state"], values["why"]) == ("degraded", system.level()[1])
    finally:
        robot.publishers[topic] = real
        other.close()
        robot.node.destroy_publisher(mute)
    robot.next_stamp(1.0)
    system.healthy()


def test_who_takes_anothers_place_is_no_second_one():
    speakers = Speakers()
    for who in ("first", "first", "second", "second"):
        speakers.heard(who)
    assert not speakers.several
    speakers.heard("first")
    assert speakers.several


def test_a_state_that_cannot_be_saved(system):
    system.stop("inspector")
    system.start("inspector", state_file="/proc/nowhere/state.json")
    told(system, "the state cannot be saved to /proc/nowhere/state.json")
    system.stop("inspector")
    system.start("inspector")
    system.healthy()


@pytest.mark.parametrize("width, height", [(1, 1), (20, 15), (90, 120)])
def test_a_reference_of_another_size_than_was_asked_for(system, width, height):
    """By what answers in the renderer's place."""
    robot = system.robot
    system.stop("nerf_renderer")
    publishers = {topic: robot.node.create_publisher(Image, topic, OUTPUT) for topic in REFERENCE}

    def answer(request: PoseStamped) -> None:
        for topic, publisher in publishers.items():
            shape = (height, width) if topic != "reference/image" else (height, width, 3)
            pixels = np.ones(shape, np.float32 if topic == "reference/depth" else np.uint8)
            publisher.publish(messages.image_message(pixels, request.header))

    listening = robot.node.create_subscription(PoseStamped, "reference/request", answer, OUTPUT)
    try:
        end = time.monotonic() + PATIENCE
        while f"reference views are refused: {width}x{height} is no view" not in system.level()[1]:
            assert time.monotonic() < end, system.level()
            stamp, state, why = robot.inspect(*system.frame(5))
        assert state == "degraded" and "reference" in why and robot.answer("heatmap", stamp)
    finally:
        for entity in publishers.values():
            robot.node.destroy_publisher(entity)
        robot.node.destroy_subscription(listening)
    system.start("nerf_renderer")
    system.healthy()
