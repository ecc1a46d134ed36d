"""The launch files under the real ros2 launch (where it is installed), and RViz's configuration against the nodes."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# names of rviz_default_plugins/plugins_description.xml, and the message each display takes
DISPLAYS = {
    "rviz_default_plugins/Grid": None, "rviz_default_plugins/TF": None,
    "rviz_default_plugins/PointCloud2": "PointCloud2", "rviz_default_plugins/Path": "Path",
    "rviz_default_plugins/PoseWithCovariance": "PoseWithCovarianceStamped",
    "rviz_default_plugins/MarkerArray": "MarkerArray", "rviz_default_plugins/Image": "Image",
}  # fmt: skip


@pytest.fixture(scope="module")
def displays():
    return yaml.safe_load((ROOT / "config" / "inspect.rviz").read_text())["Visualization Manager"]["Displays"]


@pytest.mark.quick
def test_rviz_shows_topics_that_the_nodes_publish_with_their_types_and_qos(displays):
    pytest.importorskip("rclpy")
    from nodes_robot import OUTPUTS
    from rclpy.qos import DurabilityPolicy

    for display in displays:
        expected = DISPLAYS[display["Class"]]
        if expected is None:
            continue
        topic = display["Topic"]
        kind, qos = OUTPUTS[topic["Value"].removeprefix("/omniad/")]
        assert kind.__name__ == expected, display["Name"]
        latched = topic["Durability Policy"] == "Transient Local"
        assert latched == (qos.durability == DurabilityPolicy.TRANSIENT_LOCAL), display["Name"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert {
        "/omniad/map_points",
        "/omniad/route",
        "/omniad/markers",
        "/omniad/overlay",
        "/omniad/reference/image",
    } <= shown


@pytest.mark.quick
def test_the_parameter_file_holds_each_parameter_with_its_default():
    pytest.importorskip("rclpy")
    from omniad_ros.ros.inspector_parameters import InspectorParameters
    from omniad_ros.ros.nerf_renderer import RendererParameters

    text = (ROOT / "config" / "inspect.yaml").read_text()
    given = yaml.safe_load(text)
    for node, defaults in (("inspector", InspectorParameters()), ("nerf_renderer", RendererParameters())):
        values = given[f"/**/{node}"]["ros__parameters"]
        expected = {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in vars(defaults).items()
            if k not in ("site", "autostart")
        }
        section = text.split(f"/**/{node}:")[1].split("/**/")[0]
        marked = set(re.findall(r"^ +(\w+):.*# \(run-time\)", section, re.MULTILINE))
        assert marked == {f.name for f in dataclasses.fields(defaults) if f.metadata["runtime"]} & set(expected), node
        assert json.dumps(values, sort_keys=True) == json.dumps(expected, sort_keys=True), (
            node
        )  # 0.0 is neither 0 nor false


def test_the_robots_camera_is_told_to_the_inspector_as_it_sits():
    pytest.importorskip("rclpy")
    from omniad_ros.lab.robot import RobotOptions, Simulation
    from omniad_ros.ros import messages
    from omniad_ros.ros.sim_robot import camera_parameters

    told = camera_parameters()
    seated = Simulation.base_from_camera.fget(type("", (), {"options": RobotOptions()}))
    metres, degrees = messages.extrinsics(told["camera_xyz"], told["camera_rpy"]).distance(seated)
    assert metres < 1e-6 and degrees < 1e-4


@pytest.mark.quick
def test_package_xml_and_setup_agree():
    package = (ROOT / "package.xml").read_text()
    version = re.search(r'__version__ = "(.+?)"', (ROOT / "omniad_ros" / "__init__.py").read_text()).group(1)
    assert f"<version>{version}</version>" in package
    for name in ("cv_bridge", "tf_transformations", "tf2_ros", "vision_msgs", "launch_ros", "rclpy"):
        assert f"<exec_depend>{name}</exec_depend>" in package


@pytest.mark.parametrize("name", ["inspect.launch.py", "demo.launch.py"])
def test_launch_files_start_the_nodes_with_what_was_asked(name, tiny_site, monkeypatch):
    pytest.importorskip("launch_ros", reason="ROS 2's launch is not installed")
    from launch.actions import IncludeLaunchDescription, RegisterEventHandler, TimerAction
    from launch.event_handlers import OnProcessExit, OnProcessIO
    from launch.events import Shutdown
    from launch.launch_description import LaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    from launch import LaunchService
    from omniad_ros.ros.processes import private_environment

    for key, value in private_environment().items():
        monkeypatch.setenv(key, value)
    codes, said = {}, []
    given = {"site": str(tiny_site)}

    def hear(event):
        said.append(event.text.decode(errors="replace"))
        text = "".join(said)
        return [_end()] if all(f"{node}]: active" in text for node in ("inspector", "nerf_renderer")) else None

    def _end():
        from launch.actions import EmitEvent

        return EmitEvent(event=Shutdown(reason="both are active"))

    file = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(ROOT / "launch" / name)), launch_arguments=given.items()
    )
    service = LaunchService()
    service.include_launch_description(LaunchDescription([
        RegisterEventHandler(OnProcessIO(on_stdout=hear, on_stderr=hear)),
        RegisterEventHandler(OnProcessExit(on_exit=lambda event, _: codes.update({event.process_name: event.returncode}))),
        TimerAction(period=400.0, actions=[_end()]), file,
    ]))  # fmt: skip
    service.run()
    text = "".join(said)
    assert "inspector]: active" in text and "nerf_renderer]: active" in text, text
    assert "Traceback" not in text
    assert codes and all(code == 0 for code in codes.values()), (codes, text)
