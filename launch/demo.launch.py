"""Watch the demo's patrol: ros2 launch omniad_ros demo.launch.py site:=omniad_demo/sites/seed_0/site seed:=0 rviz:=true"""

import json
import tempfile
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchDescription
from omniad_ros.ros.processes import program

NAMESPACE = "/omniad"
LAUNCH = Path(__file__).resolve().parent
ARGUMENTS = {
    "site": (None, "folder of the simulated site, as 'omniad demo' builds it: omniad_demo/sites/seed_0/site"),
    "seed": ("0", "which simulated site that is"),
    "laps": ("1.0", "how often the robot drives around"),
    "light": ("0.0", "how far the light differs from the survey's, 0 to 1"),
    "real_time_factor": ("1.0", "simulated seconds a second"),
    "rviz": ("false", "start RViz with a useful picture"),
}


def start(context) -> list:
    from omniad_ros.ros.sim_robot import camera_parameters

    given = {name: context.launch_configurations[name] for name in ARGUMENTS}
    with tempfile.NamedTemporaryFile("w", prefix="omniad_demo_", suffix=".yaml", delete=False) as file:
        json.dump({"/**/inspector": {"ros__parameters": camera_parameters()}}, file)  # JSON is YAML too
    inspect = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "inspect.launch.py")),
        launch_arguments={
            "site": given["site"], "image": f"{NAMESPACE}/image", "camera_info": f"{NAMESPACE}/camera_info",
            "odom": f"{NAMESPACE}/odom", "rviz": given["rviz"], "params_file": file.name,
        }.items(),
    )  # fmt: skip
    numbers = {name: float(given[name]) for name in ("laps", "light", "real_time_factor")}
    robot = Node(
        **program("sim_robot"), name="sim_robot", namespace=NAMESPACE, output="screen",
        parameters=[{"seed": int(given["seed"]), "wait_for_listeners": 2, "exit_when_finished": False, **numbers}],
    )  # fmt: skip
    return [inspect, robot]


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, description=text, default_value=default)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
