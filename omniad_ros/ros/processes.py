"""Starts nodes as processes where `ros2 launch` is missing: `omniad run`, the demo and the tests.

Each node is this Python calling its function in `start`; all end together, and none outlives its starter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import random
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omniad_ros.core import children
from omniad_ros.core.feedback import OmniadError
from omniad_ros.ros import shared_memory

NAMESPACE = "/omniad"
STARTER = "omniad_ros.ros.start"
"""Holds a function for each node, of the node's name."""
Output = Callable[[str], None]
PARTICIPANTS = 100
"""At most in a domain on one machine, by DDS's formula for ports."""


def private_environment() -> dict[str, str]:
    """Environment variables for nodes that must neither hear nor disturb others: a free domain, this machine only."""
    return {"ROS_DOMAIN_ID": str(free_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def free_domain() -> int:
    """A DDS domain that nobody uses on this machine now, at random."""
    for domain in random.sample(range(1, 102), 101):
        # each participant has a port for discovery and one for data; the first of them may have ended before the others
        first = 7410 + 250 * domain
        if all(map(_port_is_free, range(first, first + 2 * PARTICIPANTS))):
            return domain
    raise OmniadError("all DDS domains from 1 to 101 are in use on this machine; end some ROS programs")


def _port_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tried:
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True


class NodeProcess:
    """A running node. `lines` holds the last of what it said. What it leaves in shared memory where it is killed is removed."""

    WATCH_EVERY = 1.0

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], output: Output | None):
        self.name, self.output = name, output
        self.lines: deque[str] = deque(maxlen=500)
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
        self._shared: set[str] = set()
        """What it has there, as far as is known."""
        self._watched_at = 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative where a signal ended it."""
        if time.monotonic() - self._watched_at > self.WATCH_EVERY:
            self._watched_at = time.monotonic()
            self._shared |= shared_memory.owned(self.pid)
        return self._process.poll()

    def send(self, number: int) -> None:
        if self.returncode is None:
            self._shared |= shared_memory.owned(self.pid)
            self._process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """The return code, None where it still runs after ``timeout`` seconds."""
        try:
            self._process.wait(timeout)
            self._reader.join(1.0)
            self.clear()
            return self.returncode
        except subprocess.TimeoutExpired:
            return None

    def stop(self, patience: float = 10.0) -> int | None:
        """Ask it to end; kill it where it does not."""
        self.send(signal.SIGINT)
        return self.ended(patience)

    def ended(self, patience: float) -> int | None:
        """Wait for the end that was asked for; kill it where it does not come."""
        if self.wait(patience) is None:
            self.send(signal.SIGKILL)
        return self.wait(5.0)

    def clear(self) -> None:
        """Remove what the ended process left in shared memory; once more after those that it talked to, which open its ports anew."""
        shared_memory.remove_left(self._shared)

    def _read(self) -> None:
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.output is not None:
                self.output(f"[{self.name}] {self.lines[-1]}")


def start(
    node: str,
    parameters: Mapping | None = None,
    remappings: Mapping[str, str] | None = None,
    namespace: str = NAMESPACE,
    environment: Mapping[str, str] | None = None,
    parameters_file: Path | None = None,
    output: Output | None = None,
) -> NodeProcess:
    """Start a node of this package.

    node: module in `omniad_ros.ros`; parameters: win over those of ``parameters_file``; remappings: from → to;
    environment: added to this process's; output: called with each line that the node says.
    """
    command = children.command(STARTER, node, "--ros-args", "-r", f"__ns:={namespace}")
    for source, target in (remappings or {}).items():
        command += ["-r", f"{source}:={target}"]
    if parameters_file is not None:
        command += ["--params-file", str(parameters_file)]
    for name, value in (parameters or {}).items():
        # as JSON, or text that looks like a number would become one
        command += ["-p", f"{name}:={json.dumps(value)}"]
    own = {"PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "0"}
    return NodeProcess(node, command, {**children.environment(), **own, **(environment or {})}, output)


def program(node: str) -> dict:
    """How a launch file starts a node: as it is installed in a workspace, else by this Python (pip-only environments)."""
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    safely = {"additional_env": children.own_environment()}
    with contextlib.suppress(
        PackageNotFoundError, LookupError, OSError
    ):  # no AMENT_PREFIX_PATH is an OSError or LookupError
        if (Path(get_package_prefix("omniad_ros")) / "lib" / "omniad_ros" / node).exists():
            return {"package": "omniad_ros", "executable": node, **safely}
    executable, *arguments = children.command(STARTER, node)
    return {"executable": executable, "arguments": arguments, **safely}


def run_together(processes: list[NodeProcess], meanwhile: Callable[[], None] = lambda: time.sleep(0.1)) -> None:
    """Wait until Ctrl-C, SIGTERM, or the end of one process; then end all. meanwhile: called over and over, must be short.

    Raises OmniadError where a process ended by itself with an error.
    """
    asked: list[int] = []

    def ask(number, stack) -> None:
        if asked:  # a second time: nodes that still load their site leave at once
            for process in processes:
                process.send(number)
        asked.append(number)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not asked:
            for process in processes:
                if process.returncode is not None:
                    last = next((line for line in reversed(process.lines) if line.strip()), "")
                    raise OmniadError(f"{process.name} ended with status {process.returncode}: {last}")
            meanwhile()
    finally:
        stop_all(processes)
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_all(processes: list[NodeProcess]) -> None:
    """End processes, all at once."""
    for process in processes:
        process.send(signal.SIGINT)
    for process in processes:
        process.ended(10.0)
    for process in processes:
        process.clear()


@dataclass(frozen=True)
class RobotTopics:
    """Where a robot publishes, by full names or relative to the nodes' namespace.

    compressed: the images are CompressedImage, as they also are where ``image`` ends in ``/compressed``; cameras: names of several, as
    of the parameter, for which ``{camera}`` stands in the topics.
    """

    image: str
    camera_info: str
    odom: str
    compressed: bool = False
    cameras: str = ""


def run_site(
    site: Path,
    topics: RobotTopics,
    namespace: str = NAMESPACE,
    parameters_file: Path | None = None,
    viewer: Path | bool = False,
    output: Output = print,
) -> None:
    """`omniad run`: inspector and renderer of a site, on the robot's topics, until Ctrl-C.

    viewer: a live view in a window, or a file that it is recorded into.
    Raises OmniadError where the site, a name or a file cannot be used, or a node ends by itself.
    """
    from omniad_ros.recordings.messages import is_rectified
    from omniad_ros.ros.topics import camera_remappings, check_namespace, check_topic, says
    from omniad_ros.site import Site

    if parameters_file is not None and not parameters_file.is_file():
        raise OmniadError(f"{parameters_file} is not a file of parameters")
    namespace = check_namespace(namespace)
    if viewer and topics.cameras:
        raise OmniadError("the live view shows a robot with one camera; leave --viewer or --cameras out")
    remappings = camera_remappings(topics.cameras, topics.image, topics.camera_info, namespace)
    remappings["odom"] = check_topic(topics.odom, namespace)
    Site.open(site, verify=False)
    given = {"site": str(Path(site).resolve())}
    if parameters_file is None or not says(parameters_file, "rectified"):
        given["rectified"] = all(is_rectified(topic) for name, topic in remappings.items() if name.endswith("image"))
    if topics.cameras:
        given["cameras"] = topics.cameras
    own = {"compressed": True} if topics.compressed else {}
    common = {"namespace": namespace, "parameters_file": parameters_file, "output": output, "remappings": remappings}
    with contextlib.ExitStack() as stack:
        meanwhile = {}
        if viewer:
            from omniad_ros.ros.viewer import Viewer

            view = Viewer(remappings, topics.compressed, namespace, file=None if viewer is True else viewer)
            stack.callback(view.close)
            meanwhile = {"meanwhile": view.spin}
        nodes = [start("nerf_renderer", given, **common), start("inspector", {**given, **own}, **common)]
        run_together(nodes, **meanwhile)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
