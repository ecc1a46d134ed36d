"""The nodes as processes over DDS: the main chain, and each fault that a patrol stack must survive."""

import json
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseWithCovarianceStamped, Quaternion
from nodes_robot import PATIENCE, displayed
from nodes_system import TIMEOUT, System
from rclpy.serialization import serialize_message
from safetensors.numpy import load_file, save_file
from sensor_msgs.msg import CompressedImage, PointCloud2
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import String
from std_srvs.srv import Trigger

from omniad_ros.core.files import read_json, sha256, write_json
from omniad_ros.core.geometry import Pose
from omniad_ros.patrol.pipeline import SETTLED
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import messages, processes
from omniad_ros.ros.managed import LATCHED, OUTPUT
from omniad_ros.ros.participant import Participant


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
    heatmap = decoding.depth_from_image(robot.answer("heatmap", stamp))
    mask_message = robot.answer("mask", stamp)
    mask = decoding.image_to_rgb(mask_message)[..., 0]
    overlay = robot.answer("overlay", stamp)
    assert heatmap.shape == mask.shape == image.shape[:2]
    assert np.isfinite(heatmap).all() and heatmap.min() >= 0 and heatmap.max() <= 1
    assert mask_message.encoding == "mono8" and set(np.unique(mask)) <= {0, 128, 255}
    assert overlay.encoding == "rgb8" and overlay.header.frame_id == "camera"
    refined = robot.answer("pose", stamp)
    metres, degrees = decoding.pose_from_message(refined.pose.pose).distance(pose)
    assert refined.header.frame_id == "map" and metres < 0.05 and degrees < 2
    assert all(refined.pose.covariance[i] > 0 for i in range(0, 36, 7))
    reference, depth = robot.answer("reference/image", stamp), robot.answer("reference/depth", stamp)
    assert reference.encoding == "rgb8" and depth.encoding == "32FC1"
    assert np.isfinite(decoding.depth_from_image(depth)).mean() > 0.1
    assert robot.heard["map_points"][-1].width > 500  # latched: it was published before this subscriber came
    assert robot.heard["route"][-1].poses
    values = system.level()[2]
    assert {"inliers", "dropped", "ms localize", "ms render", "ms detect", "ms total"} <= values.keys()


def test_what_rviz_shows_is_published_under_these_names_and_types(system):
    robot, root = system.robot, Path(__file__).resolve().parents[1]
    displays = yaml.safe_load((root / "config" / "inspect.rviz").read_text())["Visualization Manager"]["Displays"]
    types = {"PoseWithCovariance": "PoseWithCovarianceStamped"}  # others have the display's name
    for display in (display for display in displays if "Topic" in display):
        kind, topic = display["Class"].split("/")[1], display["Topic"]["Value"]
        expected = {types.get(kind, kind)}

        def published(topic=topic, expected=expected) -> bool:
            return {i.topic_type.split("/")[-1] for i in robot.node.get_publishers_info_by_topic(topic)} == expected

        robot.until(published, what=f"{topic} as {expected}")


def test_markers_appear_and_are_deleted(system):
    robot = system.robot
    system.track()
    robot.until(lambda: {ns for ns, _ in displayed(robot.heard["markers"])} == {"tracks", "labels"}, what="markers")
    # nobody would delete the markers of a node that is not active
    assert robot.change("inspector", "deactivate")
    robot.until(lambda: not displayed(robot.heard["markers"]), what="the markers' deletion")
    assert robot.change("inspector", "activate")

    def shown_again() -> bool:
        robot.inspect(*system.planted(0))
        return bool(displayed(robot.heard["markers"]))

    robot.until(shown_again, what="the markers of the same tracks")
    assert robot.set("inspector", "threshold", 0.0)[0]
    assert robot.trigger("inspector/reset").success
    robot.until(lambda: not displayed(robot.heard["markers"]), what="the markers' deletion")


def test_parameters_are_described_and_wrong_values_refused(system):
    robot = system.robot
    threshold, fixed = robot.describe("inspector", "threshold"), robot.describe("inspector", "map_frame")
    assert threshold.description and threshold.floating_point_range[0].to_value == 1.0 and not threshold.read_only
    assert fixed.description and fixed.read_only
    for name, value in (("threshold", 2.0), ("threshold", float("nan")), ("max_rate", -1.0), ("threshold", "high"), ("map_frame", "elsewhere"),
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
    robot.until(lambda: "disabled" in system.level()[1], what="the notice that it is disabled")
    stamp = robot.show(image, pose)
    robot.spin(1.0)
    assert not robot.has("heatmap", stamp)
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
    began, since = len(system.nodes["inspector"].lines), time.monotonic()

    def warned(text: str, say) -> None:
        """Say it until it is warned of; a message may be lost."""
        end = time.monotonic() + PATIENCE
        while not system.said("inspector", text, began):
            assert time.monotonic() < end, f"no warning of {text}"
            say()
            robot.spin(0.1)

    for field, changes in IMAGE_DEFECTS.items():
        warned(
            f"image is ignored: {field}", lambda changes=changes: [robot.show(image, pose, **changes) for _ in range(3)]
        )
    warned("camera_info is ignored: k is singular", lambda: robot.say_info(robot.next_stamp(), k=np.zeros(9)))
    bad_odometry = {
        "pose.pose.position": {"pose__pose__position__x": float("nan")},
        "pose.pose.orientation": {"pose__pose__orientation": Quaternion(x=0.0, y=0.0, z=0.0, w=3.0)},
        "child_frame_id": {"child_frame_id": "arm"},
    }
    for field, changes in bad_odometry.items():
        warned(
            f"odom is ignored: {field}", lambda changes=changes: robot.say_odometry(robot.next_stamp(), pose, **changes)
        )
    flat = []
    warned("camera_info says", lambda: flat.append(robot.show(np.ascontiguousarray(image[::2]), pose)))
    assert not any(robot.has("heatmap", stamp) for stamp in flat)
    each = 1 + (time.monotonic() - since) // 10  # one in ten seconds
    for field in IMAGE_DEFECTS:
        assert len(system.said("inspector", f"image is ignored: {field} ", began)) <= each + (field == "width"), field
    assert robot.inspect(image, pose)[1] == "ok"

    def told() -> bool:  # what was said of the last good frame does not hold for ever
        robot.show(image, pose, encoding="banana")
        robot.spin(0.2)
        return system.level()[0] == 3 and "is refused: encoding 'banana'" in system.level()[1]

    robot.until(told, what="the notice that every image is refused")
    system.healthy()


def test_fuzzed_image_messages_leave_the_node_working(system):
    robot, rng = system.robot, np.random.default_rng(0)
    image, _pose = system.frame(7)
    whole = messages.image_message(image, robot.header(robot.next_stamp(), "camera"))
    raw = np.frombuffer(serialize_message(whole), np.uint8)
    for _ in range(1000):  # on the wire: any byte may be wrong, and the end may be missing
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
    stamp = robot.show(image, pose)
    robot.spin(1.0)
    assert not robot.has("heatmap", stamp)
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
    system.healthy(9)
    assert robot.set("inspector", "reference_timeout", 1.0)[0]
    system.nodes["nerf_renderer"].send(signal.SIGKILL)
    system.nodes["nerf_renderer"].wait(PATIENCE)
    stamp, state, why = robot.inspect(image, pose)
    assert state == "degraded" and "reference" in why
    assert decoding.depth_from_image(robot.answer("heatmap", stamp)).shape == image.shape[:2]
    assert robot.set("inspector", "reference_timeout", TIMEOUT)[0]
    # a dead renderer is not waited for again and again
    assert robot.inspect(*system.frame(10))[1] == "degraded" and float(system.level()[2]["ms render"]) < 500 * TIMEOUT
    system.start("nerf_renderer")
    back = time.monotonic()
    system.healthy(11)
    took = time.monotonic() - back
    print(f"full inspection {took:.1f} s after the renderer is back")
    assert took < 20 * max(1.0, system.seconds(12))  # docs/nodes.md has the figure of an idle machine


def test_a_renderer_of_another_site_is_said_and_its_views_are_not_used(system, tiny_site, tmp_path):
    robot, other = system.robot, tmp_path / "site"
    shutil.copytree(tiny_site, other)
    weights = other / "radiance" / "weights.safetensors"
    save_file(load_file(weights), weights, {"of": "another site"})
    manifest = read_json(other / "site.json")
    write_json(
        other / "site.json",
        {**manifest, "files": {**manifest["files"], "radiance/weights.safetensors": sha256(weights)}},
    )
    system.stop("nerf_renderer")
    system.start("nerf_renderer", site=str(other))
    robot.until(
        lambda: robot.inspect(*system.frame(4))[1] == "degraded" and "another site" in system.level()[1],
        what="its notice",
    )
    system.stop("nerf_renderer")
    system.start("nerf_renderer")
    system.healthy()


def test_a_camera_faster_than_the_work(system):
    robot = system.robot
    system.healthy()
    dropped, alone, shown = int(system.level()[2]["dropped"]), system.seconds(12), []

    def swamped() -> bool:
        shown.append(robot.show(*system.frame(12), stamp=robot.next_stamp(0.001)))
        robot.spin(alone / (3 + len(shown) / 10))
        return len(shown) >= 30 and int(system.level()[2]["dropped"]) > dropped

    robot.until(swamped, what="a dropped frame")
    robot.answer("heatmap", shown[-1])  # the newest frame is never the one that is dropped
    answered = [decoding.nanoseconds(m.header.stamp) for m in robot.heard["heatmap"]]
    answered = [stamp for stamp in answered if stamp in shown]
    assert answered == sorted(answered) and len(answered) < len(shown)  # none was queued and answered late


def test_silent_sensors_are_said_within_two_seconds(system):
    robot = system.robot
    image, _ = system.frame(14)
    system.healthy()
    robot.until(lambda: system.level()[0] == 3 and "no image for" in system.level()[1], PATIENCE, "stale")
    seconds = int(re.search(r"no image for (\d+) s", system.level()[1]).group(1))
    assert seconds <= 2 + os.getloadavg()[0]  # when it was first said; a busy machine may come to it late

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
            stamp, state, why = robot.inspect(image, pose, stamp=base + index * 300_000_000)
            states.append((state, why))
            if state == "ok":
                refined = decoding.pose_from_message(robot.answer("pose", stamp).pose.pose)
                assert refined.distance(pose)[0] < 0.1
        assert states[-1][0] == "ok", states
    image, pose = system.frame(17)
    stamp = robot.next_stamp()
    robot.say_odometry(stamp - hour, pose)  # an image whose odometry is an hour old is not paired with it
    if robot.inspect(image, None, stamp)[1] == "ok":
        assert decoding.pose_from_message(robot.answer("pose", stamp).pose.pose).distance(pose)[0] < 0.1
    system.healthy()

    def without_pair() -> bool:  # camera and odometry whose clocks differ
        image, pose = system.frame(int(time.monotonic()))
        stamp = robot.next_stamp()
        robot.say_odometry(stamp, pose)
        robot.say_info(stamp)
        robot.say_image(stamp + hour, image)
        robot.spin(0.3)
        return system.level()[0] == 1 and "share a clock" in system.level()[1]

    robot.until(without_pair, what="the notice that images have no odometry")
    robot.next_stamp(1.0)
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
            found.append(decoding.pose_from_message(robot.answer("pose", stamp).pose.pose).distance(pose)[0])
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
    system.stop("inspector")
    system.start("inspector", compressed=True)
    image, pose = system.frame(27)
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()

    def inspected() -> bool:
        stamp = robot.next_stamp()
        robot.say_odometry(stamp, pose)
        robot.say_info(stamp)
        message = CompressedImage(header=robot.header(stamp, "camera"), format="jpeg", data=data)
        robot.publishers["image/compressed"].publish(message)
        robot.spin(0.5)
        return system.level()[2].get("state") == "ok"

    robot.until(inspected, PATIENCE, "a compressed frame")
    system.stop("inspector")
    system.start("inspector")
    system.healthy()


def test_a_report_on_request_and_a_full_disk_leaves_the_old_report_and_state_whole(system):
    robot, inspector = system.robot, system.nodes["inspector"]
    answer = robot.trigger("inspector/save_report")
    page, state = system.folder / "report" / "index.html", system.folder / "state.json"
    assert answer.success and str(page) in answer.message
    robot.until(state.is_file, what="the saved state")
    old = page.read_bytes()
    assert len(old) > 5000
    json.loads(state.read_text())
    unlimited = resource.prlimit(inspector.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(inspector.pid, resource.RLIMIT_FSIZE, (100, unlimited[1]))  # as if the disk had no room for more
    try:
        answer = robot.trigger("inspector/save_report")
        assert not answer.success and "report" in answer.message

        def noticed() -> list[str]:
            robot.inspect(*system.frame(28))
            return system.said("inspector", "the state cannot be saved")

        robot.until(noticed, what="the warning")
    finally:
        resource.prlimit(inspector.pid, resource.RLIMIT_FSIZE, unlimited)
    assert page.read_bytes() == old and json.loads(state.read_text())["statistics"]["frames"] > 0
    assert sorted(path.name for path in page.parent.iterdir()) == ["index.html"]
    assert robot.trigger("inspector/save_report").success
    system.healthy()


def test_the_inspector_killed_and_restarted_goes_on_with_its_tracks(system):
    robot = system.robot
    system.track()
    state, written = system.folder / "state.json", time.time()
    frames = iter(range(10**6))

    def saved_since() -> bool:  # it is saved every few seconds
        robot.inspect(*system.planted(next(frames)))
        return state.is_file() and state.stat().st_mtime > written

    robot.until(saved_since, what="the saved state")
    system.nodes["inspector"].send(signal.SIGKILL)
    system.nodes["inspector"].wait(PATIENCE)
    left = json.loads(state.read_text())
    saved = {track["id"] for track in left["tracker"]["tracks"] if track["confirmed"]}
    assert saved and left["statistics"]["frames"] > 0
    shown = {("tracks", 999), ("labels", 999)}  # what RViz may still show of the killed one
    robot.spin(0.5)
    robot.heard["markers"].clear()
    system.start("inspector", threshold=1.0)
    expected = {(ns, track) for ns in ("tracks", "labels") for track in saved}

    def same_as_before() -> bool:
        robot.inspect(*system.planted(0))
        return displayed(robot.heard["markers"], shown) == expected

    robot.until(same_as_before, what="the tracks of the killed inspector")


def test_a_verdict_silences_its_finding_at_once(system):
    robot = system.robot
    system.track()
    frames = iter(range(10**6))

    def labels() -> list[str]:
        robot.inspect(*system.planted(next(frames)))
        arrays = robot.heard["markers"]
        shown = {key for key in displayed(arrays) if key[0] == "labels"}
        return [m.text for a in arrays for m in a.markers if (m.ns, m.id) in shown and m.text.startswith("F")]

    robot.until(labels, what="a label with a finding's name")
    names = {text.split()[0] for text in labels()}
    assert all(text.split(" ", 1)[1].startswith(("new:", "still there:")) for text in labels())
    for name in names:
        robot.publishers["inspector/verdict"].publish(String(data=f"{name} accepted the ball stays"))
    robot.publishers["inspector/verdict"].publish(String(data="nonsense"))

    def silent() -> bool:
        stamp, *_ = robot.inspect(*system.planted(next(frames)))
        return not displayed(robot.heard["markers"]) and SETTLED in robot.answer("mask", stamp).data

    robot.until(silent, what="no marker, and a settled place in the mask")
    assert system.said("inspector", "is no verdict")
    for name in names:
        robot.publishers["inspector/verdict"].publish(String(data=f"{name} undo"))
    robot.until(labels, what="the label after the verdict was taken back")


def test_patrols_begin_and_end_when_asked_and_tell_what_they_saw(system):
    robot = system.robot
    system.track()
    begun = robot.trigger("inspector/begin_patrol")
    assert begun.success and "has begun" in begun.message
    system.healthy()
    assert system.level()[2]["tracks"] == "0" and 0 < float(system.level()[2]["inspected %"]) < 100
    client = robot.node.create_client(Trigger, "inspector/look")
    asked = client.call_async(Trigger.Request())
    frames = iter(range(10**6))

    def looked() -> bool:
        robot.inspect(*system.frame(next(frames)))
        return asked.done()

    robot.until(looked, what="the answer to look")
    robot.node.destroy_client(client)
    assert asked.result().success and asked.result().message == "ok: nothing in view differs"

    def grids() -> bool:
        robot.inspect(*system.frame(next(frames)))
        return robot.heard["coverage"] and robot.heard["findings"]

    robot.until(grids, what="the floor")
    coverage, findings = robot.heard["coverage"][-1], robot.heard["findings"][-1]
    assert coverage.header.frame_id == "map" and coverage.info == findings.info
    assert max(coverage.data) == 100 and min(coverage.data) == -1 and set(findings.data) == {0}
    ended = robot.trigger("inspector/end_patrol")
    assert ended.success and "is over: nothing found" in ended.message and "% of the map inspected" in ended.message
    assert robot.trigger("inspector/end_patrol").message.startswith("no patrol was kept")
    system.healthy()  # frames are inspected all the same
    assert robot.trigger("inspector/begin_patrol").success


def test_a_robot_that_is_carried_away_is_told_where_it_is(system):
    robot = system.robot
    system.healthy()
    said = PoseWithCovarianceStamped(header=robot.header(robot.next_stamp(), "odom"))
    robot.publishers["/initialpose"].publish(said)
    robot.until(lambda: system.said("inspector", "initialpose is ignored"), what="the refusal")
    _, pose = system.frame(9)
    said = PoseWithCovarianceStamped(header=robot.header(robot.next_stamp(), "map"))
    said.pose.pose = messages.pose_message(pose @ robot.base_from_camera.inverse())
    robot.publishers["/initialpose"].publish(said)
    robot.until(lambda: system.said("inspector", "where initialpose says"), what="the notice")
    system.healthy(9)


def test_both_nodes_take_another_site_without_a_restart_and_keep_theirs_where_that_cannot_be_used(system, tmp_path):
    robot = system.robot
    shutil.copytree(system.site, tmp_path / "copy")
    for node in ("nerf_renderer", "inspector"):
        assert robot.set(node, "site", str(tmp_path / "nowhere"))[0]
        refused = robot.trigger(f"{node}/reload")
        assert not refused.success and "is not a site" in refused.message
        assert robot.set(node, "site", str(tmp_path / "copy"))[0]
    system.healthy()
    (system.folder / "state.json").unlink(missing_ok=True)
    for node in ("nerf_renderer", "inspector"):
        answer = robot.trigger(f"{node}/reload")
        assert answer.success and "copy is loaded" in answer.message, answer.message
    system.healthy()
    for node in ("nerf_renderer", "inspector"):
        assert robot.set(node, "site", system.site)[0]
        (system.folder / "state.json").unlink(missing_ok=True)
        assert robot.trigger(f"{node}/reload").success
    system.healthy()


def test_a_viewer_records_images_map_camera_and_tracks(system, tmp_path):
    rerun = pytest.importorskip("rerun", reason="the viewer is an extra: pip install .[viewer]")
    from omniad_ros.ros.viewer import Viewer

    file = tmp_path / "patrol.rrd"
    viewer = Viewer({"image": "image", "camera_info": "camera_info"}, environment=system.environment, file=file)
    expected = {
        "/heatmap",
        "/reference",
        "/map/points",
        "/map/camera",
        "/map/camera/frame",
        "/map/tracks",
        "/state",
        "/ms/total",
    }
    logged, pictures, log = set(), set(), viewer._recording.log

    def told(entity, *parts, **options) -> None:
        logged.add(f"/{entity}")
        pictures.update(f"/{entity}" for part in parts if "Image" in type(part).__name__)
        log(entity, *parts, **options)

    viewer._recording.log = told

    # what cannot be shown is left out, and the view goes on
    other = Participant("forger", system.environment)
    forged = [(PointCloud2, "map_points", PointCloud2(data=b"123")), (ImageMessage, "heatmap", ImageMessage(encoding="none")),
              (DiagnosticArray, "/diagnostics", DiagnosticArray(status=[DiagnosticStatus(
                  hardware_id="/omniad/x", level=b"\0", values=[KeyValue(key="stamp", value="now")])]))]  # fmt: skip
    for kind, topic, message in forged:
        publisher = other.node.create_publisher(kind, topic, LATCHED if topic == "map_points" else OUTPUT)
        end = time.monotonic() + 30
        while not publisher.get_subscription_count() and time.monotonic() < end:
            viewer.spin(0.01)
        publisher.publish(message)
    for _ in range(100):
        viewer.spin(0.01)
    other.close()

    def everything() -> bool:
        system.robot.inspect(*system.planted(int(time.monotonic())))
        for _ in range(50):
            viewer.spin(0.01)
        return expected <= logged and {"/map/camera/frame", "/reference", "/heatmap"} <= pictures

    try:
        system.robot.until(everything, what="all that the viewer shows")
    finally:
        viewer.close()
    schema = rerun.dataframe.load_recording(file).schema()
    assert expected <= {column.entity_path for column in schema.component_columns()}
    assert "time" in {column.name for column in schema.index_columns()}


def test_without_rerun_the_viewer_says_what_to_do(monkeypatch):
    import sys

    from omniad_ros.core.feedback import OmniadError
    from omniad_ros.ros.viewer import Viewer

    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(OmniadError, match="pip install"):
        Viewer({"image": "image", "camera_info": "camera_info"})


def test_a_site_that_cannot_be_trusted_is_refused_until_it_is_mended(system, tiny_site, tmp_path):
    robot = system.robot
    copy = tmp_path / "site"
    shutil.copytree(tiny_site, copy)
    weights = next((copy / "detector").glob("*.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    system.stop("inspector")
    system.start("inspector", wait=False, site=str(copy), state_file="")
    robot.until(lambda: "altered" in system.level()[1], PATIENCE, "the refusal")
    assert system.level()[0] == 2 and robot.lifecycle("inspector") == "unconfigured"
    assert not system.said("inspector", "Traceback")
    weights.write_bytes(whole)
    assert robot.change("inspector", "configure") and robot.change("inspector", "activate")
    system.healthy()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_still_loading_ends_cleanly(system, number):
    for wait in (0.3, 1.5):
        process = processes.start(
            "inspector", {"site": system.site}, namespace="/second", environment=system.environment
        )
        time.sleep(wait)
        process.send(number)
        assert process.wait(PATIENCE) == 0 and not list(process.lines)


def test_all_end_cleanly_and_say_nothing_wrong(system):
    for name, process in system.nodes.items():
        assert system.stop(name) == 0, (name, list(process.lines))
        assert not system.said(name, "Traceback"), list(process.lines)
