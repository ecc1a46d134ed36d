"""Under load: many calls of services and fast odometry, while frames come."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from nav_msgs.msg import Odometry
from nodes_robot import PATIENCE
from nodes_system import System
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from omniad_ros.recordings.messages import nanoseconds
from omniad_ros.ros import messages, processes
from omniad_ros.ros.managed import STREAM
from omniad_ros.ros.participant import Participant
from omniad_ros.ros.stream import Stream

CALLS = 100


@pytest.fixture
def system(tiny_site, tmp_path):
    system = System(str(tiny_site), tmp_path)
    try:
        system.start_both()
        system.healthy()
        yield system
    finally:
        system.close()


@pytest.fixture
def clients(system):
    """Of ~/save_report and ~/reset, with room for all answers."""
    node, qos = system.robot.node, QoSProfile(depth=10 * CALLS)
    clients = [node.create_client(Trigger, f"inspector/{name}", qos_profile=qos) for name in ("save_report", "reset")]
    for client in clients:
        system.robot.until(client.service_is_ready, what="the services")
    system.robot.spin(1.0)  # that it is ready here does not say that it is known there
    return clients


def test_a_hundred_calls_while_frames_come_are_answered_and_so_are_the_frames(system, clients):
    robot, began = system.robot, time.monotonic()
    calls = [clients[index % 2].call_async(Trigger.Request()) for index in range(CALLS)]
    shown, inspected = 0, set()

    def answered() -> bool:
        nonlocal shown
        if time.monotonic() - began > 0.5 * shown:
            robot.show(*system.frame(shown))
            shown += 1
        if "stamp" in system.level()[2]:
            inspected.add(system.level()[2]["stamp"])
        return all(call.done() for call in calls)

    robot.until(answered, what="the answers")
    print(f"{CALLS} calls answered in {time.monotonic() - began:.1f} s, {len(inspected)} of {shown} frames inspected")
    assert all(call.result().success for call in calls), {call.result().message for call in calls}
    assert (system.folder / "report" / "index.html").is_file()
    system.healthy()


@pytest.mark.parametrize("how", ["cleanup", "the end of the process"])
def test_calls_are_answered_whatever_happens_to_the_node(system, clients, how):
    robot = system.robot
    calls = [clients[index % 2].call_async(Trigger.Request()) for index in range(20)]
    robot.spin(0.3)
    if how == "cleanup":
        assert robot.change("inspector", "deactivate") and robot.change("inspector", "cleanup")
    else:
        system.nodes["inspector"].send(2)
    robot.until(lambda: all(call.done() for call in calls), PATIENCE, "the answers")
    refused = {call.result().message for call in calls if not call.result().success}
    assert all("there is no patrol" in message for message in refused), refused
    if how == "cleanup":
        call = clients[1].call_async(Trigger.Request())
        robot.until(call.done, what="an answer of the node that is not configured")
        assert "unconfigured" in call.result().message
    else:
        assert system.nodes["inspector"].wait(PATIENCE) == 0


def test_fast_odometry_is_thinned_out_off_the_executor():
    """Nobody spins the node that listens: what comes in takes nothing of its executor."""
    participant = Participant("robot", processes.private_environment())
    taken, heard, failed = [], [], []
    stream = Stream(
        participant.node, Odometry, "odom", lambda message, info: taken.append(message), heard.append, failed.append
    )
    publisher = participant.node.create_publisher(Odometry, "odom", STREAM)
    message = Odometry()

    def say(number: int, pause: float) -> None:
        message.header.stamp = messages.to_stamp(number * 1_000_000)
        publisher.publish(message)
        time.sleep(pause)

    def until(condition, number: int = 0) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (len(taken), len(heard), failed)
            say(number, 0.05)

    try:
        until(lambda: taken)
        taken.clear(), heard.clear()
        for number in range(1, 1001):
            say(number, 0.001)
        until(lambda: nanoseconds(taken[-1].header.stamp) == 1001 * 1_000_000, 1001)
        assert len(taken) < 0.5 * len(heard) and len(heard) > 500, (len(taken), len(heard))
        stamps = [nanoseconds(message.header.stamp) / 1e6 for message in taken]
        assert stamps == sorted(stamps) and max(np.diff(stamps)) < 200
        taken.clear()
        for number in range(2000, 2400, 20):  # as a bag of 50 Hz that is played fast: all are taken
            say(number, 0.0)
        until(lambda: nanoseconds(taken[-1].header.stamp) == 2400 * 1_000_000 if taken else False, 2400)
        stamps = {nanoseconds(message.header.stamp) // 1_000_000 for message in taken}
        assert stamps >= set(range(2000, 2400, 20))
        publisher.publish(b"\x00\x01\x00\x00\x05")
        until(lambda: failed)
        taken.clear()
        until(lambda: taken)
    finally:
        stream.destroy()
        participant.close()
