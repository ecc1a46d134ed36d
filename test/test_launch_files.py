"""What the launch files ask ros2 launch for, told to a stand-in that only writes it down.

PyPI has no launch_ros. Where it is installed, `test_launch.py` runs the files for real; the stand-in finds what a change to a node's
parameters or to the other file would break.
"""

import dataclasses
import importlib.util
import runpy
import sys
import types
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick
pytest.importorskip("ament_index_python")
pytest.importorskip("rclpy")

LAUNCH = Path(__file__).resolve().parents[1] / "launch"


class Written:
    """Any of launch's classes: what it was made with."""

    def __init__(self, *arguments, **options):
        self.kind, self.arguments, self.options = type(self).__name__, arguments, options


@pytest.fixture
def launched(monkeypatch):
    """Runs a launch file with arguments; returns the declared ones and what it starts, by name."""

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("launch", "launch_ros"):
                return importlib.util.spec_from_loader(name, self, is_package=True)

        def create_module(self, spec):
            module = types.ModuleType(spec.name)
            module.__getattr__ = lambda name: type(name, (Written,), {})
            return module

        def exec_module(self, module):
            pass

    for name in [name for name in sys.modules if name.split(".")[0] in ("launch", "launch_ros")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])

    def run(name: str, around: dict | None = None, **given):
        entities = runpy.run_path(str(LAUNCH / name))["generate_launch_description"]().arguments[0]
        declared = {e.arguments[0]: e.options["default_value"] for e in entities if e.kind == "DeclareLaunchArgument"}
        assert given.keys() <= declared.keys()
        context = types.SimpleNamespace(launch_configurations={**declared, **(around or {}), **given})
        actions = [action for e in entities if e.kind == "OpaqueFunction" for action in e.options["function"](context)]
        return declared, actions

    yield run
    for name in [name for name in sys.modules if name.split(".")[0] in ("launch", "launch_ros")]:
        del sys.modules[name]


def nodes(actions) -> dict[str, dict]:
    return {action.options["name"]: action.options for action in actions if action.kind == "Node"}


def test_inspect_starts_both_nodes_with_parameters_that_they_have(launched):
    from omniad_ros.ros.inspector_parameters import InspectorParameters
    from omniad_ros.ros.nerf_renderer import RendererParameters

    _, actions = launched("inspect.launch.py", site="/a/site", image="/cam/image_rect", compressed="true")
    started = nodes(actions)
    assert started.keys() == {"inspector", "nerf_renderer"}
    for name, kind in (("inspector", InspectorParameters), ("nerf_renderer", RendererParameters)):
        file, given = started[name]["parameters"]
        known = {field.name for field in dataclasses.fields(kind)} | {"use_sim_time"}
        assert Path(file).is_file() and given.keys() <= known, given.keys() - known
        assert given["site"] == "/a/site" and ("image", "/cam/image_rect") in started[name]["remappings"]
    assert started["inspector"]["parameters"][1]["compressed"] is True
    assert nodes(launched("inspect.launch.py", site="s", renderer="false")[1]).keys() == {"inspector"}


def test_inspect_gives_the_nodes_what_an_integrator_changes(launched):
    started = nodes(launched("inspect.launch.py", site="s", publish_tf="false", map_frame="plant", camera_xyz="[0, 0.1, 1]",
                             respawn="false", state_file="12")[1])  # fmt: skip
    inspector, renderer = (started[name]["parameters"][1] for name in ("inspector", "nerf_renderer"))
    assert inspector["publish_tf"] is False and inspector["camera_xyz"] == [0.0, 0.1, 1.0]
    assert inspector["map_frame"] == renderer["map_frame"] == "plant" and inspector["state_file"] == "12"
    assert "camera_xyz" not in renderer and "camera_rpy" not in inspector
    assert started["inspector"]["respawn"] is False
    with pytest.raises(RuntimeError, match="camera_xyz"):
        launched("inspect.launch.py", site="s", camera_xyz="[0, ")


def test_inspect_lies_within_the_namespace_that_it_is_included_in(launched):
    alone = nodes(launched("inspect.launch.py", site="s")[1])["inspector"]
    assert alone["namespace"] == "/omniad" and alone["respawn"] is True
    assert {("odom", "/odom"), ("/tf", "/tf")} <= set(alone["remappings"])
    _, actions = launched("inspect.launch.py", {"ros_namespace": "/robot1"}, site="s", tf="tf", image="/other/image")
    for node in nodes(actions).values():
        assert node["namespace"] == "/robot1/omniad"
        assert dict(node["remappings"]) == {
            "image": "/other/image", "camera_info": "/robot1/camera/camera_info", "odom": "/robot1/odom",
            "/tf": "/robot1/tf", "/tf_static": "/tf_static", "/initialpose": "/robot1/initialpose",
        }  # fmt: skip


def test_inspect_refuses_in_a_sentence(launched):
    with pytest.raises(RuntimeError, match="not a file"):
        launched("inspect.launch.py", site="s", params_file="/nowhere.yaml")
    with pytest.raises(RuntimeError, match="no name for a topic"):
        launched("inspect.launch.py", site="s", image="two words")


def test_the_demo_gives_inspect_arguments_that_it_declares(launched):
    declared, _ = launched("inspect.launch.py", site="s")
    _, actions = launched("demo.launch.py", site="/a/site", laps="0.5")
    (included,) = (action for action in actions if action.kind == "IncludeLaunchDescription")
    given = dict(included.options["launch_arguments"])
    assert given["site"] == "/a/site" and given.keys() <= declared.keys()
    robot = nodes(actions)["sim_robot"]["parameters"][0]
    Path(given["params_file"]).unlink()
    from omniad_ros.ros.sim_robot import RobotParameters

    known = {field.name for field in dataclasses.fields(RobotParameters)}
    assert robot["laps"] == 0.5 and robot.keys() <= known, robot.keys() - known
