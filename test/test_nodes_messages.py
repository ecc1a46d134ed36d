"""Messages to arrays and back, with what robots and broken drivers send."""

import sys
import zlib

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from geometry_msgs.msg import Pose as PoseMessage
from geometry_msgs.msg import Quaternion
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from omniad_ros.core.geometry import Camera, Pose, Rectifier
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.messages import BYTES_PER_PIXEL, FLOATS, MEANT, MessageDefect
from omniad_ros.ros import messages

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def picture():
    """Smooth, so that bayer interpolation and chroma subsampling lose little."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    return np.stack([80 + x, 200 - 2 * y, 60 + x + y], axis=-1).astype(np.uint8)


def encoded(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The picture as a camera of that encoding has it, (H, W * bytes) uint8, by the encodings' definition."""
    height, width = rgb.shape[:2]
    encoding = MEANT.get(encoding, encoding)
    if encoding in ("rgb16", "bgr16", "rgba16", "bgra16"):
        return (encoded(rgb, encoding.replace("16", "8")).astype("<u2") * 257).view(np.uint8)
    if encoding in FLOATS:
        plain = encoded(rgb, "bgr8" if encoding.endswith("3") else "mono8")
        return (plain / 255).astype("<" + FLOATS[encoding]).view(np.uint8)
    if encoding in ("nv12", "nv21"):
        planes = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).reshape(-1)
        y, (u, v) = planes[: height * width], planes[height * width :].reshape(2, -1)
        return np.concatenate([y, np.stack([u, v] if encoding == "nv12" else [v, u], 1).ravel()]).reshape(-1, width)
    if encoding in ("rgb8", "bgr8"):
        return (rgb if encoding == "rgb8" else rgb[..., ::-1]).reshape(height, -1)
    if encoding in ("rgba8", "bgra8"):
        color = rgb if encoding == "rgba8" else rgb[..., ::-1]
        return np.concatenate([color, np.full((height, width, 1), 255, np.uint8)], axis=-1).reshape(height, -1)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if encoding == "mono8":
        return grey
    if encoding == "mono16":
        return (grey.astype("<u2") * 257).view(np.uint8)
    if encoding.startswith("bayer"):
        channels = ["rgb".index(letter) for letter in encoding[6:10]]
        mosaic = np.zeros((height, width), np.uint8)
        for (row, column), channel in zip(((0, 0), (0, 1), (1, 0), (1, 1)), channels):
            mosaic[row::2, column::2] = rgb[row::2, column::2, channel]
        return (mosaic.astype("<u2") * 257).view(np.uint8) if encoding.endswith("16") else mosaic
    # limited range, as OpenCV and cameras have it
    r, g, b = np.moveaxis(rgb.astype(float), -1, 0)
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = (128 - 0.148 * r - 0.291 * g + 0.439 * b)[:, ::2]
    v = (128 + 0.439 * r - 0.368 * g - 0.071 * b)[:, ::2]
    parts = (u, y[:, ::2], v, y[:, 1::2]) if encoding in ("yuv422", "uyvy") else (y[:, ::2], u, y[:, 1::2], v)
    return np.stack(parts, axis=-1).round().astype(np.uint8).reshape(height, -1)


def image_of(rgb: np.ndarray, encoding: str, padding: int = 0) -> Image:
    rows = encoded(rgb, encoding)
    rows = np.concatenate([rows, np.full((len(rows), padding), 99, np.uint8)], axis=1)
    return Image(height=rgb.shape[0], width=rgb.shape[1], encoding=encoding, step=rows.shape[1], data=rows.tobytes())


@pytest.mark.parametrize("padding", [0, 8])
@pytest.mark.parametrize("encoding", BYTES_PER_PIXEL)
def test_every_encoding_gives_the_same_picture(picture, encoding, padding):
    rgb = decoding.image_to_rgb(image_of(picture, encoding, padding))
    assert rgb.dtype == np.uint8 and rgb.shape == picture.shape
    grey = "mono" in encoding or encoding.endswith("C1")
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None] if grey else picture
    inner = np.abs(rgb.astype(int) - expected)[4:-4, 4:-4]
    assert inner.max() <= (6 if encoding.startswith(("bayer", "yu", "uy", "nv")) else 1)


def test_big_endian_mono16(picture):
    message = image_of(picture, "mono16")
    message.data = np.frombuffer(message.data, "<u2").astype(">u2").tobytes()
    message.is_bigendian = 1
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    assert np.abs(decoding.image_to_rgb(message)[..., 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images(picture, suffix):
    data = cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()
    rgb = decoding.image_to_rgb(CompressedImage(format=suffix[1:], data=data))
    assert rgb.shape == picture.shape and np.abs(rgb.astype(int) - picture).mean() < 3


DEFECTS = {
    "width": {"width": 0}, "height": {"height": 0}, "encoding": {"encoding": "banana"}, "step": {"step": 10},
    "data": {"data": b"\x00" * 77}, "is_bigendian": {"is_bigendian": 7},
}  # fmt: skip


@pytest.mark.parametrize("field", DEFECTS)
def test_each_defect_is_one_sentence_that_names_the_field(picture, field):
    message = image_of(picture, "rgb8")
    for name, value in DEFECTS[field].items():
        setattr(message, name, value)
    with pytest.raises(MessageDefect) as caught:
        decoding.image_to_rgb(message)
    assert caught.value.field == field and field in str(caught.value) and "\n" not in str(caught.value)


def test_fuzzed_images_raise_nothing_but_defects(picture):
    rng = np.random.default_rng(0)
    whole = [image_of(picture, encoding) for encoding in BYTES_PER_PIXEL]
    accepted = 0
    for _ in range(4000):
        source = whole[rng.integers(len(whole))]
        message = Image(
            header=Header(), height=source.height, width=source.width, encoding=source.encoding, step=source.step,
            data=source.data,
        )  # fmt: skip
        for _ in range(rng.integers(1, 3)):
            choice = rng.integers(6)
            if choice == 0:
                message.width = int(rng.choice([0, 1, 3, 63, 65, 2**31, 2**32 - 1]))
            elif choice == 1:
                message.height = int(rng.choice([0, 1, 2, 47, 49, 2**32 - 1]))
            elif choice == 2:
                message.step = int(rng.choice([0, 1, source.step - 1, source.step + 1, 2**32 - 1]))
            elif choice == 3:
                message.encoding = str(
                    rng.choice(["", "RGB8", "rgb16", "8UC3", "nv21", "jpeg", "rgb8\n", "ü" * 50, *BYTES_PER_PIXEL])
                )
            elif choice == 4:
                message.data = source.data[: rng.integers(len(source.data))]
            else:
                message.is_bigendian = int(rng.integers(256))
        try:
            rgb = decoding.image_to_rgb(message)
            accepted += 1
            assert rgb.dtype == np.uint8 and rgb.shape == (message.height, message.width, 3)
        except MessageDefect as defect:
            assert defect.field and "\n" not in str(defect)
    assert accepted > 20


def test_fuzzed_compressed_images_raise_nothing_but_defects(picture):
    rng = np.random.default_rng(1)
    data = np.frombuffer(cv2.imencode(".jpg", picture)[1].tobytes(), np.uint8)
    for _ in range(500):
        damaged = data[: rng.integers(len(data) + 1)].copy()
        if len(damaged):
            damaged[rng.integers(0, len(damaged), 5)] = rng.integers(0, 256, 5)
        try:
            assert decoding.image_to_rgb(CompressedImage(format="jpeg", data=damaged.tobytes())).ndim == 3
        except MessageDefect as defect:
            assert defect.field == "data"


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_what_a_decoder_would_fill_with_grey_or_unpack_into_gigabytes_is_refused(picture, suffix):
    data = cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()
    for share in (0.98, 0.5):
        with pytest.raises(MessageDefect, match="data"):
            decoding.image_to_rgb(CompressedImage(format="jpeg", data=data[: int(share * len(data))]))
    padded = CompressedImage(format="rgb8; jpeg compressed bgr8", data=data + bytes(100))
    assert decoding.image_to_rgb(padded).shape == picture.shape
    huge = bytearray(cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes())
    huge[16:24] = (30_000).to_bytes(4, "big") * 2  # as its header says
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    with pytest.raises(MessageDefect, match="than any camera"):
        decoding.image_to_rgb(CompressedImage(format="png", data=bytes(huge)))


def test_grey_and_sixteen_bit_pictures_in_a_compressed_image(picture):
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    deep = picture[..., ::-1].astype(np.uint16) * 257
    for expected, data in ((grey[..., None], grey), (picture, deep)):
        rgb = decoding.image_to_rgb(CompressedImage(format="png", data=cv2.imencode(".png", data)[1].tobytes()))
        assert np.abs(rgb.astype(int) - expected).max() <= 1


def camera_info(**changes) -> CameraInfo:
    fields = {
        "width": WIDTH, "height": HEIGHT, "k": [50.0, 0, 31.5, 0, 50, 23.5, 0, 0, 1], "d": [0.1, -0.02, 0.0, 0.0, 0.0],
        "p": [40.0, 0, 31.5, 0, 0, 40, 23.5, 0, 0, 0, 1, 0], "distortion_model": "plumb_bob",
    }  # fmt: skip
    return CameraInfo(**{**fields, **changes})


def test_camera_info_becomes_a_camera():
    camera = decoding.camera_from_info(camera_info())
    assert (camera.fx, camera.cx, camera.cy) == (50, 32, 24) and camera.distortion_model == "plumb_bob"
    assert decoding.camera_from_info(camera_info(), rectified=True) == Camera(WIDTH, HEIGHT, 40, 40, 32, 24)
    assert decoding.camera_from_info(camera_info(d=[], distortion_model="")).distortion_model == "none"
    fisheye = decoding.camera_from_info(camera_info(d=[0.1] * 4, distortion_model="equidistant"))
    assert fisheye.distortion_model == "equidistant"
    padded = decoding.camera_from_info(camera_info(d=[0.1] * 4 + [0.0], distortion_model="equidistant"))
    assert padded == fisheye  # as realsense's driver has it
    rational = decoding.camera_from_info(camera_info(d=[0.1] * 8, distortion_model="rational_polynomial"))
    assert len(rational.distortion) == 8
    back = messages.camera_info_message(camera.undistorted(), Header())
    assert decoding.camera_from_info(back) == camera.undistorted()


@pytest.mark.parametrize(
    "field, changes",
    [
        ("width", {"width": 0}), ("height", {"height": 0}), ("k", {"k": [0.0] * 9}), ("k", {"k": [float("nan")] * 9}),
        ("d", {"d": [0.1] * 3}), ("d", {"d": [float("inf")] * 5}), ("distortion_model", {"distortion_model": "magic"}),
        ("binning_x", {"binning_x": 200}), ("roi", {"roi": RegionOfInterest(x_offset=40, width=40)}), ("k", {"k": [1e-9, 0, 31.5, 0, 50, 23.5, 0, 0, 1]}),
        ("k", {"k": [50.0, 0, 1e9, 0, 50, 23.5, 0, 0, 1]}), ("k", {"k": [50.0, 0, 31.5, 0, 50, 23.5, 0, 0, 1e-320]}),
    ],
)  # fmt: skip
def test_a_camera_info_that_cannot_be_is_refused(field, changes):
    with pytest.raises(MessageDefect) as caught:
        decoding.camera_from_info(camera_info(**changes))
    assert caught.value.field == field


def test_what_drivers_leave_in_d_and_which_lens_is_no_pinhole():
    """Orbbec pads plumb_bob with zeros, others leave zeros out; a fisheye with four zeros still is one."""
    padded = decoding.camera_from_info(camera_info(d=[0.1, 0.2, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0]))
    assert padded.distortion_model == "plumb_bob" and padded.distortion == (0.1, 0.2, 0.0, 0.0, 0.3)
    short = decoding.camera_from_info(camera_info(d=[0.1, 0.2, 0, 0, 0.3], distortion_model="rational_polynomial"))
    assert short.distortion == (0.1, 0.2, 0.0, 0.0, 0.3, 0.0, 0.0, 0.0)
    for d in ([0.0] * 4, []):
        assert decoding.camera_from_info(camera_info(d=d, distortion_model="fisheye")).distortion_model == "equidistant"


@pytest.mark.parametrize("rectified", [False, True])
def test_binning_and_region_of_interest_are_applied(rectified):
    """The camera of the part that is sent sees what the whole one sees there."""
    whole = decoding.camera_from_info(camera_info(), rectified)
    roi = RegionOfInterest(x_offset=8, y_offset=4, width=40, height=32)
    part = decoding.camera_from_info(camera_info(binning_x=2, binning_y=2, roi=roi), rectified)
    assert (part.width, part.height) == (20, 16) and part.distortion == whole.distortion
    point = np.array([0.1, -0.05, 1.0])
    assert np.allclose(part.project(point), (whole.project(point) - (8, 4)) / 2)


def test_topics_whose_names_say_that_they_are_rectified():
    rectified = (
        "/a/image_rect",
        "/a/image_rect_color/compressed",
        "/zed/rgb/color/rect/image",
        "/b/infra1/image_rect_raw",
    )
    assert all(map(decoding.is_rectified, rectified))
    assert not any(
        map(decoding.is_rectified, ("/rect_node/image_raw", "/a/image_raw/compressed", "/direct/image", "/a/image"))
    )


def test_a_mosaic_that_was_packed_as_it_is(picture):
    mosaic = encoded(picture, "bayer_rggb8")
    message = CompressedImage(format="bayer_rggb8; png compressed ", data=cv2.imencode(".png", mosaic)[1].tobytes())
    assert np.abs(decoding.image_to_rgb(message).astype(int) - picture)[4:-4, 4:-4].max() <= 6


def test_floats_out_of_range_are_no_picture(picture):
    message = image_of(picture, "32FC3")
    message.data = (np.frombuffer(message.data, np.float32) * 255).tobytes()
    with pytest.raises(MessageDefect, match="from 0 to 1"):
        decoding.image_to_rgb(message)


def test_fuzzed_camera_infos_raise_nothing_but_defects_and_can_be_rectified():
    rng = np.random.default_rng(2)
    odd = [0.0, 1.0, -1.0, 640.0, 1e-320, 1e300, -1e300, 1e9, np.nan, np.inf]
    accepted = 0
    for _ in range(3000):
        message = camera_info()
        for _ in range(rng.integers(1, 4)):
            name = str(rng.choice(["k", "p", "d", "distortion_model", "width", "roi"]))
            if name in ("k", "p"):
                values = np.array(getattr(message, name))
                values[rng.integers(len(values))] = rng.choice(odd)
                setattr(message, name, values)
            elif name == "d":
                count = rng.integers(16)
                message.d = list(rng.choice(odd, count) if rng.random() < 0.3 else rng.normal(0, 1, count))
            elif name == "distortion_model":
                message.distortion_model = str(rng.choice(["", *decoding.DISTORTION, "thin_prism", "\n"]))
            elif name == "width":
                message.width = int(rng.choice([0, 1, WIDTH, 2**32 - 1]))
            else:
                message.roi.width = int(rng.choice([0, 1, WIDTH, 2**32 - 1]))
        try:
            camera = decoding.camera_from_info(message, rectified=bool(rng.integers(2)))
        except MessageDefect as defect:
            assert defect.field and "\n" not in str(defect)
            continue
        accepted += 1
        assert Rectifier(camera)(np.zeros((camera.height, camera.width, 3), np.uint8)).ndim == 3
    assert accepted > 300


def test_poses_there_and_back_and_bad_ones():
    pose = Pose.look_at((1.0, 2.0, 3.0), (0.0, 0.5, 0.2))
    metres, degrees = pose.distance(decoding.pose_from_message(messages.pose_message(pose)))
    assert metres < 1e-9 and degrees < 1e-5
    for attribute, value in (("x", float("nan")), ("y", float("inf")), ("z", 1e9)):
        message = messages.pose_message(pose)
        setattr(message.position, attribute, value)
        with pytest.raises(MessageDefect, match="position"):
            decoding.pose_from_message(message)
    for w in (0.0, 1.5, 1e300):
        with pytest.raises(MessageDefect, match="orientation"):
            decoding.pose_from_message(PoseMessage(orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=w)))


def test_extrinsics_of_a_camera_that_looks_ahead():
    base_from_camera = messages.extrinsics((0.2, 0.0, 0.5), (0.0, 0.0, 0.0))
    ahead = base_from_camera.apply(np.array([0.0, 0.0, 2.0]))
    assert np.allclose(ahead, [2.2, 0.0, 0.5])
    left = messages.extrinsics((0.0, 0.0, 0.0), (0.0, 0.0, np.pi / 2)).apply(np.array([0.0, 0.0, 1.0]))
    assert np.allclose(left, [0.0, 1.0, 0.0], atol=1e-9)


def test_outgoing_images_and_points():
    heatmap = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    heatmap[0, 0] = np.nan
    message = messages.image_message(heatmap, Header(frame_id="camera"))
    assert (message.encoding, message.step, message.is_bigendian) == ("32FC1", 4 * WIDTH, int(sys.byteorder == "big"))
    assert np.array_equal(decoding.depth_from_image(message), heatmap, equal_nan=True)
    mask = messages.image_message((heatmap > 0.5).astype(np.uint8) * 255, Header())
    assert mask.encoding == "mono8" and set(mask.data) == {0, 255}
    xyz, rgb = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([[255, 0, 1]] * 4, np.uint8)
    cloud = messages.points_message(xyz, rgb, Header(frame_id="map"))
    raw = np.frombuffer(cloud.data, np.dtype([("xyz", "<f4", 3), ("b", "u1"), ("g", "u1"), ("r", "u1"), ("a", "u1")]))
    assert np.array_equal(raw["xyz"], xyz) and raw["r"][0] == 255 and raw["b"][0] == 1 and cloud.width == 4
