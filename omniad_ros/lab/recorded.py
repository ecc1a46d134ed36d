"""A recorded patrol of the simulated robot, read back: scored against the simulator's truth, and told in a report.

`omniad_ros.ros.recorded_patrol` drives the patrol and writes the folder; the names in it are this module's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from omniad_ros.core.files import read_json
from omniad_ros.core.geometry import Pose, pose_of
from omniad_ros.detection import Detector
from omniad_ros.evaluation import PatrolTruth, PlantedAnomaly, RecordedFrame, TrueFrame, align_truth
from omniad_ros.lab.process import apart
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.report import GalleryFrame, PatrolReport, PlantedMark, RouteStep
from omniad_ros.site import Site

RECORD, TRACKS, TRUTH = "record.json", "tracks.json", "truth"
HEATMAPS, INDEPENDENT, PICTURES = "heatmaps", "heatmaps_independent", "pictures"
GALLERY = 24
"""Frames that the report shows."""


@dataclass(frozen=True)
class RecordedPatrol:
    """A recorded patrol with its truth, as `omniad_ros.evaluation.score_patrol` and the report want it."""

    folder: Path
    record: dict
    tracks: list[Track]
    truth: PatrolTruth
    threshold: float

    @property
    def frames(self) -> Iterator[RecordedFrame]:
        """The frames, with heatmaps read one after the other."""
        for frame in self.record["frames"]:
            pose = pose_of(frame["pose"])
            heatmaps = self._heatmap(HEATMAPS, frame), self._heatmap(INDEPENDENT, frame)
            yield RecordedFrame(frame["stamp"] / 1e9, pose, *heatmaps, frame["state"], frame["ms"])

    def _heatmap(self, folder: str, frame: dict) -> np.ndarray | None:
        if frame["state"] == "lost":
            return None
        heatmap = cv2.imread(str(self.folder / folder / f"{frame['stamp']}.png"), cv2.IMREAD_UNCHANGED)
        return None if heatmap is None else heatmap.astype(np.float32) / 65535

    def report(self, site: Site, metrics: dict) -> PatrolReport:
        frames = self.record["frames"]
        steps = [
            RouteStep(
                f["stamp"] / 1e9,
                pose_of(f["pose"]),
                f["state"],
                f["message"],
            )
            for f in frames
        ]
        chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(GALLERY, len(frames))).round().astype(int)]
        pictures = [(f, self.folder / PICTURES / f"{f['stamp']}.jpg") for f in chosen]
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


def read_patrol(folder: Path, true_poses: Path, site: Site) -> RecordedPatrol:
    """Read back what `run_patrol` wrote; the masks of the frames that were inspected are rendered now.

    true_poses: of the survey (`omniad_ros.lab.record_survey`). Raises OmniadError where something is missing.
    """
    folder = Path(folder)
    record, told = read_json(folder / RECORD), read_json(folder / TRUTH / "truth.json")
    inspected = {frame["stamp"] for frame in record["frames"]}
    frames = [frame for frame in told["frames"] if frame["stamp"] in inspected]
    poses = [pose_of(frame["world_from_camera"]) for frame in frames]
    labels = apart("recording", "render_labels", told["seed"], told["planted"], told["light"], poses)
    truth = {f["stamp"] / 1e9: TrueFrame(pose, label > 0) for f, pose, label in zip(frames, poses, labels)}
    anomalies = tuple(
        PlantedAnomaly(a["id"], a["kind"], tuple((np.array(p["center"]), np.array(p["size"])) for p in a["places"]))
        for a in told["anomalies"]
    )
    tracks = Tracker.from_json((folder / TRACKS).read_bytes()).tracks
    threshold = Detector.load(site.detector_dir).threshold
    return RecordedPatrol(
        folder, record, tracks, PatrolTruth(align_truth(true_poses, site), truth, anomalies), threshold
    )


def _odometry_in_map(record: dict) -> list[Pose]:
    """The route as odometry alone has it: joined to the refined one where that begins."""
    odometry = {entry["stamp"]: pose_of(entry["odom_from_camera"]) for entry in record["odometry"]}
    refined = {f["stamp"]: pose_of(f["pose"]) for f in record["frames"] if f["pose"] is not None}
    first = min((stamp for stamp in refined if stamp in odometry), default=None)
    if first is None:
        return []
    map_from_odom = refined[first] @ odometry[first].inverse()
    return [map_from_odom @ pose for stamp, pose in sorted(odometry.items()) if stamp >= first]
