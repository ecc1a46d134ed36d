"""The reference view over DDS: what the renderer publishes is what the library makes, to the bit and at the site's size."""

import shutil

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from geometry_msgs.msg import PoseStamped
from nodes_system import REFERENCE, System

from omniad_ros.building.build import normal_views
from omniad_ros.core.files import read_json, write_json
from omniad_ros.detection import DetectorOptions, train_detector
from omniad_ros.patrol.pipeline import InspectionOptions, Inspector
from omniad_ros.recordings import messages as decoding
from omniad_ros.reference import ReferenceRenderer
from omniad_ros.reference.photographs import PHOTOGRAPHS
from omniad_ros.ros import messages
from omniad_ros.ros.managed import OUTPUT
from omniad_ros.site import Site

SIDE = 96
"""Smaller than the images, and than every default."""


@pytest.fixture(scope="module")
def small_site(tiny_site, tmp_path_factory):
    """The tiny site, looked at in `SIDE` pixels, and again in its photographs' 160."""
    path = shutil.copytree(tiny_site, tmp_path_factory.mktemp("small") / "site")
    write_json(path / "site.json", {**read_json(path / "site.json"), "longest_side": SIDE})
    site = Site.open(path)
    with site.stage("detector", {}) as work:
        options = DetectorOptions(longest_side=SIDE, distillation_steps=10, comparison_steps=10)
        train_detector(normal_views(site, 4, 0), work, options)
    return path


@pytest.fixture(scope="module")
def plain_site(small_site, tmp_path_factory):
    """The same without photographs, as a detector without a comparison has it."""
    path = shutil.copytree(small_site, tmp_path_factory.mktemp("plain") / "site")
    (path / "detector" / PHOTOGRAPHS).unlink()
    manifest = read_json(path / "site.json")
    del manifest["files"][f"detector/{PHOTOGRAPHS}"]
    write_json(path / "site.json", manifest)
    return path


def test_a_frame_is_compared_at_the_sites_working_size(small_site):
    site = Site.open(small_site)
    image, pose = site.mapped.image(3), site.mapped.poses[3]
    inspection = Inspector(site).inspect(image, site.mapped.camera, pose)
    assert inspection.reference.image.shape == (72, SIDE, 3) and inspection.heatmap.shape == image.shape[:2]
    assert inspection.reference.detail.shape == image.shape == (120, 160, 3)
    once = Inspector(site, options=InspectionOptions(detail_side=0)).inspect(image, site.mapped.camera, pose)
    assert once.reference.detail is None and not np.array_equal(once.heatmap, inspection.heatmap)


def test_a_frame_whose_detail_does_not_come_is_looked_at_once(small_site, tmp_path):
    system = System(str(small_site), tmp_path)
    try:
        system.start("nerf_renderer", wait=False, detail_side=0)
        system.start("inspector", wait=False, reference_timeout=4.0)
        for node in ("nerf_renderer", "inspector"):
            system.wait_active(node)
        robot = system.robot
        robot.until(lambda: robot.inspect(*system.frame(3))[1] == "ok", what="a frame that is looked at once")
        for index in (4, 5):
            robot.until(lambda i=index: robot.inspect(*system.frame(i))[1] == "ok", what="the next frame")
        assert not robot.heard["reference/detail"]
    finally:
        system.close()


@pytest.mark.parametrize(
    "kind, topics", [("small_site", (*REFERENCE, "reference/detail")), ("plain_site", REFERENCE[:2])]
)
def test_what_is_published_is_the_librarys_reference_view(kind, topics, request, tmp_path):
    path = request.getfixturevalue(kind)
    system = System(str(path), tmp_path)
    robot, site = system.robot, Site.open(path)
    requests = robot.node.create_publisher(PoseStamped, "reference/request", OUTPUT)
    try:
        system.start_both()
        robot.until(lambda: robot.inspect(*system.frame(3))[1] == "ok", what="a frame that is compared with all parts")
        stamp, pose = robot.next_stamp(), site.mapped.poses[10].interpolate(site.mapped.poses[11], 0.5)
        asked = messages.pose_stamped(pose, robot.header(stamp, "map"))

        def answered() -> bool:
            robot.say_info(robot.next_stamp())
            requests.publish(asked)
            robot.spin(0.5)
            return all(robot.has(topic, stamp) for topic in topics)

        robot.until(answered, what="the reference view")
        parts = {topic: robot.answer(topic, stamp) for topic in topics}
        assert not any(robot.has(topic, stamp) for topic in REFERENCE if topic not in topics)
    finally:
        system.close()
    camera = site.working_camera(
        decoding.camera_from_info(messages.camera_info_message(robot.camera, robot.header(1, "")))
    )
    detail = site.detail_camera(
        decoding.camera_from_info(messages.camera_info_message(robot.camera, robot.header(1, "")))
    )
    view = ReferenceRenderer.of_site(site).render(camera, decoding.pose_from_message(asked.pose), detail)
    np.testing.assert_array_equal(decoding.image_to_rgb(parts["reference/image"]), view.image)
    np.testing.assert_array_equal(decoding.depth_from_image(parts["reference/depth"]), view.depth)
    assert view.image.shape == (72, SIDE, 3) and np.isfinite(view.depth).mean() > 0.1
    if "reference/detail" in topics:
        assert view.detail.shape == (120, 160, 3)
        np.testing.assert_array_equal(decoding.image_to_rgb(parts["reference/detail"]), view.detail)
    for topic, values in zip(REFERENCE[2:4], (view.support, view.false_alarm), strict=True):
        assert (values is None) == (topic not in parts)
        if values is not None:
            assert parts[topic].encoding == "mono8"
            np.testing.assert_array_equal(decoding.image_to_rgb(parts[topic])[..., 0], values)
