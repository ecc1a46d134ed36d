"""The demo's patrol over ROS 2: starts robot, renderer and inspector as processes, records what they say, reads it back.

Everything is heard over DDS as any other program would hear it, on a domain of its own; only the tracks with their
pictures are read from the inspector's state file, for markers carry none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.geometry import Pose
from omniad_ros.evaluation import PatrolTruth, PlantedAnomaly, RecordedFrame, TrueFrame, align_truth
from omniad_ros.ros import processes
from omniad_ros.site import Site

RECORD, TRACKS, TRUTH = "record.json", "tracks.json", "truth"
HEATMAP_SIDE, PICTURE_SIDE = 320, 480
PATIENCE = 1.6
"""Seconds: on a slow machine the robot waits for the inspector rather than pass anomalies unseen."""
LONGEST_SECONDS = 900.0


def run_patrol(
    site_path: Path,
    seed: int,
    out: Path,
    progress: Progress = quiet,
    robot: dict | None = None,
    inspector: dict | None = None,
) -> Path:
    """Drive a patrol of the simulated site ``seed`` and record it into ``out``, which is returned.

    robot, inspector: further parameters of the nodes. Raises OmniadError where a process ends before the patrol does.
    """
    from omniad_ros.ros.listening import HEATMAPS, INDEPENDENT, PICTURES, PatrolListener
    from omniad_ros.ros.sim_robot import camera_parameters

    out = Path(out)
    for folder in (HEATMAPS, INDEPENDENT, PICTURES):
        (out / folder).mkdir(parents=True)
    site = str(Path(site_path).resolve())
    environment = processes.private_environment()
    truth, state = str((out / TRUTH).resolve()), str((out / TRACKS).resolve())
    lines: list[str] = []
    with PatrolListener(environment, out, HEATMAP_SIDE, PICTURE_SIDE) as listener:
        common = {"environment": environment, "output": lines.append}
        nodes = [
            processes.start("nerf_renderer", {"site": site}, **common),
            processes.start(
                "inspector", {"site": site, "state_file": state, **camera_parameters(), **(inspector or {})}, **common
            ),
        ]
        drives = {
            "seed": seed,
            "ground_truth_dir": truth,
            "wait_for_listeners": 2,
            "patience": PATIENCE,
            **(robot or {}),
        }
        driver = processes.start("sim_robot", drives, **common)
        try:
            _follow(nodes, driver, listener, progress)
        finally:
            processes.stop_all([driver, *nodes])
            (out / "log.txt").write_text("\n".join(lines) + "\n")
    write_json(out / RECORD, {"seed": seed, "frames": listener.frames(), "odometry": listener.odometry()})
    if not (out / TRACKS).is_file():
        raise OmniadError(f"the inspector left no tracks; {out / 'log.txt'} may tell why")
    return out


def _follow(nodes, driver, listener, progress: Progress) -> None:
    """Wait until the robot has arrived and the last frame is inspected."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while driver.returncode is None:
        for process in nodes:
            if process.returncode is not None:
                raise OmniadError(
                    f"{process.name} ended during the patrol: {(process.lines or ['it said nothing'])[-1]}"
                )
        if time.monotonic() > deadline:
            raise OmniadError("the patrol did not end; is the machine busy with something else?")
        listener.spin(0.2)
        progress(min(0.99, listener.progress), f"the robot patrols, {listener.count} frames inspected")
    if driver.returncode != 0:
        raise OmniadError(
            f"sim_robot ended with status {driver.returncode}: {(driver.lines or ['it said nothing'])[-1]}"
        )
    quiet_since, count = time.monotonic(), listener.count
    while time.monotonic() - quiet_since < 2.5 and time.monotonic() < deadline:
        listener.spin(0.2)
        if listener.count != count:
            quiet_since, count = time.monotonic(), listener.count


@dataclass(frozen=True)
class Patrol:
    """A recorded patrol with its truth, as `omniad_ros.evaluation.score_patrol` and the report want it."""

    folder: Path
    record: dict
    tracks: list
    truth: PatrolTruth
    threshold: float

    @property
    def frames(self) -> Iterator[RecordedFrame]:
        """The frames, with heatmaps read one after the other."""
        from omniad_ros.ros.listening import HEATMAPS, INDEPENDENT

        for frame in self.record["frames"]:
            pose = None if frame["pose"] is None else Pose.from_matrix(np.array(frame["pose"]))
            heatmaps = self._heatmap(HEATMAPS, frame), self._heatmap(INDEPENDENT, frame)
            yield RecordedFrame(frame["stamp"] / 1e9, pose, *heatmaps, frame["state"], frame["ms"])

    def _heatmap(self, folder: str, frame: dict) -> np.ndarray | None:
        if frame["state"] == "lost":
            return None
        heatmap = cv2.imread(str(self.folder / folder / f"{frame['stamp']}.png"), cv2.IMREAD_UNCHANGED)
        return None if heatmap is None else heatmap.astype(np.float32) / 65535

    def report(self, site: Site, metrics: dict):
        """The `PatrolReport` of this patrol."""
        from omniad_ros.report import GalleryFrame, PatrolReport, PlantedMark, RouteStep

        frames = self.record["frames"]
        steps = [
            RouteStep(
                f["stamp"] / 1e9,
                None if f["pose"] is None else Pose.from_matrix(np.array(f["pose"])),
                f["state"],
                f["message"],
            )
            for f in frames
        ]
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(24, len(frames))).round().astype(int)]
        pictures = [(f, self.folder / "pictures" / f"{f['stamp']}.jpg") for f in chosen]
        gallery = [GalleryFrame(f["stamp"] / 1e9, p.read_bytes(), f["state"]) for f, p in pictures if p.is_file()]
        found = {row["name"]: row for row in metrics["anomalies"]}
        planted = [
            PlantedMark(
                a.name,
                a.kind,
                self.truth.map_from_world.points(a.places[0][0]),
                found[a.name]["found"],
                found[a.name]["track"],
            )
            for a in self.truth.anomalies
        ]
        return PatrolReport(
            f"Patrol of the simulated plant room {self.record['seed']}", subtitle="three processes over ROS 2",
            tracks=self.tracks, points=site.sparse_points, steps=steps, planted=planted, metrics=metrics, gallery=gallery,
            odometry=_odometry_in_map(self.record), ms=metrics["ms"], build=site.manifest["stages"],
        )  # fmt: skip


def read_patrol(folder: Path, true_poses: Path, site: Site) -> Patrol:
    """Read back what `run_patrol` wrote; the masks of the frames that were inspected are rendered now.

    true_poses: of the survey (`omniad_ros.lab.record_survey`). Raises OmniadError where something is missing.
    """
    from omniad_ros.detection import Detector
    from omniad_ros.lab import apart
    from omniad_ros.patrol.tracks import Tracker
    from omniad_ros.ros.memory import SavedState

    folder = Path(folder)
    record, told = read_json(folder / RECORD), read_json(folder / TRUTH / "truth.json")
    inspected = {frame["stamp"] for frame in record["frames"]}
    frames = [frame for frame in told["frames"] if frame["stamp"] in inspected]
    poses = [Pose.from_matrix(np.array(frame["world_from_camera"])) for frame in frames]
    labels = apart("recording", "render_labels", told["seed"], told["planted"], told["light"], poses)
    truth = {f["stamp"] / 1e9: TrueFrame(pose, label > 0) for f, pose, label in zip(frames, poses, labels)}
    anomalies = tuple(
        PlantedAnomaly(a["id"], a["kind"], tuple((np.array(p["center"]), np.array(p["size"])) for p in a["places"]))
        for a in told["anomalies"]
    )
    tracks = Tracker.from_json(read_json(folder / TRACKS, SavedState).tracker).tracks
    threshold = Detector.load(site.detector_dir).threshold
    return Patrol(folder, record, tracks, PatrolTruth(align_truth(true_poses, site), truth, anomalies), threshold)


def _odometry_in_map(record: dict) -> list[Pose]:
    """The route as odometry alone has it: joined to the refined one where that begins."""
    odometry = {entry["stamp"]: Pose.from_matrix(np.array(entry["odom_from_camera"])) for entry in record["odometry"]}
    refined = {f["stamp"]: Pose.from_matrix(np.array(f["pose"])) for f in record["frames"] if f["pose"] is not None}
    first = min((stamp for stamp in refined if stamp in odometry), default=None)
    if first is None:
        return []
    map_from_odom = refined[first] @ odometry[first].inverse()
    return [map_from_odom @ pose for stamp, pose in sorted(odometry.items()) if stamp >= first]
