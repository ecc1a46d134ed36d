"""What colcon, rosdep and pip read of this package: the manifest, the hook, the requirement files."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()


def test_the_manifest_is_of_format_3_with_what_rep_149_asks_for():
    catkin_pkg = pytest.importorskip("catkin_pkg.package", reason="it comes with colcon-ros")
    warnings = []
    package = catkin_pkg.parse_package(ROOT / "package.xml", warnings=warnings)
    package.validate(warnings=warnings)
    assert warnings == [] and package.package_format == 3
    assert package.get_build_type() == "ament_python" and package.maintainers and package.urls
    named = [(element.tag, element.text) for element in MANIFEST if element.tag.endswith("_depend")]
    assert len(named) == len(set(named))


def test_colcon_finds_the_hook_where_setup_puts_it():
    setup = (ROOT / "setup.py").read_text()
    for hook in json.loads((ROOT / "colcon.pkg").read_text())["hooks"]:
        folder, name = hook.removeprefix("share/omniad_ros/").split("/")
        assert (ROOT / folder / name).is_file() and f'(f"share/{{NAME}}/{folder}"' in setup
    kind, variable, place = (ROOT / "hook" / "path.dsv").read_text().strip().split(";")
    assert (kind, variable) == ("prepend-non-duplicate", "PATH")
    assert f"install_scripts=$base/{place}" in (ROOT / "setup.cfg").read_text()


def test_what_ros_sources_import_is_in_the_manifest():
    """Of ROS's own packages; those that are optional stand there, too, for a distribution has them."""
    depends = {element.text for element in MANIFEST if element.tag in ("exec_depend", "depend")}
    imported = set()
    for file in [*(ROOT / "omniad_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), re.MULTILINE))
    ros = {
        name
        for name in imported
        if re.search(r"_msgs$|_interfaces$|_srvs$|^rclpy$|^tf2_|^launch|^ament_|^cv_bridge$", name)
    }
    assert ros - {"rosgraph_msgs"} <= depends
