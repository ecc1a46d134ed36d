"""What colcon, rosdep and pip read of this package: the manifest, the hook, the requirement files."""

import json
import os
import re
import subprocess
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


def test_colcon_finds_the_hooks_where_setup_puts_them():
    setup = (ROOT / "setup.py").read_text()
    for hook in json.loads((ROOT / "colcon.pkg").read_text())["hooks"]:
        folder, name = hook.removeprefix("share/omniad_ros/").split("/")
        assert (ROOT / folder / name).is_file() and f'(f"share/{{NAME}}/{folder}"' in setup
    kind, variable, place = (ROOT / "hook" / "path.dsv").read_text().strip().split(";")
    assert (kind, variable) == ("prepend-non-duplicate", "PATH")
    assert f"install_scripts=$base/{place}" in (ROOT / "setup.cfg").read_text()


@pytest.mark.parametrize("over_the_system", [True, False])
def test_the_systems_python_finds_a_virtual_environment_that_is_over_it(tmp_path, over_the_system):
    """`ros2 launch` runs under the system's Python, whichever is active."""
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "pyvenv.cfg").write_text(f"include-system-site-packages = {str(over_the_system).lower()}\n")
    script = f'set -eu; . "{ROOT}/hook/venv.sh"; . "{ROOT}/hook/venv.sh"; echo "$PYTHONPATH"'
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": "/first"}
    for shell in ("sh", "bash"):
        for given in ({}, {"VIRTUAL_ENV": str(tmp_path)}):
            said = subprocess.run(
                [shell, "-c", script], env={**environment, **given}, capture_output=True, text=True, check=True
            )
            assert said.stdout.strip() == (f"/first:{packages}" if given and over_the_system else "/first")


def names(file: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return {re.split(r"[\[<>=; ]", line)[0] for line in lines if line}


def test_a_robot_needs_a_part_of_what_building_needs():
    """And nothing that has no packages for arm64; pillow comes with nerfstudio."""
    robot, build = names("requirements-robot.txt"), names("requirements.txt")
    assert robot - {"pillow"} < build
    assert not robot & {"pycolmap", "nerfstudio", "mujoco", "xatlas", "pyliblzfse"}


def test_the_image_is_made_by_the_readmes_steps():
    image = (ROOT / "docker" / "Dockerfile").read_text().replace("${REQUIREMENTS}", "requirements.txt")
    steps = re.search(r"\*\*Install\*\*.*?\n\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    for line in steps.splitlines()[1:]:
        step = (
            re.sub(r"^cd \S+ && |#.*$", "", line.strip()).strip().replace("pip install", "pip install --no-cache-dir")
        )
        assert step in image, step


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
