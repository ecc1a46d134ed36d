"""Inspect with a real robot: ros2 launch omniad_ros inspect.launch.py site:=SITE image:=… camera_info:=… odom:=…

Included under PushRosNamespace, the nodes and the default names of the robot's topics lie within that namespace: one line a robot.
Who has a /tf for each robot, as Nav2 has, gives tf:=tf tf_static:=tf_static.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchDescription
from omniad_ros.core.feedback import OmniadError
from omniad_ros.recordings.messages import is_rectified
from omniad_ros.ros import topics
from omniad_ros.ros.processes import program

CONFIG = Path(__file__).resolve().parents[1] / "config"
NAMESPACE = "omniad"
ROBOT, TF = ("image", "camera_info", "odom"), ("tf", "tf_static")
RESPAWN_DELAY = 2.0
ARGUMENTS = {
    "site": (None, "folder of the site, as built by 'omniad build'"),
    "image": ("/camera/image_raw", "topic of the camera's images; of several cameras with {camera} for their names"),
    "camera_info": ("/camera/camera_info", "topic of the camera's calibration, likewise"),
    "odom": ("/odom", "topic of the odometry"),
    "tf": ("/tf", "topic of the transforms; without a slash: in the namespace in which this file is included"),
    "tf_static": ("/tf_static", "topic of the transforms that do not change, likewise"),
    "compressed": (
        "",
        "true: the images are taken as <image>/compressed; empty: as in params_file, or by the topic's name",
    ),
    "rectified": ("", "true: the images are already rectified; empty: as in params_file, or by the topic's name"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "false: a lifecycle manager configures and activates the nodes"),
    "renderer": ("true", "false: nerf_renderer runs elsewhere"),
    "params_file": (str(CONFIG / "inspect.yaml"), "file with the nodes' parameters"),
    "namespace": (NAMESPACE, "namespace of the nodes; without a slash: within that in which this file is included"),
    "respawn": ("true", "start a node again that ended by itself"),
    "rviz": ("false", "start RViz with a useful picture"),
    "log_level": ("info", "debug, info, warn or error"),
}
GIVEN = {
    "cameras": "names of several cameras: 'front left'",
    "reference": "who renders: renderer, inspector or none",
    "publish_tf": "true: publish map -> odom",
    "map_frame": "name of the map's frame",
    "odom_frame": "name of the odometry's frame",
    "base_frame": "name of the robot's frame",
    "camera_frame": "name of the camera's optical frame",
    "extrinsics_from_tf": "true: take the camera's place on the robot from /tf",
    "camera_xyz": "the camera's place on the robot where /tf does not say: '[x, y, z]' in metres",
    "camera_rpy": "its roll, pitch and yaw: '[r, p, y]' in radians",
    "state_file": "file in which tracks survive a restart",
    "report_directory": "folder of the reports",
}
"""Parameters by their names; empty: as in params_file."""
OF_BOTH = ("map_frame", "cameras")
BOOLEANS = ["true", "false", "True", "False", "1", "0", "yes", "no"]
CHOICES = {
    **dict.fromkeys(("use_sim_time", "autostart", "renderer", "rviz", "respawn"), BOOLEANS),
    **{name: ["", *BOOLEANS] for name in ("compressed", "rectified")}, "log_level": ["debug", "info", "warn", "error", "fatal"],
}  # fmt: skip
RVIZ_TOPICS = ("map_points", "route", "pose", "markers", "overlay", "reference/image")


def start(context) -> list:
    given = {name: context.launch_configurations[name] for name in (*ARGUMENTS, *GIVEN)}
    flags = {name: text.lower() in ("true", "1", "yes") for name, text in given.items() if name in CHOICES}
    if not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file:={given['params_file']} is not a file")
    around = context.launch_configurations.get("ros_namespace", "")
    try:
        namespace = topics.check_namespace(topics.within(around, given["namespace"]))
        for name in ROBOT:
            if given[name] == ARGUMENTS[name][0]:
                given[name] = topics.within(around, given[name].lstrip("/"))
        cameras = topics.camera_remappings(given["cameras"], given["image"], given["camera_info"], namespace)
        remappings = [*cameras.items(), ("odom", topics.check_topic(given["odom"], namespace))]
        remappings += [(f"/{name}", topics.check_topic(topics.within(around, given[name]), namespace)) for name in TF]
        remappings.append(("/initialpose", topics.within(around, "initialpose")))
        said = given["params_file"] != ARGUMENTS["params_file"][0] and topics.says(given["params_file"], "rectified")
    except OmniadError as error:
        raise RuntimeError(str(error)) from None
    own = {name: parsed(name, given[name]) for name in GIVEN if given[name]}
    if given["compressed"]:
        own["compressed"] = flags["compressed"]
    common = {"site": given["site"], "use_sim_time": flags["use_sim_time"], "autostart": flags["autostart"]}
    common |= {name: own[name] for name in OF_BOTH if name in own}
    if given["rectified"]:
        common["rectified"] = flags["rectified"]
    elif not said:
        common["rectified"] = all(is_rectified(topic) for name, topic in cameras.items() if name.endswith("image"))

    def node(name: str, **extra) -> Node:
        return Node(
            **program(name), name=name, namespace=namespace, output="screen", remappings=remappings,
            respawn=flags["respawn"], respawn_delay=RESPAWN_DELAY,
            parameters=[given["params_file"], {**common, **extra}], ros_arguments=["--log-level", given["log_level"]],
        )  # fmt: skip

    nodes = [node("inspector", **own)]
    if flags["renderer"]:
        nodes.append(node("nerf_renderer"))
    if flags["rviz"]:
        nodes.append(rviz(namespace))
    return nodes


def parsed(name: str, text: str):
    """What a parameter is given: a truth value, an array, else a text."""
    try:
        value = yaml.safe_load(text)
        if isinstance(value, list):
            return [float(number) for number in value]
    except (yaml.YAMLError, TypeError, ValueError):
        raise RuntimeError(f"{name}:={text} is not a value of a parameter") from None
    return value if isinstance(value, bool) else text


def rviz(namespace: str) -> Node | LogInfo:
    try:
        get_package_prefix("rviz2")
    except (PackageNotFoundError, LookupError, OSError):  # the latter: no ROS installation
        return LogInfo(
            msg="RViz is not started: the package rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2)"
        )
    renamed = [(f"/{NAMESPACE}/{topic}", f"{namespace.rstrip('/')}/{topic}") for topic in RVIZ_TOPICS]
    arguments = ["-d", str(CONFIG / "inspect.rviz")]
    return Node(package="rviz2", executable="rviz2", arguments=arguments, remappings=renamed, output="log")


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, description=text, default_value=default, choices=CHOICES.get(name))
        for name, (default, text) in (ARGUMENTS | {name: ("", text) for name, text in GIVEN.items()}).items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
