"""Whoever stands in a folder of data executes nothing that lies there: a downloaded site or survey is data, never code."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import omniad_ros
from omniad_ros.core import children
from omniad_ros.lab.process import apart
from omniad_ros.lab.tabletop import TabletopOptions

PACKAGES = str(Path(omniad_ros.__file__).parents[1])
MODULES = (
    "numpy", "torch", "cv2", "scipy", "numba", "html", "yaml", "tyro", "msgspec", "rclpy", "nerfstudio", "multiprocessing", "pickle",
    "queue", "usercustomize",
)  # fmt: skip
"""What the package or its libraries import sooner or later."""
BROKEN_PROFILE = "<profiles><participant><nonsense/></participant></profiles>"
PATIENCE = 300.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The present folder: full of Python files, each of which leaves a mark, and of what configures libraries from where one stands."""
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for module in MODULES:
        (folder / f"{module}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({module!r})\n")
    (folder / ".numba_config.yaml").write_text("cache_dir: pickled\n")
    for name in ("DEFAULT_FASTDDS_PROFILES.xml", "DEFAULT_FASTRTPS_PROFILES.xml"):
        (folder / name).write_text(BROKEN_PROFILE)
    monkeypatch.chdir(folder)
    for name in ("PYTHONSAFEPATH", "NUMBA_CACHE_DIR", "SKIP_DEFAULT_XML_FILE", "SKIP_DEFAULT_XML"):
        monkeypatch.delenv(name, raising=False)
    # an empty entry, which a line like `export PYTHONPATH=$PYTHONPATH:/elsewhere` leaves easily, is the present folder too
    monkeypatch.setenv("PYTHONPATH", PACKAGES + os.pathsep)
    yield folder
    assert not (tmp_path / "executed").exists(), (tmp_path / "executed").read_text()
    assert not (folder / "pickled").exists() and not (folder / "__pycache__").exists()


@pytest.fixture
def omniad(tmp_path):
    """The command as it is installed."""
    script = tmp_path / "bin" / "omniad"
    script.parent.mkdir()
    script.write_text("import sys\nfrom omniad_ros.cli import main\nsys.exit(main())\n")
    return [sys.executable, str(script)]


def test_commands(folder, omniad, tiny_dataset, tiny_site):
    pictures = folder / "pictures"
    pictures.mkdir()
    for picture in sorted((tiny_dataset / "train" / "good").iterdir())[:2]:
        shutil.copy(picture, pictures)
    for words in (
        ("doctor",),
        ("inspect", str(tiny_site), "pictures", "--out", "out"),
        ("build", ".", "--out", "site"),
    ):
        ended = subprocess.run([*omniad, *words], capture_output=True, text=True, timeout=PATIENCE)
        assert "Traceback" not in ended.stderr and "unexpected" not in ended.stderr, ended.stderr
        assert ended.returncode == (words[0] == "build"), ended.stderr  # there is no picture in the folder itself
    assert (folder / "out" / "index.html").is_file()


def test_run_and_its_nodes(folder, omniad, tiny_site):
    processes = pytest.importorskip("omniad_ros.ros.processes")
    environment = {**os.environ, **processes.private_environment()}
    run = subprocess.Popen(
        [*omniad, "run", str(tiny_site)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    lines, active = [], 0
    for line in run.stdout:
        lines.append(line)
        active += line.rstrip().endswith(": active")
        if active == 2:
            run.send_signal(signal.SIGINT)
            active = 0
    assert run.wait(PATIENCE) == 0 and not [line for line in lines if "Error" in line or "WARN" in line], lines


@pytest.mark.parametrize("node", ["inspector", "nerf_renderer", "sim_robot"])
def test_a_node_as_a_launch_file_starts_it(node, folder):
    processes = pytest.importorskip("omniad_ros.ros.processes")
    how = processes.program(node)
    if "package" in how:
        pytest.skip("the package is installed in a workspace, whose programs are started")
    environment = {**os.environ, **how["additional_env"], **processes.private_environment()}
    command = [how["executable"], *how["arguments"]]
    expected = "the path is driven" if node == "sim_robot" else "parameter site is empty"
    if node == "sim_robot":
        command += ["--ros-args", "-p", "laps:=0.01", "-p", "real_time_factor:=50.0", "-p", "exit_when_finished:=false"]
    process = processes.NodeProcess(node, command, environment, None)
    try:
        end = time.monotonic() + PATIENCE
        while not any(expected in line for line in process.lines):
            assert process.returncode is None and time.monotonic() < end, list(process.lines)
            time.sleep(0.1)
    finally:
        process.stop()
    assert not [line for line in process.lines if "XMLPARSER" in line], list(process.lines)


def test_the_simulators_process(folder, tmp_path):
    options = TabletopOptions(width=32, height=24, views=4, per_kind=1)
    assert apart("tabletop", "write_tabletop", tmp_path / "dataset", 7, options).is_dir()


def test_what_a_library_starts(folder, omniad):
    """torch's compilers, the viewer and multiprocessing start Pythons of their own, with `-c`."""
    Path(omniad[1]).write_text(
        "import subprocess, sys\nfrom omniad_ros.cli import main\nmain(['doctor'])\n"
        "sys.exit(subprocess.run([sys.executable, '-c', 'import numpy; print(numpy.__version__)']).returncode)\n"
    )
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 has no PYTHONSAFEPATH")
    ended = subprocess.run(omniad, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("where", ["libcuda.so.1", "glibc-hwcaps/x86-64-v3/libcuda.so.1"])
def test_a_shared_library_that_torch_would_load(where, folder, omniad, tiny_site):
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / where).write_bytes(b"")
    words = ("inspect", str(tiny_site), "pictures", "--out", "out"), ("run", str(tiny_site)), ("doctor",)
    for command in (*([*omniad, *given] for given in words), children.command("omniad_ros.ros.start", "inspector")):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended.stderr
        assert f"{where} would be run by torch" in ended.stderr
