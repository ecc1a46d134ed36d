"""docs/nodes.md says of the parameters, topics and services what the code does."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the nodes need ROS 2 ('make venv' installs it)")

from omniad_ros.reference.view import ReferenceView
from omniad_ros.ros.inspector_parameters import InspectorParameters
from omniad_ros.ros.nerf_renderer import RendererParameters
from omniad_ros.ros.sim_robot import RobotParameters

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "nodes.md"


def rows(defaults) -> list[str]:
    """The table's rows for a dataclass of parameters; a failing test prints them, to be put into the page."""
    lines = []
    for field in dataclasses.fields(defaults):
        about, default = field.metadata, getattr(defaults, field.name)
        shown = list(default) if isinstance(default, tuple) else default
        if isinstance(default, bool) or default == "":  # as YAML has it; 0.0 == False, so types are told apart first
            shown = json.dumps(default)
        span = "" if about["minimum"] is None else f"{about['minimum']} to {about['maximum']}"
        lines.append(
            f"| `{field.name}` | {shown} | {span} | {'yes' if about['runtime'] else ''} | {about['description']} |"
        )
    return lines


@pytest.mark.parametrize(
    "defaults",
    [InspectorParameters(), RendererParameters(), RobotParameters()],
    ids=["inspector", "nerf_renderer", "sim_robot"],
)
def test_the_tables_of_parameters_are_those_of_the_nodes(defaults):
    page = PAGE.read_text().splitlines()
    assert not [row for row in rows(defaults) if row not in page]
    known = {
        f.name for kind in (InspectorParameters, RendererParameters, RobotParameters) for f in dataclasses.fields(kind)
    }
    said = {m.group(1) for line in page if (m := re.match(r"\| `(\w+)` \| [^|]* \| [^|]* \| (?:yes)? ?\|", line))}
    assert said <= known


def test_every_topic_and_service_of_the_nodes_is_on_the_page():
    code = "".join(path.read_text() for path in (ROOT / "omniad_ros" / "ros").glob("*.py"))
    named = set(
        re.findall(r'(?:publisher|subscription|SharedWork|Stream)\([\w.]+, f?"(?:\{[\w.]+\})?([^"]+)"', code)
    ) | set(re.findall(r'\("([\w/]+)", (?:Image|CameraInfo|PoseWithCovarianceStamped|\w+, (?:OUTPUT|LATCHED))\)', code))
    named |= {f"reference/{part.name}" for part in dataclasses.fields(ReferenceView)}
    page = PAGE.read_text()
    assert {"odom", "heatmap", "~/reset", "reference/request"} <= named
    assert not [name for name in named if f"`{name}`" not in page]
