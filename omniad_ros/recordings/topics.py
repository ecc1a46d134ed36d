"""Which topics of a bag are the camera's and the robot's, and which camera_info is that of the images.

Chosen by type, name and whether anything was said on them; a topic that the user names is taken as named.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera
from omniad_ros.recordings import messages
from omniad_ros.recordings.folder import assumed_camera
from omniad_ros.recordings.messages import MessageDefect
from omniad_ros.recordings.storage import Bag, Topic, one_line

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
DEPTH_WORDS = ("depth", "disparity", "infra", "mask", "heatmap")
TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")
FEW = 0.1
"""Share of the messages of the topic with most of them, under which a topic is taken only where there is no other."""
LOOKED_AT = 100
"""Images whose sizes decide which size the camera has."""

logger = logging.getLogger(__name__)


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


def choose(bag: Bag, wanted: str | None, types: Sequence[str], what: str) -> Topic:
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


def _namespace(topic: str) -> str:
    """The namespace of a camera's topic: without the transport and the last name."""
    return _without_transport(topic).rpartition("/")[0]


def _without_transport(topic: str) -> str:
    name, _, last = topic.strip("/").rpartition("/")
    return name if last in TRANSPORTS else topic.strip("/")


# ---- images and their camera


def look(bag: Bag, topic: Topic) -> tuple[tuple[int, int], str]:
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


def camera_of(bag: Bag, wanted: str | None, image: Topic, size: tuple[int, int]) -> tuple[Camera, str]:
    """The camera of an image topic, for images of ``size`` (width, height), and where it is known from: "file" or "guess"."""
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
        return choose(bag, wanted, [INFO_TYPE], "camera_info")
    own = _namespace(image.name)
    beside = [topic for topic in infos if _namespace(topic.name) in (own, _without_transport(image.name))]
    fitting = [topic for topic in beside if _fits(bag, topic, size, rectified)]
    if fitting:
        return min(fitting, key=lambda topic: len(topic.name))
    cameras = {
        _namespace(t.name) for t in bag.topics.values() if t.type in IMAGE_TYPES and t.count and not _likelihood(t)[0]
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
