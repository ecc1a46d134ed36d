"""The one decoder of what a camera and a robot send: images, camera_info, poses, from a bag or live.

Messages are taken by their fields, so those of rclpy and of `rosbags` are read alike, and neither is imported. Nothing is
read that could be wrong: what a message's fields contradict raises `MessageDefect`, whose text is one sentence that names the field.
"""

from __future__ import annotations

import io
import logging
import math
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from omniad_ros.core.geometry import MAX_DISTANCE, Camera, Pose
from omniad_ros.core.images import LAST_BYTES, MAX_PIXELS, MAX_SIDE, is_cut_off

MAX_DISTORTION = 1e6
SAME_SHAPE = 0.01
"""Share by which the ratio of an image's sides may differ from its camera_info's, where one is the other reduced."""

BYTES_PER_PIXEL = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2,
    "rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8,
    **{f"bayer_{pattern}{bits}": bits // 8 for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
    "yuv422": 2, "yuv422_yuy2": 2, "uyvy": 2, "yuyv": 2, "nv12": 1, "nv21": 1,
    "8UC1": 1, "8UC3": 3, "8UC4": 4, "16UC1": 2, "16UC3": 6, "16UC4": 8, "32FC1": 4, "32FC3": 12, "64FC1": 8, "64FC3": 24,
}  # fmt: skip
"""The encodings of camera images that are understood; of nv12 and nv21 the bytes of the luminance."""
MEANT = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16", "16UC3": "bgr16", "16UC4": "bgra16"}
"""What an encoding without a colour space means by OpenCV's convention, which drivers follow."""
FLOATS = {"32FC1": "f4", "32FC3": "f4", "64FC1": "f8", "64FC3": "f8"}
HALF_CHROMA = {"nv12": "COLOR_YUV2RGB_NV12", "nv21": "COLOR_YUV2RGB_NV21"}
"""Their colour lies below the luminance, in half as many rows."""
PAIRED_COLUMNS = ("yuv422", "yuv422_yuy2", "uyvy", "yuyv", *HALF_CHROMA)

DISTORTION = {
    "plumb_bob": ("plumb_bob", (4, 5)),
    "rational_polynomial": ("rational_polynomial", (8, 12, 14)),
    "equidistant": ("equidistant", (4,)),
    "fisheye": ("equidistant", (4,)),
    "radtan": ("plumb_bob", (4, 5)),
    "kannala_brandt": ("equidistant", (4,)),
    "kannala_brandt4": ("equidistant", (4,)),
}
"""ROS's distortion models, and what Kalibr and Basalt call them: the name in `Camera`, and how many coefficients they may have."""

logger = logging.getLogger(__name__)


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


def nanoseconds(stamp) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def check_stamp(header) -> int:
    """The header's stamp in nanoseconds."""
    stamp = header.stamp
    check(stamp.nanosec < 1_000_000_000, "header.stamp.nanosec", f"is {stamp.nanosec}, a second has fewer")
    check(nanoseconds(stamp) > 0, "header.stamp", "is not set")
    return nanoseconds(stamp)


# ---- images


def is_compressed(message) -> bool:
    return hasattr(message, "format")


def check_image(message) -> None:
    """Raise MessageDefect where an image's fields contradict each other; looks at no pixel."""
    check(0 < message.width <= MAX_SIDE, "width", f"is {message.width}, which no image has")
    check(0 < message.height <= MAX_SIDE, "height", f"is {message.height}, which no image has")
    pixel = BYTES_PER_PIXEL.get(message.encoding)
    known = ", ".join(BYTES_PER_PIXEL)
    check(pixel is not None, "encoding", f"{quoted(message.encoding)} is not known, known are {known}")
    check(message.is_bigendian in (0, 1), "is_bigendian", f"is {message.is_bigendian}, must be 0 or 1")
    odd = message.encoding in PAIRED_COLUMNS and message.width % 2
    check(not odd, "width", f"is {message.width}, must be even for {message.encoding}")
    odd = message.encoding in HALF_CHROMA and message.height % 2
    check(not odd, "height", f"is {message.height}, must be even for {message.encoding}")
    row = message.width * pixel
    said = f"is {message.step}, a row of {message.width} pixels {message.encoding} has {row} bytes"
    check(message.step >= row, "step", said)
    expected = message.step * _rows(message)
    check(len(message.data) == expected, "data", f"has {len(message.data)} bytes, step times the rows is {expected}")


def _rows(message) -> int:
    return message.height * 3 // 2 if message.encoding in HALF_CHROMA else message.height


def check_compressed(message) -> tuple[int, int]:
    """(width, height). Raises MessageDefect where the image is not whole, or larger than any camera's; decodes no pixel.

    Decoders fill what a truncated image lacks with grey, which would look like an anomaly, and unpack kilobytes into
    gigabytes if they are told to.
    """
    from PIL import Image as Pictures

    check(len(message.data) > 0, "data", "is empty")
    data = bytes(message.data)
    try:
        with Pictures.open(io.BytesIO(data), formats=tuple(LAST_BYTES)) as picture:
            kind, (width, height) = picture.format, picture.size
    except Pictures.DecompressionBombError as error:
        raise MessageDefect("data", "data is an image with more pixels than any camera has") from error
    except Exception as error:  # whatever the library raises, the message is to blame
        said = f"data is no image that can be decoded (format {quoted(message.format)})"
        raise MessageDefect("data", said) from error
    good = max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS
    check(good, "data", f"is an image of {width}x{height} pixels, more than any camera has")
    check(not is_cut_off(kind, data), "data", f"is a truncated {kind} image")
    return width, height


def image_size(message) -> tuple[int, int]:
    """(width, height) of a camera image. Raises MessageDefect where it cannot be one; looks at no pixel."""
    if is_compressed(message):
        return check_compressed(message)
    check_image(message)
    return message.width, message.height


def image_to_rgb(message) -> np.ndarray:
    """uint8 RGB (H, W, 3) of a camera image, sensor_msgs Image or CompressedImage.

    Bayer patterns are interpolated, 16 bits are reduced to 8, floats must lie in [0, 1]; one channel becomes grey RGB. The
    pixels are as the camera has them, whatever EXIF says: that is what camera_info describes.
    Raises MessageDefect with one sentence where the message cannot be an image.
    """
    if is_compressed(message):
        return _decompressed(message)
    check_image(message)
    row = message.width * BYTES_PER_PIXEL[message.encoding]
    rows = np.frombuffer(message.data, np.uint8).reshape(_rows(message), message.step)[:, :row]
    try:
        if message.encoding == "rgb8":
            return rows.reshape(message.height, message.width, 3)
        if message.encoding in HALF_CHROMA:
            return _from_half_chroma(rows, message.encoding)
        if message.encoding in FLOATS:
            return _from_floats(rows, message)
        return _from_raw(rows, message.encoding, message.is_bigendian)
    except MessageDefect:
        raise
    except Exception as error:  # whatever the library raises, the message is to blame
        said = f"encoding {message.encoding}: the image cannot be converted ({error})"
        raise MessageDefect("encoding", said) from error


def _from_raw(rows: np.ndarray, encoding: str, big_endian: int) -> np.ndarray:
    """rows: uint8 (H, W * bytes), without padding."""
    from rosbags.image import image_to_cvimage

    encoding = MEANT.get(encoding, encoding)
    width = rows.shape[1] // BYTES_PER_PIXEL[encoding]
    message = SimpleNamespace(
        height=len(rows),
        width=width,
        encoding=encoding,
        is_bigendian=big_endian,
        data=np.ascontiguousarray(rows).reshape(-1),
    )
    return np.ascontiguousarray(image_to_cvimage(message, "rgb8"))


def _from_half_chroma(rows: np.ndarray, encoding: str) -> np.ndarray:
    import cv2

    return cv2.cvtColor(np.ascontiguousarray(rows), getattr(cv2, HALF_CHROMA[encoding]))


def _from_floats(rows: np.ndarray, message) -> np.ndarray:
    order = ">" if message.is_bigendian else "<"
    values = (
        np.ascontiguousarray(rows).view(order + FLOATS[message.encoding]).reshape(message.height, message.width, -1)
    )
    low, high = float(values.min()), float(values.max())
    good = math.isfinite(low) and math.isfinite(high) and low >= 0.0 and high <= 1.0
    check(good, "data", f"of {message.encoding} runs from {low:.4g} to {high:.4g}, an image of floats from 0 to 1")
    grey_or_bgr = np.round(255 * values).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey_or_bgr[..., ::-1], (message.height, message.width, 3)))


def _decompressed(message) -> np.ndarray:
    import cv2

    check_compressed(message)
    pattern = message.format.partition(";")[0].strip()
    raw = pattern.startswith("bayer_") and pattern in BYTES_PER_PIXEL  # the pattern may have been packed as it is
    flags = cv2.IMREAD_UNCHANGED if raw else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    except cv2.error:
        image = None
    check(image is not None, "data", f"is no image that can be decoded (format {quoted(message.format)})")
    if raw and image.ndim == 2 and image.itemsize == BYTES_PER_PIXEL[pattern]:
        return _from_raw(image.view(np.uint8).reshape(len(image), -1), pattern, int(sys.byteorder == "big"))
    if image.ndim != 3 or image.dtype != np.uint8:
        image = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)


def depth_from_image(message) -> np.ndarray:
    """float32 (H, W) of a 32FC1 image. Raises MessageDefect."""
    check(message.encoding == "32FC1", "encoding", f"is {quoted(message.encoding)}, depth must be 32FC1")
    check(0 < message.width <= MAX_SIDE and 0 < message.height <= MAX_SIDE, "width", "or height is out of range")
    check(message.step == 4 * message.width, "step", f"is {message.step}, must be {4 * message.width}")
    expected = message.step * message.height
    check(len(message.data) == expected, "data", f"has {len(message.data)} bytes, not step times height")
    depth = np.frombuffer(message.data, ">f4" if message.is_bigendian else "<f4").reshape(message.height, message.width)
    return depth.astype(np.float32)


# ---- cameras


def is_rectified(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified: ``image_rect_color``, ``rect/image``, ``…/compressed`` below it."""
    for part in reversed(topic.strip("/").split("/")):
        words = part.lower().split("_")
        if "rect" in words or "rectified" in words:
            return True
        if "raw" in words:
            return False
    return False


def camera_from_info(message, rectified: bool = False) -> Camera:
    """The camera of the images that a camera_info goes with: binning and region of interest are applied.

    rectified: of the image that its driver has already rectified (matrix P, no distortion).
    Raises MessageDefect with one sentence.
    """
    check(0 < message.width <= MAX_SIDE, "width", f"is {message.width}, which no camera has")
    check(0 < message.height <= MAX_SIDE, "height", f"is {message.height}, which no camera has")
    name, k = _matrix(message, rectified)
    check(bool(np.isfinite(k).all()), name, "has elements that are not finite")
    check(k[0, 0] > 0 and k[1, 1] > 0 and k[2, 2] > 0, name, "is singular (is the camera calibrated?)")
    side = max(message.width, message.height)
    focal, center = k[[0, 1], [0, 1]], k[:2, 2]
    good = k[2, 2] == 1 and focal.min() > side / 100 and focal.max() < 1000 * side and np.abs(center).max() < 10 * side
    check(bool(good), name, f"is not of a camera with {message.width}x{message.height} pixels")
    model, distortion = ("none", ()) if rectified else _distortion(message)
    camera = Camera.from_opencv(message.width, message.height, k, model, distortion)
    try:
        camera.check_distortion()
    except ValueError as error:
        raise MessageDefect("d", f"d: {error}") from None
    return _cut_out(camera, message)


def is_uncalibrated(message, rectified: bool = False) -> bool:
    """Whether a camera_info says that its camera was not calibrated: the focal lengths that would be taken are 0."""
    return not _matrix(message, rectified)[1][0, 0]


def _matrix(message, rectified: bool) -> tuple[str, np.ndarray]:
    """(field, 3x3 matrix) of the images: P where they are rectified, or K where a driver leaves P out."""
    p, k = np.array(message.p, float).reshape(3, 4)[:, :3], np.array(message.k, float).reshape(3, 3)
    return ("p", p) if rectified and p.any() else ("k", k)


def _cut_out(camera: Camera, message) -> Camera:
    """The part of a camera's image that is sent: a region of interest (sizes of 0: all), then binned."""
    roi, bins = message.roi, (max(1, message.binning_x), max(1, message.binning_y))
    width, height = roi.width or camera.width - roi.x_offset, roi.height or camera.height - roi.y_offset
    inside = (
        roi.x_offset + width <= camera.width and roi.y_offset + height <= camera.height and width > 0 and height > 0
    )
    said = f"({roi.x_offset}, {roi.y_offset}, {roi.width}x{roi.height}) does not lie in {camera.width}x{camera.height} pixels"
    check(inside, "roi", said)
    small = width // bins[0], height // bins[1]
    check(
        min(small) > 0,
        "binning_x",
        f"and binning_y of {bins[0]} and {bins[1]} leave nothing of {width}x{height} pixels",
    )
    part = replace(camera, width=width, height=height, cx=camera.cx - roi.x_offset, cy=camera.cy - roi.y_offset)
    return replace(
        part,
        width=small[0],
        height=small[1],
        fx=part.fx / bins[0],
        fy=part.fy / bins[1],
        cx=part.cx / bins[0],
        cy=part.cy / bins[1],
    )


def camera_of_size(camera: Camera, width: int, height: int) -> Camera:
    """The camera for images of this size: they may have been reduced or enlarged as a whole since camera_info was made.

    Raises MessageDefect where their sides have another ratio.
    """
    if (camera.width, camera.height) == (width, height):
        return camera
    same = abs(width * camera.height / (height * camera.width) - 1) <= SAME_SHAPE
    check(same, "width and height", f"are {width}x{height}, camera_info says {camera.width}x{camera.height}")
    return camera.resized(width, height)


def _distortion(message) -> tuple[str, tuple[float, ...]]:
    """The distortion's model and coefficients as `Camera` has them. Raises MessageDefect."""
    d = tuple(float(value) for value in message.d)
    check(all(map(math.isfinite, d)), "d", "has elements that are not finite")
    model, counts = DISTORTION.get(message.distortion_model, ("", ()))
    if not any(d):
        # a fisheye lens is no pinhole, whatever its coefficients
        return (model, (0.0,) * 4) if model == "equidistant" else ("none", ())
    known = ", ".join(DISTORTION)
    check(bool(model), "distortion_model", f"{quoted(message.distortion_model)} is not known, known are {known}")
    if len(d) not in counts:  # drivers with one array for all models pad it with zeros, or leave zeros at its end out
        longest = max(count for count in counts if count <= len(d)) if len(d) > min(counts) else min(counts)
        if not any(d[longest:]) and (len(d) > longest or (model == "rational_polynomial" and len(d) >= 4)):
            d = (*d, *[0.0] * longest)[:longest]
    check(len(d) in counts, "d", f"has {len(d)} elements, {message.distortion_model} has {counts[0]}")
    check(max(map(abs, d)) < MAX_DISTORTION, "d", f"has an element of {max(d, key=abs):.3g}, which no lens has")
    return model, d


# ---- poses


def pose_from_message(message, field: str = "pose") -> Pose:
    """Of geometry_msgs/Pose. Raises MessageDefect where it is not finite or its quaternion has no unit length."""
    return _pose(message.position, message.orientation, f"{field}.position", f"{field}.orientation")


def pose_from_transform(message, field: str = "transform") -> Pose:
    """parent_from_child of geometry_msgs/Transform. Raises MessageDefect as `pose_from_message`."""
    return _pose(message.translation, message.rotation, f"{field}.translation", f"{field}.rotation")


def _pose(place, turn, place_field: str, turn_field: str) -> Pose:
    xyz, xyzw = (place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)
    check(all(map(math.isfinite, xyz)), place_field, "is not finite")
    check(all(map(math.isfinite, xyzw)), turn_field, "is not finite")
    norm = math.hypot(*xyzw)
    check(abs(norm - 1.0) <= 0.01, turn_field, f"has length {norm:.3g}, a rotation has 1")
    check(max(map(abs, xyz)) < MAX_DISTANCE, place_field, "is farther away than any place on earth")
    return Pose.from_quaternion(xyz, np.array(xyzw) / norm)


def odometry_pose(message) -> Pose:
    """The pose that a nav_msgs/Odometry, PoseWithCovarianceStamped, PoseStamped or TransformStamped carries.

    Raises MessageDefect as `pose_from_message`.
    """
    if hasattr(message, "transform"):
        return pose_from_transform(message.transform)
    pose = message.pose
    return pose_from_message(pose.pose, "pose.pose") if hasattr(pose, "pose") else pose_from_message(pose)
