"""`omniad bench --node`: what the nodes add to the library's own time for the same frames, and what they hold on to.

The frames are the site's survey images with odometry that is a few centimetres and degrees off; each is inspected by the
library in this process and by inspector and renderer as processes, one after the other, so that both meet the same machine.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.geometry import Pose
from omniad_ros.evaluation.bench import machine, map_scale
from omniad_ros.patrol.pipeline import Inspector
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.source import SECOND, Frame
from omniad_ros.ros import messages, processes
from omniad_ros.ros.managed import OUTPUT, STREAM
from omniad_ros.ros.participant import Participant
from omniad_ros.site import Site


@dataclass(frozen=True)
class NodeBenchOptions:
    """frames: how many the nodes inspect after ``warmup`` ones; compared: how many of these the library inspects too;
    settled: frames after which the nodes' memory counts as settled; timeout: seconds without an answer that end it."""

    frames: int = 30
    warmup: int = 5
    compared: int = 100
    settled: int = 200
    prior_noise_m: float = 0.03
    prior_noise_deg: float = 1.0
    timeout: float = 120.0


def bench_nodes(site_path: Path, options: NodeBenchOptions | None = None, progress: Progress = quiet) -> dict:
    """Time the nodes beside the library, one frame at a time.

    Returns ``{"machine", "size", "frames", "ok", "ms": {"library" | "node": {"mean", "median", "p95"}}, "over_percent",
    "processes": {node: {"mb": [settled, end], "threads": [...], "handles": [...]}}}``; ``ok`` is the share of the frames
    that were fully inspected. Raises OmniadError where a node does not answer.
    """
    options = options or NodeBenchOptions()
    site = Site.open(site_path)
    session = PatrolSession(Inspector(site), site.survey)
    frames = _Frames(site, options)
    times: dict[str, list[float]] = {"library": [], "node": []}
    total, ok = options.warmup + options.frames, 0
    with _Nodes(Path(site_path).resolve(), site, options.timeout) as nodes:
        before = nodes.resources()
        for step in range(total):
            progress(step / total, "inspecting survey images by library and nodes")
            image, odometry, stamp = frames(step)
            timed = step - options.warmup
            if timed < options.compared:
                started = time.perf_counter()
                session.add_odometry(stamp, odometry)
                session.inspect(Frame(stamp, str(step), image, site.mapped.camera, nodes.base_from_camera))
                if timed >= 0:
                    times["library"].append(1e3 * (time.perf_counter() - started))
            took = nodes.inspect(image, odometry, stamp)
            if timed >= 0:
                times["node"].append(took)
                ok += nodes.state == "ok"
            if timed < options.settled:
                before = nodes.resources()
        after = nodes.resources()
    means = {name: float(np.mean(values[: options.compared])) for name, values in times.items()}
    return {
        "machine": machine(),
        "size": f"{site.mapped.camera.width}x{site.mapped.camera.height}",
        "frames": options.frames,
        "ok": round(ok / options.frames, 3),
        "ms": {name: _summary(values) for name, values in times.items()},
        "over_percent": round(100 * (means["node"] / means["library"] - 1), 1),
        "processes": {n: {key: [before[n][key], after[n][key]] for key in after[n]} for n in after},
    }


def format_node_bench(result: dict) -> str:
    """The result as a table for a terminal."""
    lines = [
        f"{result['machine']}; {result['frames']} frames of {result['size']}, {100 * result['ok']:.0f} % fully inspected",
        "",
    ]
    lines.append(f"{'image to heatmap':18} {'mean ms':>9} {'median ms':>10} {'p95 ms':>9}")
    lines += [f"{n:18} {t['mean']:9.1f} {t['median']:10.1f} {t['p95']:9.1f}" for n, t in result["ms"].items()]
    lines.append(f"the nodes take {result['over_percent']:+.1f} % (mean)\n")
    for name, used in result["processes"].items():
        lines.append(f"{name:18} " + ", ".join(f"{key} {first} -> {last}" for key, (first, last) in used.items()))
    return "\n".join(lines)


def _summary(values: list[float]) -> dict:
    return {
        "mean": round(float(np.mean(values)), 1), "median": round(float(np.median(values)), 1),
        "p95": round(float(np.percentile(values, 95)), 1),
    }  # fmt: skip


class _Frames:
    """The survey's images to and fro, a second apart, with noisy odometry whose base is the camera's body."""

    def __init__(self, site: Site, options: NodeBenchOptions):
        self._mapped, self._options = site.mapped, options
        self._random = np.random.default_rng(0)
        self._scale = map_scale(site.mapped.poses)
        self._base_from_camera = messages.extrinsics((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        self._start = time.time_ns()

    def __call__(self, step: int) -> tuple[np.ndarray, Pose, int]:
        """(image, odom_from_base, stamp in nanoseconds)"""
        period = 2 * len(self._mapped) - 2
        index = len(self._mapped) - 1 - abs(step % period - (len(self._mapped) - 1))
        turn = np.radians(self._random.normal(0, self._options.prior_noise_deg, 3))
        shift = self._random.normal(0, self._options.prior_noise_m * self._scale, 3)
        true = self._mapped.poses[index]
        seen = Pose(true.rotation @ Rotation.from_rotvec(turn).as_matrix(), true.translation + shift)
        return self._mapped.image(index), seen @ self._base_from_camera.inverse(), self._start + step * SECOND


class _Nodes:
    """Inspector and renderer as processes, and this process as their robot."""

    def __init__(self, site_path: Path, site: Site, timeout: float):
        self._camera, self._timeout = site.mapped.camera, timeout
        self.base_from_camera = messages.extrinsics((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        self.state = ""
        environment = processes.private_environment()
        self._robot = Participant("bench_robot", environment)
        node = self._robot.node
        self._info = node.create_publisher(CameraInfo, "camera_info", OUTPUT)
        self._odometry = node.create_publisher(Odometry, "odom", STREAM)
        self._image = node.create_publisher(Image, "image", OUTPUT)
        self._heatmap_of = 0
        self._states: dict[str, str] = {}
        node.create_subscription(Image, "heatmap", self._take_heatmap, OUTPUT)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, OUTPUT)
        given = {"site": str(site_path)}
        self.processes = [
            processes.start(name, given, environment=environment) for name in ("nerf_renderer", "inspector")
        ]

    def __enter__(self) -> _Nodes:
        return self

    def __exit__(self, *_) -> None:
        processes.stop_all(self.processes)
        self._robot.close()

    def _take_heatmap(self, message: Image) -> None:
        self._heatmap_of = decoding.nanoseconds(message.header.stamp)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if "stamp" in values:
                self._states = {values["stamp"]: values["state"]}

    def inspect(self, image: np.ndarray, odometry: Pose, stamp: int) -> float:
        """Milliseconds from a frame's publication to its heatmap. A frame that passes unseen is shown again."""
        header = Header(stamp=messages.to_stamp(stamp), frame_id="camera")
        picture = messages.image_message(image, header)
        moved = Odometry(header=Header(stamp=header.stamp, frame_id="odom"), child_frame_id="base_link")
        moved.pose.pose = messages.pose_message(odometry)
        info = messages.camera_info_message(self._camera, header)
        end = time.monotonic() + self._timeout
        while time.monotonic() < end:
            self._info.publish(info)
            self._odometry.publish(moved)
            started, again = time.perf_counter(), time.monotonic() + 5.0
            self._image.publish(picture)
            while time.monotonic() < again:
                self._robot.spin(0.5)
                if self._heatmap_of == stamp:
                    took = 1e3 * (time.perf_counter() - started)
                    while str(stamp) not in self._states and time.monotonic() < again:
                        self._robot.spin(0.5)
                    self.state = self._states.get(str(stamp), "")
                    return took
            for process in self.processes:
                if process.returncode is not None:
                    raise OmniadError(f"{process.name} ended: {(process.lines or ['it said nothing'])[-1]}")
        raise OmniadError(
            f"the inspector gave no heatmap within {self._timeout:.0f} s; is the machine busy with something else?"
        )

    def resources(self) -> dict[str, dict[str, int]]:
        """Resident megabytes, threads and open file handles of each process."""
        return {process.name: _resources(process.pid) for process in self.processes}


def _resources(pid: int) -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    handles = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {"mb": round(int(status["VmRSS"].split()[0]) / 1024), "threads": int(status["Threads"]), "handles": handles}
