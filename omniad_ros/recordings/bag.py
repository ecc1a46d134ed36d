"""Surveys and patrols out of a rosbag2 (SQLite or MCAP), without a ROS installation.

Topics are found by type and name; odometry is interpolated at each image's stamp; the camera's place on the robot comes from
/tf and /tf_static, or is given. What had to be assumed, or is left out, is said once.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.recordings import messages
from omniad_ros.recordings.folder import assumed_camera
from omniad_ros.recordings.frames import PoseTrack, TransformTree
from omniad_ros.recordings.keyframes import KeyframeOptions, KeyframeSelector
from omniad_ros.recordings.messages import MessageDefect
from omniad_ros.recordings.source import Frame, FrameSource, SurveySource, UniqueNames
from omniad_ros.recordings.storage import Bag, Topic, is_storage, one_line, storage_files

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
POSE_TYPES = (
    "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/PoseWithCovarianceStamped", "geometry_msgs/msg/TransformStamped",
)  # fmt: skip
"""Read as odometry only where their topic is named: a goal has this type, too."""
TF_TYPE, TF, TF_STATIC = "tf2_msgs/msg/TFMessage", "/tf", "/tf_static"
DEPTH_WORDS = ("depth", "disparity", "infra", "mask", "heatmap")
TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")
FEW = 0.1
"""Share of the messages of the topic with most of them, under which a topic is taken only where there is no other."""
LOOKED_AT = 100
"""Images whose sizes decide which size the camera has."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BagOptions:
    """Which topics are read, None for the ones that fit. base_from_camera: the optical frame on the robot, None for /tf's."""

    image: str | None = None
    camera_info: str | None = None
    odometry: str | None = None
    base_from_camera: Pose | None = None
    keyframes: KeyframeOptions = field(default_factory=KeyframeOptions)


@dataclass(frozen=True)
class Recording:
    """What a bag holds: the images of one topic, their camera, and where the camera was.

    base_from_camera: of an image's stamp (nanoseconds) and frame; count: of images.
    """

    path: Path
    topic: Topic
    camera: Camera
    camera_from: str
    odometry: PoseTrack
    base_from_camera: Callable[[int, str], Pose]

    def frames(self) -> Iterator[Frame]:
        """Every image that can be read, in the order of recording."""
        names, left_out = UniqueNames(), Counter()
        with Bag(self.path) as bag:
            for received, message in decoded(bag, self.topic):
                try:
                    size = messages.image_size(message)
                    if size != (self.camera.width, self.camera.height):
                        left_out[size] += 1
                        if left_out[size] == 1:
                            self._say_size(size)
                        continue
                    image = messages.image_to_rgb(message)
                except MessageDefect as defect:  # one broken message must not end a patrol
                    logger.warning("an image of %s cannot be read and is left out: %s", self.topic.name, defect)
                    continue
                stamp = stamp_of(message.header, received)
                mount = self.base_from_camera(stamp, message.header.frame_id)
                yield Frame(stamp, names(stamp), image, self.camera, mount)

    def _say_size(self, size: tuple[int, int]) -> None:
        own = f"{self.camera.width}x{self.camera.height}"
        said = "%s has images of another size, %dx%d instead of %s: they are left out"
        logger.warning(said, self.topic.name, *size, own)


def mounted(xyz: Sequence[float], rpy: Sequence[float]) -> Pose:
    """base_from_camera (optical) of a camera at ``xyz`` (metres) whose body is turned by roll, pitch and yaw (radians)."""
    return Pose(Rotation.from_euler("xyz", rpy).as_matrix() @ BODY_FROM_OPTICAL, np.asarray(xyz, float))


def is_bag(path: Path) -> bool:
    """Whether a path is a rosbag2: its folder, or its .mcap or .db3 file."""
    return is_storage(path) if path.is_file() else path.is_dir() and any(map(is_storage, path.iterdir()))


def open_bag(path: Path, options: BagOptions | None = None) -> FrameSource:
    """All frames of a bag, with its odometry. Raises OmniadError where the bag cannot be read or has no images."""
    recording = open_recording(path, options)
    odometry = tuple(zip(recording.odometry.stamps, recording.odometry.poses))
    return FrameSource(
        path, "bag", recording.camera, recording.camera_from, odometry, recording.topic.count, True, recording.frames
    )


def read_bag(path: Path, options: BagOptions | None = None, progress: Progress = quiet) -> SurveySource:
    """A survey of a bag's keyframes, with odometry's poses where the bag has odometry.

    Raises OmniadError where the bag cannot be read or has no images.
    """
    options = options or BagOptions()
    recording = open_recording(path, options)
    selector, chosen, facts = KeyframeSelector(options.keyframes), [], []
    for index, frame in enumerate(recording.frames()):
        facts.append((frame.stamp, frame.name, frame.base_from_camera))
        if (keyframe := selector.add(index, frame.image)) is not None:
            chosen.append(keyframe)
        share = min(1.0, (index + 1) / max(recording.topic.count, 1))
        progress(share, f"choosing keyframes of {path.name}: {len(chosen)}")
    if (keyframe := selector.finish()) is not None:
        chosen.append(keyframe)
    if not chosen:
        raise OmniadError(f"{path} has no image on {recording.topic.name} that can be read")
    chosen = options.keyframes.thinned(chosen)
    poses = []
    for index in chosen:
        stamp, _, mount = facts[index]
        odom_from_base = recording.odometry.at(stamp)
        poses.append(None if odom_from_base is None else odom_from_base @ mount)
    if len(recording.odometry) and not any(poses):
        said = "the odometry of %s has no pose at the stamp of any image: are both by the same clock? It is not used"
        logger.warning(said, path)
    keep, names = frozenset(chosen), tuple(f"{facts[i][1]}.jpg" for i in chosen)
    return SurveySource(
        path, "bag", recording.camera, recording.camera_from, names, tuple(poses), tuple(storage_files(path)[0]),
        lambda: (frame.image for index, frame in enumerate(recording.frames()) if index in keep),
    )  # fmt: skip


def open_recording(path: Path, options: BagOptions | None = None) -> Recording:
    """Look through a bag: camera, odometry, extrinsics; only the first images are decoded.

    Raises OmniadError where the bag cannot be read, a topic is missing, or no image can be read.
    """
    options = options or BagOptions()
    with Bag(path) as bag:
        image = _choose(bag, options.image, IMAGE_TYPES, "images")
        (width, height), camera_frame = _look(bag, image)
        camera, camera_from = _camera(bag, options.camera_info, image, (width, height))
        tree = _transforms(bag)
        odometry, base = _odometry(bag, options.odometry, tree, camera_frame)
    mount = options.base_from_camera
    extrinsics = _Extrinsics(tree, base) if mount is None else lambda stamp, frame: mount
    return Recording(path, image, camera, camera_from, odometry, extrinsics)


def stamp_of(header, received: int) -> int:
    """Nanoseconds of a message: its header's stamp, or when it was recorded where the header has none."""
    return messages.nanoseconds(header.stamp) or received


@cache
def _typestore():
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.LATEST)


def decoded(bag: Bag, topic: Topic | None) -> Iterator[tuple[int, object]]:
    """(nanoseconds when it was recorded, message) of a topic; what cannot be read is left out, and said.

    The types read here have not changed since ROS 2 has been: the definitions that the bag carries are not needed.
    """
    for raw in bag.messages([topic.name]) if topic else ():
        try:
            message = _typestore().deserialize_cdr(raw.data, topic.type)
        except Exception as error:  # the others may be sound
            logger.warning("a message of %s cannot be read and is left out: %s", topic.name, one_line(error))
            continue
        yield raw.received, message


# ---- topics


def _choose(bag: Bag, wanted: str | None, types: Sequence[str], what: str) -> Topic:
    """The topic that was named, else the likeliest of those with messages."""
    found = {topic.name: topic for topic in bag.topics.values() if topic.type in types and topic.encoding == "cdr"}
    if wanted is not None:
        if wanted not in found:
            there = ", ".join(sorted(found)) or "none"
            raise OmniadError(f"{bag.path} has no {what} on {wanted}; it has {there}")
        return found[wanted]
    spoken = [topic for topic in found.values() if topic.count]
    if not spoken:
        raise OmniadError(f"{bag.path} has no {what}: {_what_else(bag, types, bool(found))}")
    most = max(topic.count for topic in spoken)
    ranked = sorted(spoken, key=lambda topic: (topic.count < FEW * most, *_likelihood(topic)))
    if len(ranked) > 1:
        others = ", ".join(topic.name for topic in ranked[1:])
        said = "%s has several topics with %s; using %s (others: %s)"
        logger.warning(said, bag.path, what, ranked[0].name, others)
    return ranked[0]


def _what_else(bag: Bag, types: Sequence[str], silent: bool) -> str:
    if silent:
        return "its topics of that type have no messages"
    foreign = [topic for topic in bag.topics.values() if topic.count and (topic.type in types or "Image" in topic.type)]
    if foreign:
        return (
            f"{foreign[0].name} has {foreign[0].type or 'unnamed messages'} in {foreign[0].encoding}, which is not read"
        )
    return "looked for topics of that message type"


def _likelihood(topic: Topic) -> tuple:
    name = topic.name
    doubtful = any(word in name.lower() for word in DEPTH_WORDS)
    return doubtful, not messages.is_rectified(name), "compressed" in name, len(name), name


def _camera_of(topic: str) -> str:
    """The namespace of a camera's topic: without the transport and the last name."""
    return _without_transport(topic).rpartition("/")[0]


def _without_transport(topic: str) -> str:
    name, _, last = topic.strip("/").rpartition("/")
    return name if last in TRANSPORTS else topic.strip("/")


# ---- images and their camera


def _look(bag: Bag, topic: Topic) -> tuple[tuple[int, int], str]:
    """The size (width, height) that most of the first images have, and the frame that they name."""
    sizes, frame, reason, readable = Counter(), "", "", False
    for _, message in itertools.islice(decoded(bag, topic), LOOKED_AT):
        try:
            size = messages.image_size(message)
            readable = readable or messages.image_to_rgb(message) is not None
        except MessageDefect as defect:
            reason = reason or f": {defect}"
            continue
        sizes[size] += 1
        frame = frame or message.header.frame_id
    if not readable:
        raise OmniadError(f"{bag.path} has no image on {topic.name} that can be read{reason}")
    return sizes.most_common(1)[0][0], frame


def _camera(bag: Bag, wanted: str | None, image: Topic, size: tuple[int, int]) -> tuple[Camera, str]:
    rectified = messages.is_rectified(image.name)
    topic = _info_topic(bag, wanted, image, size, rectified)
    uncalibrated = 0
    for _, message in decoded(bag, topic):
        if messages.is_uncalibrated(message, rectified):
            uncalibrated += 1
            continue
        try:
            camera = messages.camera_from_info(message, rectified)
            fitted = messages.camera_of_size(camera, *size)
        except MessageDefect as defect:
            raise OmniadError(f"the camera_info on {topic.name} cannot be used: {defect}") from None
        if fitted is not camera:
            said = "the camera_info on %s is of images of %dx%d: it is scaled to the %dx%d of %s"
            logger.warning(said, topic.name, camera.width, camera.height, *size, image.name)
        return fitted, "file"
    if uncalibrated:
        said = "the camera_info on %s is that of an uncalibrated camera (K is 0) and is not used"
        logger.warning(said, topic.name)
    return assumed_camera(*size), "guess"


def _info_topic(bag: Bag, wanted: str | None, image: Topic, size: tuple[int, int], rectified: bool) -> Topic | None:
    """The camera_info of the camera that took the images: named, beside them, or the only one there is and of their size."""
    infos = [
        topic for topic in bag.topics.values() if topic.type == INFO_TYPE and topic.encoding == "cdr" and topic.count
    ]
    if wanted is not None:
        return _choose(bag, wanted, [INFO_TYPE], "camera_info")
    own = _camera_of(image.name)
    beside = [topic for topic in infos if _camera_of(topic.name) in (own, _without_transport(image.name))]
    fitting = [topic for topic in beside if _fits(bag, topic, size, rectified)]
    if fitting:
        return min(fitting, key=lambda topic: len(topic.name))
    cameras = {
        _camera_of(t.name) for t in bag.topics.values() if t.type in IMAGE_TYPES and t.count and not _likelihood(t)[0]
    }
    if len(infos) == 1 and len(cameras) <= 1 and _fits(bag, infos[0], size, rectified, exactly=True):
        said = "%s has no camera_info beside it: that of %s is taken, which has its size"
        logger.warning(said, image.name, infos[0].name)
        return infos[0]
    if infos:
        others = ", ".join(sorted(topic.name for topic in infos))
        said = "the camera_info on %s is not that of %s (%dx%d): it is not used; name it by --camera-info if it is"
        logger.warning(said, others, image.name, *size)
    return None


def _fits(bag: Bag, topic: Topic, size: tuple[int, int], rectified: bool, exactly: bool = False) -> bool:
    """Whether a camera_info may be of images of this size; one that says nothing, or nothing that can be used, may."""
    for _, message in decoded(bag, topic):
        if messages.is_uncalibrated(message, rectified):
            continue
        try:
            camera = messages.camera_from_info(message, rectified)
        except MessageDefect:
            return not exactly
        try:
            return messages.camera_of_size(camera, *size) == camera or not exactly
        except MessageDefect:
            return False
    return True


# ---- where the camera was


def _transforms(bag: Bag) -> TransformTree:
    tree = TransformTree()
    for name in (TF, TF_STATIC):
        topic = bag.topics.get(name)
        for received, message in decoded(bag, topic if topic and topic.type == TF_TYPE else None):
            for transform in message.transforms:
                try:
                    pose = messages.pose_from_transform(transform.transform)
                except MessageDefect:
                    continue
                stamp = None if name == TF_STATIC else stamp_of(transform.header, received)
                tree.add(transform.header.frame_id, transform.child_frame_id, pose, stamp)
    return tree


def _odometry(bag: Bag, wanted: str | None, tree: TransformTree, camera_frame: str) -> tuple[PoseTrack, str]:
    """odom_from_base by stamp, and the name of the base frame; empty where nothing says how the robot moved."""
    spoken = any(topic.type == ODOMETRY_TYPE and topic.count for topic in bag.topics.values())
    if wanted is not None or spoken:
        topic = _choose(bag, wanted, [ODOMETRY_TYPE, *(POSE_TYPES if wanted else ())], "odometry")
        track, base = _odometry_of(bag, topic)
        if len(track):
            return track, base if base else _assumed_base(topic, tree, camera_frame)
    found = tree.odometry(camera_frame) if tree.knows(camera_frame) else None
    if found is not None:
        parent, base, track = found
        said = "%s has no odometry that can be used but %s -> %s on /tf: that is taken"
        logger.warning(said, bag.path, parent, base)
        return track, base
    if wanted is None and (posed := sorted(t.name for t in bag.topics.values() if t.type in POSE_TYPES and t.count)):
        said = "%s has no odometry; if %s says where the robot is, name it by --odom"
        logger.warning(said, bag.path, " or ".join(posed))
    return PoseTrack(), tree.robot_frame(camera_frame) if tree.knows(camera_frame) else ""


def _odometry_of(bag: Bag, topic: Topic) -> tuple[PoseTrack, str]:
    samples: dict[int, Pose] = {}
    base, refused, reason = "", 0, ""
    for received, message in decoded(bag, topic):
        try:
            samples[stamp_of(message.header, received)] = messages.odometry_pose(message)
        except MessageDefect as defect:
            refused, reason = refused + 1, reason or str(defect)
            continue
        base = base or getattr(message, "child_frame_id", "")
    if refused:
        said = (
            "%d messages of odometry on %s are not used: %s"
            if samples
            else "none of the %d messages of odometry on %s can be used: %s"
        )
        logger.warning(said, refused, topic.name, reason)
    return PoseTrack.of(samples), base


def _assumed_base(topic: Topic, tree: TransformTree, camera_frame: str) -> str:
    base = tree.robot_frame(camera_frame) if tree.knows(camera_frame) else ""
    said = "the odometry on %s names no child_frame_id: assuming that it is of %s"
    logger.warning(said, topic.name, base or "the robot's middle")
    return base


class _Extrinsics:
    """base_from_camera along /tf and /tf_static; without them the camera is taken to look ahead from the middle of the robot."""

    def __init__(self, tree: TransformTree, base: str):
        self.tree, self.base = tree, base
        self._said: set[str] = set()

    def __call__(self, stamp: int, camera: str) -> Pose:
        if not self.base:
            return Pose(BODY_FROM_OPTICAL, np.zeros(3))
        found = self.tree.lookup(self.base, camera, stamp)
        if found is not None:
            return found
        if camera not in self._said:
            self._said.add(camera)
            said = "/tf_static does not say where %s is on %s: assuming that it looks ahead from there"
            logger.warning(said, camera or "the camera", self.base)
        return Pose(BODY_FROM_OPTICAL, np.zeros(3))
