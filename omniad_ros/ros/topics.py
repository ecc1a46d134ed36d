"""Names that users give: topics and namespaces, and what a camera's topic says of its images.

ROS 2 meets a name that cannot be with a traceback of its own; here it becomes one sentence before anything is started.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from rclpy.exceptions import InvalidNamespaceException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_namespace import validate_namespace
from sensor_msgs.msg import CompressedImage, Image

from omniad_ros.core.feedback import OmniadError
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros.inspector_parameters import camera_names

IMAGE, CAMERA_INFO, CAMERA = "/camera/image_raw", "/camera/camera_info", "{camera}"
"""Topics of a camera where nobody says otherwise; and what stands for its name in the topics of a rig of several."""
COMPRESSED = "/compressed"
"""What image_transport puts behind a camera's topic."""


def check_namespace(name: str) -> str:
    """The namespace, with the slash before it that many leave out. Raises OmniadError where none may be called so."""
    namespace = "/" + name.strip("/")
    try:
        validate_namespace(namespace)
    except InvalidNamespaceException as error:
        raise OmniadError(f"'{name}' is no name for a namespace: {_reason(error)}") from None
    return namespace


def within(namespace: str, name: str) -> str:
    """A name in a namespace, which is the root where empty; itself where it begins with a slash."""
    return name if name.startswith("/") else f"/{namespace.strip('/')}/{name}".replace("//", "/")


def check_topic(name: str, namespace: str) -> str:
    """The full name of a topic, which may be given relative to the namespace. Raises OmniadError where none may be called so."""
    try:
        full = expand_topic_name(name, "inspector", namespace)
        validate_full_topic_name(full)
    except Exception as error:  # rclpy raises a kind for each part of it
        raise OmniadError(f"'{name}' is no name for a topic: {_reason(error)}") from None
    return full


def camera_remappings(cameras: str, image: str, camera_info: str, namespace: str) -> dict[str, str]:
    """The full names of the topics that the nodes' ``image`` and ``camera_info`` are remapped to, of each camera that the parameter
    ``cameras`` names; these stand as ``{camera}`` in what is given, and in the topics that are by default.

    Raises OmniadError where a name cannot be, or all cameras would have one topic.
    """
    names, given = camera_names(cameras), {"image": image, "camera_info": camera_info}
    if names == [""]:
        return {part: check_topic(name, namespace) for part, name in given.items()}
    for part, default in (("image", IMAGE), ("camera_info", CAMERA_INFO)):
        if given[part] == within(namespace.rpartition("/")[0], default.lstrip("/")) or given[part] == default:
            given[part] = given[part].replace("/camera/", f"/{CAMERA}/")
        if CAMERA not in given[part]:
            raise OmniadError(
                f"'{given[part]}' is the topic of one camera: write {CAMERA} where the names of several stand"
            )
    return {
        f"{name}/{part}": check_topic(topic.replace(CAMERA, name), namespace)
        for name in names
        for part, topic in given.items()
    }


def camera_topic(name: str, compressed: bool) -> tuple[str, bool]:
    """(topic, whether it carries CompressedImage): with ``compressed``, `X` and `X/compressed` are the same, the latter."""
    if compressed and not name.endswith(COMPRESSED):
        return name + COMPRESSED, True
    return name, name.endswith(COMPRESSED)


def image_subscription(node: Node, compressed: bool, prefix: str = "") -> tuple[type, str]:
    """(type, full name) of the images that a node takes for its topics ``image`` and ``image/compressed``, with this before them.

    Who remaps ``image/compressed`` has it; else it follows ``image``, whichever of the two names that was remapped to.
    """
    own = f"{prefix}image{COMPRESSED}"
    remapped = node.resolve_topic_name(own)
    if compressed and remapped != node.resolve_topic_name(own, only_expand=True):
        return CompressedImage, remapped
    topic, packed = camera_topic(node.resolve_topic_name(f"{prefix}image"), compressed)
    return (CompressedImage if packed else Image), topic


def rectified_contradiction(topic: str, rectified: bool) -> str:
    """One sentence where a topic's name says otherwise of its images than the parameter ``rectified``; else empty."""
    if decoding.is_rectified(topic) and not rectified:
        return f"{topic} looks rectified by its name, but the parameter rectified is false: its distortion is removed once more"
    if rectified and not decoding.is_rectified(topic) and "raw" in re.split(r"[/_]", topic.lower()):
        return f"{topic} looks unrectified by its name, but the parameter rectified is true: its distortion stays"
    return ""


def says(parameters_file: Path, name: str) -> bool:
    """Whether a ROS parameter file sets a parameter, of whichever node. Raises OmniadError where it is not YAML."""

    def in_it(entry) -> bool:
        return isinstance(entry, dict) and (name in entry or any(map(in_it, entry.values())))

    try:
        return in_it(yaml.safe_load(Path(parameters_file).read_text()))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OmniadError(f"{parameters_file} is not a file of parameters: {str(error).splitlines()[0]}") from None


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0].split(": ", 1)[-1].rstrip(":").split(", at ")[0]
