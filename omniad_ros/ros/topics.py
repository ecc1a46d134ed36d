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


def camera_topic(name: str, compressed: bool) -> tuple[str, bool]:
    """(topic, whether it carries CompressedImage): with ``compressed``, `X` and `X/compressed` are the same, the latter."""
    if compressed and not name.endswith(COMPRESSED):
        return name + COMPRESSED, True
    return name, name.endswith(COMPRESSED)


def image_subscription(node: Node, compressed: bool) -> tuple[type, str]:
    """(type, full name) of the images that a node takes for its topics ``image`` and ``image/compressed``.

    Who remaps ``image/compressed`` has it; else it follows ``image``, whichever of the two names that was remapped to.
    """
    own = "image" + COMPRESSED
    remapped = node.resolve_topic_name(own)
    if compressed and remapped != node.resolve_topic_name(own, only_expand=True):
        return CompressedImage, remapped
    topic, packed = camera_topic(node.resolve_topic_name("image"), compressed)
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
