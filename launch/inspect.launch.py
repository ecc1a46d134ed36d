"""Inspect with a real robot: ros2 launch omniad_ros inspect.launch.py site:=SITE image:=… camera_info:=… odom:=…"""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchDescription
from omniad_ros.core.feedback import OmniadError
from omniad_ros.recordings.messages import is_rectified
from omniad_ros.ros import topics
from omniad_ros.ros.processes import program

CONFIG = Path(__file__).resolve().parents[1] / "config"
NAMESPACE = "/omniad"
ARGUMENTS = {
    "site": (None, "folder of the site, as built by 'omniad build'"),
    "image": ("/camera/image_raw", "topic of the camera's images"),
    "camera_info": ("/camera/camera_info", "topic of the camera's calibration"),
    "odom": ("/odom", "topic of the odometry"),
    "compressed": (
        "",
        "true: the images are taken as <image>/compressed; empty: as in params_file, or by the topic's name",
    ),
    "rectified": ("", "true: the images are already rectified; empty: as in params_file, or by the topic's name"),
    "use_sim_time": ("false", "take the time from /clock"),
    "autostart": ("true", "false: a lifecycle manager configures and activates the nodes"),
    "renderer": ("true", "false: nerf_renderer runs elsewhere"),
    "params_file": (str(CONFIG / "inspect.yaml"), "file with the nodes' parameters"),
    "namespace": (NAMESPACE, "namespace of the nodes"),
    "rviz": ("false", "start RViz with a useful picture"),
    "log_level": ("info", "debug, info, warn or error"),
}
BOOLEANS = ["true", "false", "True", "False", "1", "0", "yes", "no"]
CHOICES = {
    **dict.fromkeys(("use_sim_time", "autostart", "renderer", "rviz"), BOOLEANS),
    **{name: ["", *BOOLEANS] for name in ("compressed", "rectified")}, "log_level": ["debug", "info", "warn", "error", "fatal"],
}  # fmt: skip
RVIZ_TOPICS = ("map_points", "route", "pose", "markers", "overlay", "reference/image")


def start(context) -> list:
    given = {name: context.launch_configurations[name] for name in ARGUMENTS}
    flags = {
        name: given[name].lower() in ("true", "1", "yes")
        for name in ("compressed", "rectified", "use_sim_time", "autostart")
    }
    if not Path(given["params_file"]).is_file():
        raise RuntimeError(f"params_file:={given['params_file']} is not a file")
    try:
        namespace = topics.check_namespace(given["namespace"])
        remappings = [(name, topics.check_topic(given[name], namespace)) for name in ("image", "camera_info", "odom")]
        said = given["params_file"] != ARGUMENTS["params_file"][0] and topics.says(given["params_file"], "rectified")
    except OmniadError as error:
        raise RuntimeError(str(error)) from None
    parameters = {"site": given["site"], "use_sim_time": flags["use_sim_time"], "autostart": flags["autostart"]}
    if given["rectified"]:
        parameters["rectified"] = flags["rectified"]
    elif not said:
        parameters["rectified"] = is_rectified(given["image"])

    def node(name: str, **extra) -> Node:
        return Node(
            **program(name), name=name, namespace=namespace, output="screen", remappings=remappings,
            parameters=[given["params_file"], {**parameters, **extra}], ros_arguments=["--log-level", given["log_level"]],
        )  # fmt: skip

    nodes = [node("inspector", **({"compressed": flags["compressed"]} if given["compressed"] else {}))]
    if given["renderer"].lower() in ("true", "1", "yes"):
        nodes.append(node("nerf_renderer"))
    if given["rviz"].lower() in ("true", "1", "yes"):
        nodes.append(rviz(namespace))
    return nodes


def rviz(namespace: str) -> Node | LogInfo:
    try:
        get_package_prefix("rviz2")
    except (PackageNotFoundError, LookupError, OSError):  # the latter: no ROS installation
        return LogInfo(
            msg="RViz is not started: the package rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2)"
        )
    renamed = [(f"{NAMESPACE}/{topic}", f"{namespace.rstrip('/')}/{topic}") for topic in RVIZ_TOPICS]
    arguments = ["-d", str(CONFIG / "inspect.rviz")]
    return Node(package="rviz2", executable="rviz2", arguments=arguments, remappings=renamed, output="log")


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, description=text, default_value=default, choices=CHOICES.get(name))
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
