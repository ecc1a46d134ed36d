"""ROS messages to and from arrays, `Camera` and `Pose`.

What comes from outside is checked here, field by field, before anything uses it: a message that cannot be right raises
`MessageDefect`, whose text is one sentence that names the field.
"""

from __future__ import annotations

import array
import io
import math
import sys
from types import SimpleNamespace

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, PoseStamped, PoseWithCovarianceStamped, Quaternion, TransformStamped, Vector3
from geometry_msgs.msg import Pose as PoseMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.core.images import LAST_BYTES, is_cut_off
from omniad_ros.ros import counterparts

MAX_SIDE = 1 << 14
BYTES_PER_PIXEL = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2,
    **{f"bayer_{pattern}{bits}": bits // 8 for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
    "yuv422": 2, "yuv422_yuy2": 2, "uyvy": 2, "yuyv": 2,
}  # fmt: skip
"""The encodings of camera images that are understood."""
MAX_PIXELS = 1 << 26
PAIRED_COLUMNS = ("yuv422", "yuv422_yuy2", "uyvy", "yuyv")

DISTORTION = {
    "plumb_bob": ("plumb_bob", (4, 5)),
    "rational_polynomial": ("rational_polynomial", (8, 12, 14)),
    "equidistant": ("equidistant", (4,)),
    "fisheye": ("equidistant", (4,)),
}
"""ROS's distortion models: the name in `Camera`, and how many coefficients they may have."""


MAX_DISTORTION = 1e6


class MessageDefect(ValueError):
    """A message that cannot be right. ``field`` names what is wrong, the text is one sentence for the log."""

    def __init__(self, field: str, sentence: str):
        super().__init__(sentence)
        self.field = field


def check(good: bool, field: str, sentence: str) -> None:
    if not good:
        raise MessageDefect(field, f"{field} {sentence}")


def quoted(text: str) -> str:
    """A message's text on one line, not too long."""
    return repr(text[:40])


# ---- stamps


def nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def check_stamp(header: Header) -> int:
    """The header's stamp in nanoseconds."""
    stamp = header.stamp
    check(stamp.nanosec < 1_000_000_000, "header.stamp.nanosec", f"is {stamp.nanosec}, a second has fewer")
    check(nanoseconds(stamp) > 0, "header.stamp", "is not set")
    return nanoseconds(stamp)


# ---- images


def check_image(message: Image) -> None:
    """Raise MessageDefect where an image's fields contradict each other; looks at no pixel."""
    check(0 < message.width <= MAX_SIDE, "width", f"is {message.width}, which no image has")
    check(0 < message.height <= MAX_SIDE, "height", f"is {message.height}, which no image has")
    pixel = BYTES_PER_PIXEL.get(message.encoding)
    check(
        pixel is not None,
        "encoding",
        f"{quoted(message.encoding)} is not known, known are {', '.join(BYTES_PER_PIXEL)}",
    )
    check(message.is_bigendian in (0, 1), "is_bigendian", f"is {message.is_bigendian}, must be 0 or 1")
    odd = message.encoding in PAIRED_COLUMNS and message.width % 2
    check(not odd, "width", f"is {message.width}, must be even for {message.encoding}")
    row = message.width * pixel
    check(
        message.step >= row,
        "step",
        f"is {message.step}, a row of {message.width} pixels {message.encoding} has {row} bytes",
    )
    expected = message.step * message.height
    check(len(message.data) == expected, "data", f"has {len(message.data)} bytes, step times height is {expected}")


def check_compressed(message: CompressedImage) -> tuple[int, int]:
    """(width, height). Raises MessageDefect where the image is not whole, or larger than any camera's; decodes no pixel.

    Decoders fill what a truncated image lacks with grey, which would look like an anomaly, and unpack kilobytes into
    gigabytes if they are told to.
    """
    from PIL import Image as Pictures

    check(len(message.data) > 0, "data", "is empty")
    try:
        with Pictures.open(io.BytesIO(message.data), formats=tuple(LAST_BYTES)) as picture:
            kind, (width, height) = picture.format, picture.size
    except Pictures.DecompressionBombError as error:
        raise MessageDefect("data", "data is an image with more pixels than any camera has") from error
    except Exception as error:  # whatever the library raises, the message is to blame
        raise MessageDefect(
            "data", f"data is no image that can be decoded (format {quoted(message.format)})"
        ) from error
    good = max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS
    check(good, "data", f"is an image of {width}x{height} pixels, more than any camera has")
    check(not is_cut_off(kind, message.data), "data", f"is a truncated {kind} image")
    return width, height


def image_size(message: Image | CompressedImage) -> tuple[int, int]:
    """(width, height) of a camera image. Raises MessageDefect where it cannot be one; looks at no pixel."""
    if hasattr(message, "format"):
        return check_compressed(message)
    check_image(message)
    return message.width, message.height


def image_to_rgb(message: Image | CompressedImage) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a camera image; bayer patterns are interpolated, 16 bits are reduced to 8.

    Raises MessageDefect with one sentence where the message cannot be an image.
    """
    if hasattr(message, "format"):
        return _decompress(message)
    check_image(message)
    row = message.width * BYTES_PER_PIXEL[message.encoding]
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    if message.encoding == "rgb8":
        return rows[:, :row].reshape(message.height, message.width, 3)
    plain = SimpleNamespace(
        height=message.height, width=message.width, encoding=message.encoding, is_bigendian=message.is_bigendian,
        step=row, data=np.ascontiguousarray(rows[:, :row]).reshape(-1),
    )  # fmt: skip
    try:
        return np.ascontiguousarray(counterparts.raw_to_rgb(plain))
    except Exception as error:  # whatever the library raises, the message is to blame
        raise MessageDefect(
            "encoding", f"encoding {message.encoding}: the image cannot be converted ({error})"
        ) from error


def _decompress(message: CompressedImage) -> np.ndarray:
    import cv2

    check_compressed(message)
    try:
        # the pixels as the camera has them, whatever its EXIF says: that is what camera_info describes
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    check(image is not None, "data", f"is no image that can be decoded (format {quoted(message.format)})")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def depth_from_image(message: Image) -> np.ndarray:
    """float32 (H, W) of a 32FC1 image. Raises MessageDefect."""
    check(message.encoding == "32FC1", "encoding", f"is {quoted(message.encoding)}, depth must be 32FC1")
    check(0 < message.width <= MAX_SIDE and 0 < message.height <= MAX_SIDE, "width", "or height is out of range")
    check(message.step == 4 * message.width, "step", f"is {message.step}, must be {4 * message.width}")
    check(
        len(message.data) == message.step * message.height,
        "data",
        f"has {len(message.data)} bytes, not step times height",
    )
    depth = np.frombuffer(message.data, ">f4" if message.is_bigendian else "<f4").reshape(message.height, message.width)
    return depth.astype(np.float32)


def image_message(image: np.ndarray, header: Header) -> Image:
    """sensor_msgs/Image of uint8 (H, W, 3) as rgb8, uint8 (H, W) as mono8, or float32 (H, W) as 32FC1."""
    encoding = "32FC1" if image.dtype == np.float32 else "rgb8" if image.ndim == 3 else "mono8"
    height, width = image.shape[:2]
    # an array.array is taken as it is; any other sequence would be checked byte by byte
    data = array.array("B", np.ascontiguousarray(image).tobytes())
    return Image(
        header=header, height=height, width=width, encoding=encoding, is_bigendian=int(sys.byteorder == "big"),
        step=len(data) // height, data=data,
    )  # fmt: skip


# ---- cameras


def camera_from_info(message: CameraInfo, rectified: bool = False) -> Camera:
    """The camera of a camera_info; ``rectified``: of the image that its driver has already rectified (matrix P).

    Raises MessageDefect with one sentence.
    """
    check(0 < message.width <= MAX_SIDE, "width", f"is {message.width}, which no camera has")
    check(0 < message.height <= MAX_SIDE, "height", f"is {message.height}, which no camera has")
    k = np.array(message.p, float).reshape(3, 4)[:, :3] if rectified else np.array(message.k, float).reshape(3, 3)
    name = "p" if rectified else "k"
    check(bool(np.isfinite(k).all()), name, "has elements that are not finite")
    check(k[0, 0] > 0 and k[1, 1] > 0 and k[2, 2] > 0, name, "is singular (is the camera calibrated?)")
    side = max(message.width, message.height)
    focal, center = k[[0, 1], [0, 1]], k[:2, 2]
    good = k[2, 2] == 1 and focal.min() > side / 100 and focal.max() < 1000 * side and np.abs(center).max() < 10 * side
    check(bool(good), name, f"is not of a camera with {message.width}x{message.height} pixels")
    check(message.binning_x <= 1 and message.binning_y <= 1, "binning_x", "is above 1, which is not understood")
    region = (
        message.roi.x_offset,
        message.roi.y_offset,
        message.roi.width % message.width,
        message.roi.height % message.height,
    )
    check(not any(region), "roi", "is only a part of the image, which is not understood")
    model, distortion = ("none", ()) if rectified else _distortion(message)
    return Camera.from_opencv(message.width, message.height, k, model, distortion)


def _distortion(message: CameraInfo) -> tuple[str, tuple[float, ...]]:
    """The distortion's model and coefficients as `Camera` has them. Raises MessageDefect."""
    d = tuple(message.d)
    check(bool(np.isfinite(d).all()), "d", "has elements that are not finite")
    if not any(d):
        return "none", ()
    known = message.distortion_model in DISTORTION
    check(
        known, "distortion_model", f"{quoted(message.distortion_model)} is not known, known are {', '.join(DISTORTION)}"
    )
    model, counts = DISTORTION[message.distortion_model]
    if len(d) not in counts and not any(d[counts[0] :]):
        d = d[: counts[0]]  # drivers with one array for all models (realsense) pad it with zeros
    check(len(d) in counts, "d", f"has {len(d)} elements, {message.distortion_model} has {counts[0]}")
    check(max(map(abs, d)) < MAX_DISTORTION, "d", f"has an element of {max(d, key=abs):.3g}, which no lens has")
    return model, d


def camera_info_message(camera: Camera, header: Header) -> CameraInfo:
    """camera_info of a camera without distortion."""
    k = camera.opencv_matrix()
    p = np.hstack([k, np.zeros((3, 1))])
    return CameraInfo(
        header=header, height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5,
        k=k.reshape(-1), r=np.eye(3).reshape(-1), p=p.reshape(-1),
    )  # fmt: skip


# ---- poses


def pose_from_message(message: PoseMessage, field: str = "pose") -> Pose:
    """Raises MessageDefect where it is not finite or its quaternion has no unit length."""
    p, q = message.position, message.orientation
    check(all(map(math.isfinite, (p.x, p.y, p.z))), f"{field}.position", "is not finite")
    check(all(map(math.isfinite, (q.x, q.y, q.z, q.w))), f"{field}.orientation", "is not finite")
    norm = math.hypot(q.x, q.y, q.z, q.w)
    check(abs(norm - 1.0) <= 0.01, f"{field}.orientation", f"has length {norm:.3g}, a rotation has 1")
    check(max(abs(p.x), abs(p.y), abs(p.z)) < 1e7, f"{field}.position", "is farther away than any place on earth")
    return Pose.from_quaternion((p.x, p.y, p.z), np.array((q.x, q.y, q.z, q.w)) / norm)


def pose_message(pose: Pose) -> PoseMessage:
    x, y, z, w = pose.quaternion()
    tx, ty, tz = pose.translation
    position = Point(x=float(tx), y=float(ty), z=float(tz))
    return PoseMessage(position=position, orientation=Quaternion(x=float(x), y=float(y), z=float(z), w=float(w)))


def pose_stamped(pose: Pose, header: Header) -> PoseStamped:
    return PoseStamped(header=header, pose=pose_message(pose))


def pose_with_covariance(pose: Pose, covariance: np.ndarray, header: Header) -> PoseWithCovarianceStamped:
    """covariance: (6, 6), order x y z and rotations about x y z."""
    message = PoseWithCovarianceStamped(header=header)
    message.pose.pose = pose_message(pose)
    message.pose.covariance = np.ascontiguousarray(covariance, dtype=np.float64).reshape(36)
    return message


def transform_message(pose: Pose, header: Header, child_frame_id: str) -> TransformStamped:
    """parent_from_child, for /tf."""
    message = TransformStamped(header=header, child_frame_id=child_frame_id)
    x, y, z = map(float, pose.translation)
    message.transform.translation = Vector3(x=x, y=y, z=z)
    message.transform.rotation = pose_message(pose).orientation
    return message


def extrinsics(xyz, rpy) -> Pose:
    """``base_from_camera`` (optical) of a camera at ``xyz`` whose body (x forward, z up) is turned by ``rpy`` radians."""
    body = Pose.from_quaternion(xyz, counterparts.quaternion_from_euler(*rpy))
    return body @ Pose(BODY_FROM_OPTICAL, np.zeros(3))


# ---- the rest


def points_message(xyz: np.ndarray, rgb: np.ndarray, header: Header) -> PointCloud2:
    """PointCloud2 of points (P, 3) with colours (P, 3) uint8, as RViz draws them."""
    cloud = np.zeros(len(xyz), dtype=[("xyz", "<f4", 3), ("rgb", "<u4")])
    red, green, blue = rgb.astype(np.uint32).T
    cloud["xyz"], cloud["rgb"] = xyz, red << 16 | green << 8 | blue
    fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate("xyz")]
    fields.append(PointField(name="rgb", offset=12, datatype=PointField.UINT32, count=1))
    return PointCloud2(
        header=header, height=1, width=len(cloud), fields=fields, is_bigendian=False, point_step=16,
        row_step=16 * len(cloud), data=array.array("B", cloud.tobytes()), is_dense=bool(np.isfinite(xyz).all()),
    )  # fmt: skip


def status_message(name: str, hardware: str, level: int, message: str, values: dict) -> DiagnosticStatus:
    """One line of /diagnostics; level 0 ok, 1 warning, 2 error, 3 stale."""
    pairs = [
        KeyValue(key=key, value=f"{value:.1f}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=bytes([level]), name=name, message=message, hardware_id=hardware, values=pairs)
