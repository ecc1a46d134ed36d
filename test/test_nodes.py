"""The nodes as processes over DDS: the main chain, and each fault that a patrol stack must survive."""

import json
import os
import re
import shutil
import signal
import time

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from geometry_msgs.msg import Quaternion
from nodes_robot import Robot
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import Marker

from omniad_ros.geometry import Pose
from omniad_ros.nodes import messages, processes
from omniad_ros.site import Site

TIMEOUT = 15.0
"""Seconds that the inspector waits for the renderer here; a busy machine must not look like a dead renderer."""
PATIENCE = 180.0
"""For the start of a process: torch alone takes seconds, on a busy machine a minute."""


class System:
    """Inspector and renderer of the tiny site, and a robot with the survey's own pictures."""

    def __init__(self, site: str, folder):
        self.site, self.folder = site, folder
        self.environment = processes.private_environment()
        self.survey = Site.open(site, verify=False).mapped
        self.robot = Robot(self.environment, self.survey.camera)
        self.nodes: dict[str, processes.NodeProcess] = {}

    def start(self, node: str, wait: bool = True, **parameters) -> None:
        if node == "inspector":
            parameters = {
                "reference_timeout": TIMEOUT, "longest_side": 160, "report_directory": str(self.folder / "report"),
                "state_file": str(self.folder / "state.json"), **parameters,
            }  # fmt: skip
        else:
            parameters = {"longest_side": 160, **parameters}
        self.robot.status.pop(node, None)
        self.nodes[node] = processes.start(node, {"site": self.site, **parameters}, environment=self.environment)
        if wait:
            self.wait_active(node)

    def wait_active(self, node: str) -> None:
        self.robot.until(
            lambda: self.level(node)[2].get("lifecycle") == "active" or self.level(node)[0] == 2,
            PATIENCE,
            f"{node} active",
        )
        assert self.level(node)[0] != 2, self.level(node)

    def level(self, node: str = "inspector"):
        return self.robot.status.get(node, (None, "", {}))

    def frame(self, index: int) -> tuple[np.ndarray, Pose]:
        index %= len(self.survey)
        return self.survey.image(index), self.survey.poses[index]

    def planted(self, index: int) -> tuple[np.ndarray, Pose]:
        """A frame that shows a ball where there is none."""
        image, pose = self.frame(index)
        place = np.median(Site.open(self.site, verify=False).sparse_points.xyz, axis=0).astype(float)
        u, v = self.survey.camera.project(pose.inverse().apply(place))
        radius = 0.12 * self.survey.camera.fx / np.linalg.norm(pose.translation - place)
        return cv2.circle(image, (round(float(u)), round(float(v))), round(radius), (255, 0, 255), -1), pose

    def track(self) -> int:
        """Show something that was added until it is a track; returns how many tracks there are then."""
        assert self.robot.trigger("inspector/reset").success
        assert self.robot.set("inspector", "threshold", 0.3)[0]
        for index in range(40):
            self.robot.inspect(*self.planted(index))
            if int(self.level()[2]["tracks"]) > 0:
                return int(self.level()[2]["tracks"])
        raise AssertionError("no track")

    def healthy(self, start: int = 0) -> None:
        """Bring the running nodes back to full inspection of good frames; they take a moment to discover each other."""
        states, end = [], time.monotonic() + PATIENCE
        while time.monotonic() < end:
            states.append(self.robot.inspect(*self.frame(start + len(states)))[1:])
            if states[-1][0] == "ok":
                return
            self.robot.spin(0.2)
        raise AssertionError(f"no frame is fully inspected: {states[-12:]}, {self.robot.status}")

    def seconds(self, index: int) -> float:
        """What one frame takes now, from its image to its heatmap: the measure for what is judged by time."""
        began = time.monotonic()
        stamp = self.robot.inspect(*self.frame(index))[0]
        self.robot.answer("heatmap", stamp)
        return time.monotonic() - began

    def said(self, node: str, text: str, since: int = 0) -> list[str]:
        return [line for line in list(self.nodes[node].lines)[since:] if text in line]

    def close(self) -> None:
        processes.stop_all(list(self.nodes.values()))
        self.robot.close()


@pytest.fixture(scope="module")
def system(tiny_site, tmp_path_factory):
    system = System(str(tiny_site), tmp_path_factory.mktemp("nodes"))
    try:
        system.start("nerf_renderer", wait=False)
        system.start("inspector", wait=False)
        system.wait_active("nerf_renderer")
        system.wait_active("inspector")
        system.healthy()
        yield system
    finally:
        system.close()


def test_a_frame_gives_every_output_with_its_stamp(system):
    robot = system.robot
    image, pose = system.frame(3)
    stamp, state, message = robot.inspect(image, pose)
    assert (state, message) == ("ok", "")
    heatmap = messages.depth_from_image(robot.answer("heatmap", stamp))
    mask_message = robot.answer("mask", stamp)
    mask = messages.image_to_rgb(mask_message)[..., 0]
    overlay = robot.answer("overlay", stamp)
    assert heatmap.shape == mask.shape == image.shape[:2]
    assert np.isfinite(heatmap).all() and heatmap.min() >= 0 and heatmap.max() <= 1
    assert mask_message.encoding == "mono8" and set(np.unique(mask)) <= {0, 128, 255}
    assert overlay.encoding == "rgb8" and overlay.header.frame_id == "camera"
    refined = robot.answer("pose", stamp)
    metres, degrees = messages.pose_from_message(refined.pose.pose).distance(pose)
    assert refined.header.frame_id == "map" and metres < 0.05 and degrees < 2
    assert all(refined.pose.covariance[i] > 0 for i in range(0, 36, 7))
    reference, depth = robot.answer("reference/image", stamp), robot.answer("reference/depth", stamp)
    assert reference.encoding == "rgb8" and depth.encoding == "32FC1"
    assert np.isfinite(messages.depth_from_image(depth)).mean() > 0.1
    assert robot.heard["map_points"][-1].width > 500  # latched: it was published before this subscriber came
    assert robot.heard["route"][-1].poses
    values = system.level()[2]
    assert {"inliers", "dropped", "ms localize", "ms render", "ms detect", "ms total"} <= values.keys()


def test_markers_appear_and_are_deleted(system):
    robot = system.robot
    ids = set()

    def apply(array) -> None:  # as RViz does
        for marker in array.markers:
            if marker.action == Marker.DELETEALL:
                ids.clear()
            elif marker.action == Marker.DELETE:
                ids.discard((marker.ns, marker.id))
            else:
                assert marker.header.frame_id == "map" and min(marker.scale.x + marker.scale.z, 1) > 0
                ids.add((marker.ns, marker.id))

    before = len(robot.heard["markers"])
    system.track()
    robot.until(lambda: any(m.type == Marker.CUBE for m in robot.heard["markers"][-1].markers), 60, "a marker")
    for array in robot.heard["markers"][:]:
        apply(array)
    assert len(robot.heard["markers"]) > before and {ns for ns, _ in ids} == {"tracks", "labels"}
    assert robot.set("inspector", "threshold", 0.0)[0]
    answer = robot.trigger("inspector/reset")
    assert answer.success
    robot.until(
        lambda: robot.heard["markers"][-1].markers and robot.heard["markers"][-1].markers[0].action == Marker.DELETEALL
    )
    for array in robot.heard["markers"]:
        apply(array)
    assert not ids


def test_parameters_are_described_and_wrong_values_refused(system):
    robot = system.robot
    threshold, site = robot.describe("inspector", "threshold"), robot.describe("inspector", "site")
    assert threshold.description and threshold.floating_point_range[0].to_value == 1.0 and not threshold.read_only
    assert site.description and site.read_only
    for name, value in (("threshold", 2.0), ("threshold", float("nan")), ("max_rate", -1.0), ("threshold", "high"), ("site", "/elsewhere"),
                        ("false_alarm_rate", 1.0)):  # fmt: skip
        accepted, reason = robot.set("inspector", name, value)
        assert not accepted and reason, (name, value)
    assert robot.set("inspector", "false_alarm_rate", 0.5)[0] and robot.set("inspector", "false_alarm_rate", 0.0)[0]


def test_run_time_parameters_work_while_active(system):
    robot = system.robot
    image, pose = system.frame(5)
    assert robot.set("inspector", "threshold", 0.0001)[0]
    stamp, _, _ = robot.inspect(image, pose)
    anomalous = (np.array(robot.answer("mask", stamp).data) == 255).mean()
    assert robot.set("inspector", "threshold", 1.0)[0]
    stamp, _, _ = robot.inspect(image, pose)
    assert anomalous > 0.02 > (np.array(robot.answer("mask", stamp).data) == 255).mean()
    assert robot.set("inspector", "threshold", 0.0)[0]
    assert robot.set("inspector", "enabled", False)[0]
    stamp = robot.show(image, pose)
    robot.spin(1.5)
    assert not any(m.header.stamp == messages.to_stamp(stamp) for m in robot.heard["heatmap"])
    assert "disabled" in system.level()[1]
    assert robot.set("inspector", "enabled", True)[0]
    assert robot.inspect(image, pose)[1] == "ok"


IMAGE_DEFECTS = {
    "width": {"width": 0}, "height": {"height": 0}, "encoding": {"encoding": "banana"}, "step": {"step": 3},
    "data": {"data": b"\x00\x01"}, "header.stamp": {"header__stamp__sec": 0, "header__stamp__nanosec": 0},
    "header.frame_id": {"header__frame_id": "gripper"},
}  # fmt: skip


def test_bad_messages_get_one_warning_that_names_the_field_and_the_next_good_one_works(system):
    robot = system.robot
    image, pose = system.frame(6)
    began = len(system.nodes["inspector"].lines)
    for field, changes in IMAGE_DEFECTS.items():
        for _ in range(3):
            robot.show(image, pose, **changes)
            robot.spin(0.05)
        robot.until(
            lambda field=field: system.said("inspector", f"image is ignored: {field}", began), 60, f"warning of {field}"
        )
    robot.say_info(robot.next_stamp(), k=np.zeros(9))
    robot.until(lambda: system.said("inspector", "camera_info is ignored: k is singular", began))
    bad_odometry = {
        "pose.pose.position": {"pose__pose__position__x": float("nan")},
        "pose.pose.orientation": {"pose__pose__orientation": Quaternion(x=0.0, y=0.0, z=0.0, w=3.0)},
        "child_frame_id": {"child_frame_id": "arm"},
    }
    for field, changes in bad_odometry.items():
        robot.say_odometry(robot.next_stamp(), pose, **changes)
        robot.until(
            lambda field=field: system.said("inspector", f"odom is ignored: {field}", began), 60, f"warning of {field}"
        )
    small = robot.show(np.ascontiguousarray(image[::2, ::2]), pose)
    robot.until(lambda: system.said("inspector", "camera_info says", began))
    assert not any(m.header.stamp == messages.to_stamp(small) for m in robot.heard["heatmap"])
    for field in IMAGE_DEFECTS:
        assert len(system.said("inspector", f"image is ignored: {field} ", began)) <= 1 + (field == "width"), field
    assert robot.inspect(image, pose)[1] == "ok"


def test_fuzzed_image_messages_leave_the_node_working(system):
    robot, rng = system.robot, np.random.default_rng(0)
    image, _pose = system.frame(7)
    whole = messages.image_message(image, robot.header(robot.next_stamp(), "camera"))
    raw = np.frombuffer(serialize_message(whole), np.uint8)
    for _ in range(300):  # on the wire: any byte may be wrong, and the end may be missing
        damaged = raw[: 4 + int(rng.integers(len(raw)))].copy() if rng.random() < 0.3 else raw.copy()
        damaged[rng.integers(4, min(len(damaged), 80), 4)] = rng.integers(0, 256, 4)
        robot.publishers["image"].publish(damaged.tobytes())
        robot.executor.spin_once(timeout_sec=0.002)
    system.healthy()
    assert system.nodes["inspector"].returncode is None


def test_lifecycle_transitions(system):
    robot = system.robot
    image, pose = system.frame(8)
    assert robot.lifecycle("inspector") == "active"
    assert robot.change("inspector", "deactivate") and robot.lifecycle("inspector") == "inactive"
    heard = len(robot.heard["heatmap"])
    robot.show(image, pose)
    robot.spin(1.0)
    assert len(robot.heard["heatmap"]) == heard
    assert robot.change("inspector", "activate")
    system.healthy()
    for transition, state in (
        ("deactivate", "inactive"),
        ("cleanup", "unconfigured"),
        ("configure", "inactive"),
        ("activate", "active"),
    ):
        assert robot.change("inspector", transition) and robot.lifecycle("inspector") == state
    system.healthy()
    assert not robot.change("inspector", "configure")  # not from active
    assert robot.lifecycle("inspector") == "active"


def test_the_renderer_killed_and_restarted(system):
    robot = system.robot
    image, pose = system.frame(9)
    assert robot.set("inspector", "reference_timeout", 1.0)[0]
    system.nodes["nerf_renderer"].send(signal.SIGKILL)
    system.nodes["nerf_renderer"].wait(5)
    stamp, state, why = robot.inspect(image, pose)
    assert state == "degraded" and "reference" in why
    assert messages.depth_from_image(robot.answer("heatmap", stamp)).shape == image.shape[:2]
    waited = float(system.level()[2]["ms render"])
    robot.inspect(*system.frame(10))
    assert (
        waited > 900 and float(system.level()[2]["ms render"]) < 0.5 * waited
    )  # a dead renderer is not waited for again and again
    assert robot.set("inspector", "reference_timeout", TIMEOUT)[0]
    system.start("nerf_renderer")
    back, frame = time.monotonic(), max(1.0, system.seconds(11))
    system.healthy(11)
    assert time.monotonic() - back < 5.0 * frame


def test_a_camera_faster_than_the_work(system):
    robot = system.robot
    system.healthy()
    dropped = int(system.level()[2]["dropped"])
    alone = min(system.seconds(12), system.seconds(13))
    heard, shown = len(robot.heard["heatmap"]), []
    end = time.monotonic() + 10 * alone
    while time.monotonic() < end:
        shown.append(robot.show(*system.frame(12), stamp=time.time_ns()))
        robot.spin(alone / 3)
    robot.until(lambda: len(robot.heard["heatmap"]) > heard, 60, "an answer")
    answered: list[int] = []
    while (late := [messages.nanoseconds(m.header.stamp) for m in robot.heard["heatmap"][heard:]]) != answered or len(
        late
    ) < 2:
        answered = late
        robot.spin(3 * alone)  # until nothing more is answered
    assert answered == sorted(answered)  # none was queued and answered late
    assert len(answered) < len(shown) and int(system.level()[2]["dropped"]) > dropped
    assert answered[-1] in shown[-3:]  # the last answer is of the newest frames


def test_silent_sensors_are_said_within_two_seconds(system):
    robot = system.robot
    image, _ = system.frame(14)
    system.healthy()
    robot.until(lambda: system.level()[0] == 3 and "no image for" in system.level()[1], PATIENCE, "stale")
    seconds = int(re.search(r"no image for (\d+) s", system.level()[1]).group(1))
    assert seconds <= 2 + os.getloadavg()[0] / os.cpu_count()  # when it was first said

    def without_odometry() -> bool:
        robot.say_info(stamp := robot.next_stamp())
        robot.say_image(stamp, image)
        robot.spin(0.2)
        return system.level()[0] == 3 and "no odometry" in system.level()[1]

    robot.until(without_odometry, PATIENCE, "the missing odometry's notice")

    def whole() -> bool:
        robot.show(*system.frame(int(time.monotonic())))
        robot.spin(0.2)
        return system.level()[0] == 0

    robot.until(whole, PATIENCE, "recovery")


def test_stamps_that_jump_back_and_by_hours(system):
    robot = system.robot
    hour = 3600 * 10**9
    for offset in (-2 * hour, 3 * hour):
        base = robot.next_stamp() + offset
        states = []
        for index in range(6):
            image, pose = system.frame(15 + index % 2)
            stamp = robot.show(image, pose, stamp=base + index * 300_000_000)
            states.append(robot.state_of(stamp)[0])
            metres = (
                messages.pose_from_message(robot.answer("pose", stamp).pose.pose).distance(pose)[0]
                if states[-1] == "ok"
                else 0
            )
            assert metres < 0.1
        assert states[-1] == "ok", states
    image, pose = system.frame(17)
    stamp = robot.next_stamp()
    robot.say_odometry(stamp - hour, pose)  # an image whose odometry is an hour old is not paired with it
    robot.say_info(stamp)
    robot.say_image(stamp, image)
    if robot.state_of(stamp)[0] == "ok":
        assert messages.pose_from_message(robot.answer("pose", stamp).pose.pose).distance(pose)[0] < 0.1
    system.healthy()


def test_kidnapped_or_jumping_odometry_is_found_again_from_the_map_alone(system):
    robot = system.robot
    system.healthy()
    shift = Pose(np.eye(3), np.array([2.0, 0.0, 0.0]))  # from here on odometry is two metres off
    found = []
    for index in range(5):
        image, pose = system.frame(20 + index)
        stamp, state, _ = robot.inspect(image, shift @ pose)
        if state == "ok":
            found.append(messages.pose_from_message(robot.answer("pose", stamp).pose.pose).distance(pose)[0])
        else:
            assert not (np.array(robot.answer("mask", stamp).data) == 255).any() or state == "degraded"
    assert found and max(found) < 0.1
    system.healthy()


def _blurred(image):
    return cv2.GaussianBlur(image, (0, 0), image.shape[1] / 30)


@pytest.mark.parametrize(
    "word, spoil",
    [
        ("black", lambda image: image // 30), ("white", lambda image: 255 - image // 40),
        ("nothing", lambda image: np.full_like(image, 90) + image // 100), ("blurred", _blurred),
    ],
)  # fmt: skip
def test_a_spoilt_frame_is_the_cameras_fault_not_an_anomaly(system, word, spoil):
    robot = system.robot
    image, pose = system.frame(25)
    system.healthy(25)
    stamp, state, message = robot.inspect(spoil(image), pose)
    assert state == "degraded" and word in message
    assert not (np.array(robot.answer("mask", stamp).data) == 255).any()
    system.healthy(25)


def test_a_frozen_camera_is_noticed_once_the_robot_moves(system):
    robot = system.robot
    image, pose = system.frame(26)
    system.healthy(20)
    for _ in range(2):  # standing still, equal frames are in order
        assert "frozen" not in robot.inspect(image, pose)[2]
    moved = Pose(pose.rotation, pose.translation + [0.3, 0.0, 0.0])
    _, state, message = robot.inspect(image, moved)
    assert state == "degraded" and "frozen" in message
    system.healthy()


def test_compressed_images(system):
    robot = system.robot
    system.nodes["inspector"].stop()
    system.start("inspector", compressed=True)
    image, pose = system.frame(27)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

    def inspected() -> bool:
        stamp = robot.next_stamp()
        robot.say_odometry(stamp, pose)
        robot.say_info(stamp)
        message = CompressedImage(header=robot.header(stamp, "camera"), format="jpeg", data=data)
        robot.publishers["image/compressed"].publish(message)
        robot.spin(1.0)
        return system.level()[2].get("state") == "ok"

    robot.until(inspected, PATIENCE, "a compressed frame")
    system.nodes["inspector"].stop()
    system.start("inspector")
    system.healthy()


def test_a_report_on_request_and_the_old_one_stays_when_it_cannot_be_written(system):
    answer = system.robot.trigger("inspector/save_report")
    page = system.folder / "report" / "index.html"
    assert answer.success and str(page) in answer.message
    old = page.read_bytes()
    assert len(old) > 5000
    aside = system.folder / "aside"
    (system.folder / "report").rename(aside)
    (system.folder / "report").write_text("in the way")
    answer = system.robot.trigger("inspector/save_report")
    assert not answer.success and "report" in answer.message
    (system.folder / "report").unlink()
    aside.rename(system.folder / "report")
    assert page.read_bytes() == old


def test_the_inspector_killed_and_restarted_goes_on_with_its_tracks(system):
    robot = system.robot
    system.track()
    state = system.folder / "state.json"
    written = time.time()
    for index in range(60):  # the state is saved every few seconds
        if state.is_file() and state.stat().st_mtime > written:
            break
        robot.inspect(*system.planted(index))
    saved = sum(track["confirmed"] for track in json.loads(state.read_text())["tracker"]["tracks"])
    assert saved > 0
    system.nodes["inspector"].send(signal.SIGKILL)
    system.nodes["inspector"].wait(5)
    system.start("inspector", threshold=1.0)
    robot.heard["markers"].clear()
    robot.inspect(*system.planted(0))
    robot.until(lambda: robot.heard["markers"], 20, "markers")
    first = robot.heard["markers"][0].markers
    assert first[0].action == Marker.DELETEALL  # nothing of the killed one remains in RViz
    assert sum(m.ns == "tracks" and m.action == Marker.ADD for m in first) == saved
    state = json.loads((system.folder / "state.json").read_text())
    assert state["statistics"]["frames"] > 0


def test_a_site_that_cannot_be_trusted_is_refused_until_it_is_mended(system, tiny_site, tmp_path):
    robot = system.robot
    copy = tmp_path / "site"
    shutil.copytree(tiny_site, copy)
    weights = next((copy / "detector").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    system.nodes["inspector"].stop()
    system.start("inspector", wait=False, site=str(copy), state_file="")
    robot.until(lambda: "altered" in system.level()[1], PATIENCE, "the refusal")
    assert system.level()[0] == 2 and robot.lifecycle("inspector") == "unconfigured"
    assert not system.said("inspector", "Traceback")
    weights.write_bytes(whole)
    assert robot.change("inspector", "configure") and robot.change("inspector", "activate")
    system.healthy()


def test_all_end_cleanly_and_say_nothing_wrong(system):
    for name, process in system.nodes.items():
        assert process.stop() == 0, name
        assert not system.said(name, "Traceback"), list(process.lines)
