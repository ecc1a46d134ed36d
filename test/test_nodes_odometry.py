"""Odometry, prior poses and frames unfit for inspection: what the inspector node builds on, without ROS."""

import threading

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.patrol.frame_check import FrameCheck
from omniad_ros.patrol.inspected import InspectedMap, floor_of_boxes
from omniad_ros.patrol.mount_check import MountCheck
from omniad_ros.patrol.odometry import MapCorrection, OdometryBuffer
from omniad_ros.recordings.source import SECOND

CAMERA_ON_BASE = Pose(BODY_FROM_OPTICAL, np.array([0.2, 0.0, 0.5]))


def base(x: float, yaw: float = 0.0) -> Pose:
    return Pose(Rotation.from_euler("z", yaw).as_matrix(), np.array([x, 0.0, 0.0]))


def driven(buffer: OdometryBuffer, start: float = 100.0, seconds: float = 2.0, speed: float = 0.5) -> None:
    for t in np.arange(0.0, seconds + 1e-9, 0.05):
        buffer.add(round((start + t) * SECOND), base(speed * t, 0.3 * t))


def test_odometry_is_interpolated_at_the_stamp():
    buffer = OdometryBuffer()
    driven(buffer)
    metres, degrees = buffer.at(round(101.02 * SECOND)).distance(base(0.51, 0.306))
    assert metres < 1e-6 and degrees < 1e-3


def test_no_pose_is_made_up_where_odometry_does_not_say():
    buffer = OdometryBuffer()
    assert buffer.at(SECOND) is None
    driven(buffer)
    assert buffer.at(round(99.9 * SECOND)) is None  # before the first sample
    assert buffer.at(round(102.2 * SECOND)) is not None  # a moment after the last
    assert buffer.at(round(103.0 * SECOND)) is None  # odometry has stopped
    assert buffer.at(round(3702.0 * SECOND)) is None
    assert np.isclose(buffer.away(round(3702.0 * SECOND)), 3600.0) and buffer.away(round(99.0 * SECOND)) == 1.0
    buffer.add(round(104.0 * SECOND), base(1.0))
    assert buffer.at(round(103.0 * SECOND)) is None  # in a gap


def test_a_loop_or_a_clock_that_jumps_begins_anew():
    buffer = OdometryBuffer()
    driven(buffer, start=5000.0)
    driven(buffer, start=100.0)
    assert buffer.at(round(5001.0 * SECOND)) is None
    assert np.isclose(buffer.at(round(101.0 * SECOND)).translation[0], 0.5)
    buffer.add(round(101.9 * SECOND), base(77.0))  # only late: ignored
    assert np.isclose(buffer.at(round(101.9 * SECOND)).translation[0], 0.95)


def test_a_sample_under_way_is_waited_for():
    buffer = OdometryBuffer()
    driven(buffer)
    later = round(102.1 * SECOND)
    threading.Timer(0.1, lambda: buffer.add(later, base(9.0))).start()
    buffer.options = type(buffer.options)(speed=1000.0)
    assert buffer.at(later, wait=5.0).translation[0] == 9.0


def test_the_correction_carries_the_pose_between_refined_ones():
    correction = MapCorrection()
    assert correction.prior(0, base(1.0), CAMERA_ON_BASE) is None  # nobody knows yet
    map_from_odom = Pose(Rotation.from_euler("z", 1.0).as_matrix(), np.array([5.0, -2.0, 0.0]))
    correction.correct(0, map_from_odom @ base(1.0) @ CAMERA_ON_BASE, base(1.0), CAMERA_ON_BASE)
    expected = map_from_odom @ base(1.7, 0.4) @ CAMERA_ON_BASE
    metres, degrees = correction.prior(SECOND, base(1.7, 0.4), CAMERA_ON_BASE).distance(expected)
    assert metres < 1e-9 and degrees < 1e-5
    near, far = correction.covariance(base(1.1)), correction.covariance(base(4.0))
    assert np.all(np.diag(far) > np.diag(near)) and np.all(np.diag(near) > 0)


def test_an_initial_pose_is_used_and_a_jump_of_odometry_forgets():
    correction = MapCorrection(initial=base(3.0))
    prior = correction.prior(0, base(10.0), CAMERA_ON_BASE)
    assert np.allclose(prior.translation, (base(3.0) @ CAMERA_ON_BASE).translation)
    assert correction.prior(SECOND, base(11.0), CAMERA_ON_BASE, jumps=1) is None


def test_without_odometry_the_last_pose_holds_for_a_moment():
    correction = MapCorrection()
    pose = base(1.0) @ CAMERA_ON_BASE
    correction.correct(10 * SECOND, pose, None, CAMERA_ON_BASE)
    assert correction.prior(11 * SECOND, None, CAMERA_ON_BASE) is pose
    assert correction.prior(20 * SECOND, None, CAMERA_ON_BASE) is None


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(20, 235, (40, 53, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)


def test_frames_unfit_for_inspection_are_told_apart(picture):
    check = FrameCheck()
    check.least_sharpness = 0.3
    assert check(picture).reason == ""
    assert "black" in check(picture // 20).reason
    assert "white" in check(255 - picture // 30).reason
    assert "nothing" in check(np.full_like(picture, 120)).reason
    assert "blurred" in check(cv2.GaussianBlur(picture, (0, 0), 12)).reason
    noise = np.random.default_rng(1).normal(0, 5, picture.shape)
    assert check(np.clip(picture * 0.5 + noise, 0, 255).astype(np.uint8)).reason == ""  # dim and noisy is fit


def test_a_frozen_frame_is_one_that_stays_while_the_robot_moves(picture):
    check = FrameCheck()
    assert check(picture, base(0.0)).reason == "" and check(picture, base(0.001)).reason == ""
    assert "frozen" in check(picture, base(0.5)).reason
    changed = picture.copy()
    changed[0, 0] += 1
    assert check(changed, base(0.6)).reason == ""


@pytest.mark.parametrize("scale", [1.0, 1.04, 0.95])
def test_a_camera_that_is_not_where_it_is_said_to_be_is_noticed_and_its_place_proposed(scale):
    """scale: what odometry tells of a way and of a turn, of what they are."""
    rng = np.random.default_rng(3)
    mount = Pose(
        Rotation.from_euler("xyz", (0.0, 0.2, -0.4)).as_matrix() @ BODY_FROM_OPTICAL, np.array([0.3, -0.1, 0.6])
    )
    map_from_odom, robot, told, frames = base(2.0, 1.0), Pose.identity(), Pose.identity(), []
    for step in range(150):
        turn = 0.06 * np.sin(step / 9) + 0.02
        robot, told = robot @ base(0.08, turn), told @ base(0.08 * scale, turn * scale)
        seen = map_from_odom @ robot @ mount
        noise = Rotation.from_rotvec(rng.normal(0, 0.002, 3)).as_matrix()
        frames.append((told, Pose(seen.rotation @ noise, seen.translation + rng.normal(0, 0.004, 3))))

    def said(base_from_camera: Pose) -> set[str]:
        check = MountCheck()
        return {check(odometry, refined, base_from_camera) for odometry, refined in frames}

    assert said(mount) == {""}
    turned = Pose(mount.rotation @ Rotation.from_euler("y", 15, degrees=True).as_matrix(), mount.translation)
    for wrong in (Pose(BODY_FROM_OPTICAL, np.zeros(3)), turned):
        phrases = said(wrong) - {""}
        assert phrases and all("camera's place" in phrase for phrase in phrases)
    if scale == 1.0:
        assert any(
            "camera_rpy [0.0, 0.2, -0.4" in phrase or "camera_rpy [-0.0, 0.2, -0.4" in phrase for phrase in phrases
        ), phrases


def test_what_was_inspected_is_what_was_in_view_covered_and_not_hidden():
    camera, pose = Camera.from_fov(64, 48, np.radians(60)), Pose.look_at(np.zeros(3), np.array([2.0, 0.0, 0.0]))
    wall = np.array([(2.0, y, z) for y in np.arange(-2.0, 2.0, 0.1) for z in (-0.1, 0.1)])
    behind = np.array([(3.0, 0.05, 0.1), (-2.0, 0.0, 0.0)])
    inspected = InspectedMap(np.concatenate([wall, behind]).astype(np.float32))
    depth, covered = np.full((48, 64), 2.0, np.float32), np.ones((48, 64), bool)
    covered[:, :32] = False  # the left half, y above 0
    inspected.add(camera, pose, depth, covered)
    right = (wall[:, 1] < -0.04) & (wall[:, 1] > -1.1)
    assert abs(inspected.share - right.sum() / (len(wall) + 2)) < 0.05
    grid = inspected.grid(0.5)
    rows = grid.values.max(axis=1)
    assert rows[0] == 0 and 100 in rows and set(np.unique(grid.values)) <= set(range(-1, 101))
    again = InspectedMap(inspected._points)
    again.restore(inspected.saved())
    assert again.share == inspected.share
    with pytest.raises(ValueError, match="another map"):
        InspectedMap(wall[:9]).restore(inspected.saved())
    floor = floor_of_boxes(grid, np.array([[2.0, -1.0, 0.0]]), np.array([[0.2, 0.2, 0.2]]))
    assert 0 < (floor.values == 100).sum() <= 4
