"""`omniad run`: inspector and renderer as ROS 2 processes, where `ros2 launch` is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from omniad_ros.commands.options import CommandOptions, Flag, unset


def _file_or_window(words: list[str]) -> Path | bool:
    if len(words) > 1:
        raise ValueError(f"one file at most, not '{' '.join(words)}'")
    return Path(words[0]) if words else True


VIEWER = PrimitiveConstructorSpec("*", "[FILE.rrd]", _file_or_window, lambda value: True, lambda value: [str(value)])


@dataclass(frozen=True, kw_only=True)
class RunCommand(CommandOptions):
    """Options of `omniad run`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    image: Annotated[str, arg(metavar="TOPIC")] = "/camera/image_raw"
    """Topic of the camera's images."""
    camera_info: Annotated[str, arg(metavar="TOPIC")] = "/camera/camera_info"
    """Topic of the camera's calibration."""
    odom: Annotated[str, arg(metavar="TOPIC")] = "/odom"
    """Topic of the odometry."""
    cameras: Annotated[str, arg(metavar="NAMES")] = ""
    """Names of several cameras, with spaces or commas between; {camera} stands for them in the topics (default /{camera}/image_raw and so on)."""
    compressed: Flag = False
    """The image topic carries CompressedImage."""
    namespace: Annotated[str, arg(metavar="NAME")] = "/omniad"
    """Namespace of the nodes."""
    params_file: Annotated[Path | None, unset("FILE")] = None
    """ROS parameter file, as config/inspect.yaml."""
    viewer: Annotated[Path | bool, VIEWER, unset("[FILE.rrd]")] = False
    """A live view by rerun: images, map, camera and tracks on a timeline; with a file it is recorded instead."""


def run(options: RunCommand) -> None:
    from omniad_ros.ros.processes import RobotTopics, run_site

    topics = RobotTopics(options.image, options.camera_info, options.odom, options.compressed, options.cameras)
    run_site(options.site, topics, options.namespace, options.params_file, options.viewer)
