"""Conventions: what is converted must project to the same pixel as the convention it came from."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import Camera, Pose, Rectifier, similarity

pytestmark = pytest.mark.quick


def random_pose(seed: int) -> Pose:
    generator = np.random.default_rng(seed)
    return Pose(Rotation.random(random_state=seed).as_matrix(), generator.normal(size=3))


def test_opengl_and_quaternion_round_trips():
    pose = random_pose(1)
    for copy in (Pose.from_opengl(pose.opengl()), Pose.from_quaternion(pose.translation, pose.quaternion())):
        assert max(copy.distance(pose)) < 1e-6
    assert max((pose @ pose.inverse()).distance(Pose.identity())) < 1e-6


def test_look_at_sees_its_target_in_the_middle_with_up_upwards():
    camera = Camera.from_fov(320, 240, 1.2)
    pose = Pose.look_at([1.0, 2.0, 1.0], [0.0, 0.0, 0.2])
    middle, above = camera.project(pose.inverse().apply(np.array([[0.0, 0.0, 0.2], [0.0, 0.0, 0.4]])))
    np.testing.assert_allclose(middle, [160, 120], atol=1e-9)
    assert above[1] < middle[1]


def test_opencv_pixel_centres_are_half_a_pixel_off_ours():
    k = np.array([[300.0, 0, 159.5], [0, 310.0, 119.5], [0, 0, 1]])
    camera = Camera.from_opencv(320, 240, k)
    assert (camera.cx, camera.cy) == (160, 120)
    point = np.array([[0.1, -0.2, 2.0]])
    theirs, _ = cv2.projectPoints(point, np.zeros(3), np.zeros(3), k, None)
    np.testing.assert_allclose(camera.project(point) - 0.5, theirs[0], atol=1e-9)
    np.testing.assert_allclose(camera.opencv_matrix(), k)


def test_directions_times_depth_project_back_to_pixel_centres():
    camera = Camera(32, 24, 40.0, 42.0, 15.0, 13.0)
    pixels = camera.project(camera.directions() * 2.5)
    np.testing.assert_allclose(pixels[3, 5], [5.5, 3.5])


@pytest.mark.parametrize(
    ("model", "distortion"),
    [("plumb_bob", (-0.2, 0.05, 0.001, 0.002)), ("equidistant", (0.1, -0.02, 0.0, 0.0)), ("equidistant", (0.0,) * 4)],
)
def test_rectified_images_obey_the_pinhole_model(model, distortion):
    k = np.array([[150.0, 0, 159.5], [0, 150.0, 119.5], [0, 0, 1]])
    camera = Camera.from_opencv(320, 240, k, model, distortion)
    point = np.array([[[0.5, 0.3, 1.0]]])
    if model == "equidistant":
        distorted, _ = cv2.fisheye.projectPoints(point, np.zeros(3), np.zeros(3), k, np.array(distortion))
    else:
        distorted, _ = cv2.projectPoints(point, np.zeros(3), np.zeros(3), k, np.array(distortion))
    u, v = distorted.ravel()
    image = np.zeros((240, 320), np.uint8)
    cv2.circle(image, (round(u), round(v)), 2, 255, -1)
    rectifier = Rectifier(camera)
    rows, columns = np.nonzero(rectifier(image) > 127)
    expected = rectifier.camera.project(point[0])[0] - 0.5
    np.testing.assert_allclose([columns.mean(), rows.mean()], expected, atol=1.0)


def test_similarity_recovers_scale_rotation_and_translation():
    generator = np.random.default_rng(2)
    source, pose = generator.normal(size=(20, 3)), random_pose(3)
    scale, rotation, translation = similarity(source, 2.5 * pose.apply(source))
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(rotation, pose.rotation, atol=1e-9)
    np.testing.assert_allclose(translation, 2.5 * pose.translation, atol=1e-9)
    with pytest.raises(ValueError, match="one line"):
        similarity(np.outer(np.arange(5.0), [1, 2, 3]), source[:5])


@pytest.mark.parametrize("matrix", [np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1.0, 1, -1, 1]), np.eye(3)])
def test_what_is_no_pose_is_refused(matrix):
    with pytest.raises(ValueError, match="pose"):
        Pose.from_matrix(matrix)
    with pytest.raises(ValueError, match="unit length"):
        Pose.from_quaternion([0, 0, 0], [0, 0, 0, 2])
    with pytest.raises(ValueError, match="focal"):
        Camera.from_opencv(320, 240, np.zeros((3, 3)))
