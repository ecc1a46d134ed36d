"""Surveys and patrols out of a rosbag2 (sqlite3 or MCAP), read by `rosbags` without a ROS installation.

Topics are found by type and name; odometry is interpolated at each image's stamp; the camera's place on the robot comes from
/tf_static, or is given.
"""

from __future__ import annotations

import bisect
import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.core.images import is_cut_off
from omniad_ros.recordings.folder import assumed_camera
from omniad_ros.recordings.keyframes import KeyframeOptions, KeyframeSelector
from omniad_ros.recordings.source import SurveySource

SUFFIXES = (".mcap", ".db3")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEPTH_WORDS = ("depth", "disparity", "infra", "mask", "heatmap")
GAP_NANOSECONDS = 500_000_000
"""Odometry is not interpolated over longer gaps."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagOptions:
    """Which topics are read, None for the ones that fit. base_from_camera: the optical frame on the robot, None for /tf_static's."""

    image: str | None = None
    camera_info: str | None = None
    odometry: str | None = None
    base_from_camera: Pose | None = None
    keyframes: KeyframeOptions = field(default_factory=KeyframeOptions)


@dataclass(frozen=True)
class Recording:
    """What a bag holds. camera: of its images, as they are; odometry: (stamp in nanoseconds, odom_from_base), by stamp."""

    path: Path
    topic: str
    camera: Camera
    camera_from: str
    base_from_camera: Pose
    odometry: tuple[tuple[int, Pose], ...]
    count: int

    def images(self) -> Iterator[tuple[int, np.ndarray]]:
        """(stamp in nanoseconds, uint8 RGB (H, W, 3)) of every image that can be read, in the order of recording."""
        with _open(self.path) as reader:
            connections = [c for c in reader.connections if c.topic == self.topic]
            for connection, received, raw in reader.messages(connections=connections):
                try:
                    message = reader.deserialize(raw, connection.msgtype)
                    image = _picture(message)
                except Exception as error:  # one broken message must not end a patrol
                    logger.warning("an image of %s cannot be read and is left out: %s", self.topic, error)
                    continue
                if image.shape[:2] == (self.camera.height, self.camera.width):
                    yield _stamp(message.header, received), image

    def pose_at(self, stamp: int) -> Pose | None:
        """odom_from_base at a stamp, interpolated; None where odometry does not say."""
        stamps = self.stamps
        after = bisect.bisect_left(stamps, stamp)
        if after < len(stamps) and stamps[after] == stamp:
            return self.odometry[after][1]
        if after in (0, len(stamps)) or stamps[after] - stamps[after - 1] > GAP_NANOSECONDS:
            return None
        (start, before), (end, behind) = self.odometry[after - 1], self.odometry[after]
        return before.interpolate(behind, (stamp - start) / (end - start))

    @cached_property
    def stamps(self) -> list[int]:
        """Of odometry."""
        return [stamp for stamp, _ in self.odometry]


def mounted(xyz: Sequence[float], rpy: Sequence[float]) -> Pose:
    """base_from_camera (optical) of a camera at ``xyz`` (metres) whose body is turned by roll, pitch and yaw (radians)."""
    return Pose(Rotation.from_euler("xyz", rpy).as_matrix() @ BODY_FROM_OPTICAL, np.asarray(xyz, float))


def is_bag(path: Path) -> bool:
    """Whether a path is a rosbag2: its folder, or its .mcap or .db3 file."""
    if path.is_file():
        return path.suffix in SUFFIXES
    return path.is_dir() and any(map(_is_storage, path.iterdir()))


def _is_storage(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.name.endswith(tuple(f"{suffix}.zstd" for suffix in SUFFIXES))


def read_bag(path: Path, options: BagOptions | None = None, progress: Progress = quiet) -> SurveySource:
    """A survey of a bag's keyframes, with odometry's poses where the bag has odometry.

    Raises OmniadError where the bag cannot be read or has no images.
    """
    options = options or BagOptions()
    recording = open_recording(path, options)
    selector, chosen, stamps = KeyframeSelector(options.keyframes), [], []
    for index, (stamp, image) in enumerate(recording.images()):
        stamps.append(stamp)
        if (keyframe := selector.add(index, image)) is not None:
            chosen.append(keyframe)
        progress(min(1.0, (index + 1) / max(recording.count, 1)), f"choosing keyframes of {path.name}: {len(chosen)}")
    if (keyframe := selector.finish()) is not None:
        chosen.append(keyframe)
    if not chosen:
        raise OmniadError(f"{path} has no image on {recording.topic} that can be read")
    chosen = options.keyframes.thinned(chosen)
    odometry = [recording.pose_at(stamps[index]) for index in chosen]
    poses = tuple(None if pose is None else pose @ recording.base_from_camera for pose in odometry)
    keep = frozenset(chosen)
    if recording.odometry and not any(poses):
        logger.warning(
            "the odometry of %s has no pose at the stamp of any image: are both by the same clock? It is not used", path
        )
    files = tuple(sorted(filter(_is_storage, path.iterdir()))) if path.is_dir() else (path,)
    return SurveySource(
        path, "bag", recording.camera, recording.camera_from, tuple(f"{stamps[i]:019d}.jpg" for i in chosen), poses, files,
        lambda: (image for index, (_, image) in enumerate(recording.images()) if index in keep),
    )  # fmt: skip


def open_recording(path: Path, options: BagOptions | None = None) -> Recording:
    """Look through a bag: camera, odometry, extrinsics, without decoding more than one image.

    Raises OmniadError where the bag cannot be read, a topic is missing, or images have no camera.
    """
    options = options or BagOptions()
    with _open(path) as reader:
        topics = {c.topic: c.msgtype for c in reader.connections}
        counts = {name: topic.msgcount for name, topic in reader.topics.items()}
        image = _choose(path, options.image, [t for t, kind in topics.items() if kind in IMAGE_TYPES], "images")
        infos = [t for t, kind in topics.items() if kind == "sensor_msgs/msg/CameraInfo"]
        info = (
            _sibling(image, infos)
            if options.camera_info is None
            else _choose(path, options.camera_info, infos, "camera_info")
        )
        odometries = [t for t, kind in topics.items() if kind == "nav_msgs/msg/Odometry"]
        odometry = None
        if odometries or options.odometry:
            odometry = _choose(path, options.odometry, odometries, "odometry")
        picture, camera_frame = _first(path, reader, image)
        camera, known_from = _camera(reader, info, picture, rectified="rect" in image.split("/")[-1])
        samples, base_frame = _odometry(reader, odometry)
        extrinsics = options.base_from_camera or _extrinsics(reader, base_frame, camera_frame)
    return Recording(path, image, camera, known_from, extrinsics, samples, counts[image])


def _open(path: Path):
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    if path.is_dir() and not (path / "metadata.yaml").is_file():
        files = sorted(filter(_is_storage, path.iterdir()))
        if not files:
            raise OmniadError(f"{path} is no bag: it holds neither metadata.yaml nor a .mcap or .db3 file")
        path = files[0]
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except Exception as error:  # besides its own errors it lets those of its decompressors and databases through
        reason = " ".join(str(error).split())
        raise OmniadError(
            f"the bag {path} cannot be read: {reason} ('ros2 bag reindex' or 'mcap recover' may save it)"
        ) from error
    return _Closing(reader)


class _Closing:
    """An open reader as a context; what `rosbags` finds broken while reading becomes an OmniadError."""

    def __init__(self, reader):
        self.reader = reader

    def __enter__(self):
        return self.reader

    def __exit__(self, kind, error, _):
        self.reader.close()
        if error is not None and isinstance(error, Exception) and not isinstance(error, (OmniadError, GeneratorExit)):
            raise OmniadError(f"the bag {self.reader.paths[0]} is damaged: {' '.join(str(error).split())}") from error


def _choose(path: Path, wanted: str | None, topics: list[str], what: str) -> str:
    if wanted is not None:
        if wanted not in topics:
            raise OmniadError(f"{path} has no {what} on {wanted}; it has {', '.join(sorted(topics)) or 'none'}")
        return wanted
    if not topics:
        raise OmniadError(f"{path} has no {what}: looked for topics of that message type")
    ranked = sorted(
        topics, key=lambda t: (any(word in t for word in DEPTH_WORDS), "rect" not in t, "compressed" in t, len(t), t)
    )
    if len(topics) > 1:
        logger.warning(
            "%s has several topics with %s; using %s (others: %s)", path, what, ranked[0], ", ".join(ranked[1:])
        )
    return ranked[0]


def _sibling(image: str, infos: list[str]) -> str | None:
    """The camera_info that shares the longest beginning with the image topic."""

    def common(info: str) -> int:
        return next((i for i, (a, b) in enumerate(zip(image, info)) if a != b), min(len(image), len(info)))

    return max(infos, key=common, default=None)


def _messages(reader, topic: str | None):
    connections = [c for c in reader.connections if c.topic == topic]
    for connection, received, raw in reader.messages(connections=connections) if connections else ():
        try:
            message = reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # as above: the others may be sound
            logger.warning("a message of %s cannot be read and is left out: %s", topic, error)
            continue
        yield received, message


def _stamp(header, received: int) -> int:
    stamp = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    return stamp or received


def _first(path: Path, reader, topic: str) -> tuple[np.ndarray, str]:
    reason = ""
    for _, message in _messages(reader, topic):
        try:
            return _picture(message), message.header.frame_id
        except Exception as error:
            reason = reason or f": {' '.join(str(error).split())}"
    raise OmniadError(f"{path} has no image on {topic} that can be read{reason}")


def _picture(message) -> np.ndarray:
    from PIL import Image
    from rosbags.image import message_to_cvimage

    if hasattr(message, "format"):
        with Image.open(io.BytesIO(message.data)) as picture:
            if is_cut_off(picture.format, message.data):
                raise ValueError(f"it is a truncated {picture.format} image")
    image = message_to_cvimage(message, "bgr8")
    if image is None or image.size == 0:
        raise ValueError("an empty image")
    return np.ascontiguousarray(image[..., ::-1])


def _camera(reader, info: str | None, picture: np.ndarray, rectified: bool) -> tuple[Camera, str]:
    height, width = picture.shape[:2]
    for _, message in _messages(reader, info):
        k, p = np.asarray(message.k, float).reshape(3, 3), np.asarray(message.p, float).reshape(3, 4)[:, :3]
        if not k[0, 0]:
            logger.warning("the camera_info on %s is that of an uncalibrated camera (K is 0) and is not used", info)
            break
        if rectified and p[0, 0]:
            k = p
        model = message.distortion_model or "none"
        model = {"fisheye": "equidistant"}.get(model, model)
        try:
            camera = Camera.from_opencv(
                int(message.width) or width, int(message.height) or height, k, "none" if rectified else model,
                () if rectified else tuple(float(d) for d in message.d),
            )  # fmt: skip
        except ValueError as error:
            raise OmniadError(f"the camera_info on {info} cannot be used: {error}") from None
        return camera.resized(width, height), "file"
    return assumed_camera(width, height), "guess"


def _odometry(reader, topic: str | None) -> tuple[tuple[tuple[int, Pose], ...], str | None]:
    samples: dict[int, Pose] = {}
    base = None
    for received, message in _messages(reader, topic):
        p, q = message.pose.pose.position, message.pose.pose.orientation
        try:
            samples[_stamp(message.header, received)] = Pose.from_quaternion((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
        except ValueError:
            continue
        base = base or message.child_frame_id
    return tuple(sorted(samples.items(), key=lambda item: item[0])), base


def _extrinsics(reader, base: str | None, camera: str) -> Pose:
    """base_from_camera along /tf_static; without it the camera is taken to look ahead from the middle of the robot."""
    edges: dict[str, list[tuple[str, Pose]]] = defaultdict(list)
    for _, message in _messages(reader, "/tf_static"):
        for transform in message.transforms:
            t, q = transform.transform.translation, transform.transform.rotation
            parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            try:
                pose = Pose.from_quaternion((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
            except ValueError:
                continue
            edges[parent].append((child, pose))
            edges[child].append((parent, pose.inverse()))
    if base:
        known, waiting = {base.lstrip("/"): Pose.identity()}, [base.lstrip("/")]
        while waiting:
            frame = waiting.pop()
            for other, pose in edges[frame]:
                if other not in known:
                    known[other] = known[frame] @ pose
                    waiting.append(other)
        if camera.lstrip("/") in known:
            return known[camera.lstrip("/")]
        logger.warning(
            "/tf_static does not say where %s is on %s: assuming that it looks ahead from there", camera, base
        )
    return Pose(BODY_FROM_OPTICAL, np.zeros(3))
