"""A recorded patrol, inspected by the session that the node runs, and written down as it goes: `omniad inspect`.

The work is done in a hidden folder beside the one that is asked for and renamed when whole; after an interruption the same
call goes on in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from omniad_ros import __version__
from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import check_empty, exclusive, read_json, write_atomically, write_json
from omniad_ros.core.geometry import pose_of, rows_of
from omniad_ros.core.images import encode_jpeg, read_image, write_image
from omniad_ros.living.kept_patrol import KeptPatrol
from omniad_ros.patrol.pipeline import Inspection, InspectionOptions, Inspector, overlay
from omniad_ros.patrol.session import PatrolFrame, PatrolSession
from omniad_ros.patrol.tracks import Track, Tracker, TrackerOptions
from omniad_ros.recordings import FrameSource, open_frames
from omniad_ros.recordings.bag import BagOptions
from omniad_ros.recordings.source import SECOND
from omniad_ros.report.data import RouteStep
from omniad_ros.report.recorder import PICTURE_WIDTH, PatrolRecorder
from omniad_ros.report.writing import write_report
from omniad_ros.site import Site

PICTURES = ("heatmaps", "masks", "overlays")
STATE, ROWS, POINT = ".state", "frames.jsonl", "point.json"
SAVE_EVERY = 10.0
"""Seconds of work that an interruption may cost."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InspectOptions:
    """max_rate: frames a second of recorded time at most, 0 for all; inspection: how frames are inspected; bag: which topics
    of a rosbag2 are read; patrols: URL of the database that keeps the patrol, empty for patrols.db beside the site, NOT_KEPT for none;
    robot: whose patrol it is."""

    max_rate: float = 0.0
    inspection: InspectionOptions = field(default_factory=InspectionOptions)
    bag: BagOptions | None = None
    patrols: str = ""
    robot: str = ""


def inspect_images(
    site_path: Path, images: Path, out: Path, progress: Progress = quiet, options: InspectOptions | None = None
) -> list[Track]:
    """Inspect a patrol and write what was found; returns the confirmed tracks.

    images: a folder of images (with a transforms.json where their poses are roughly known), a video, or a rosbag2.
    Writes into ``out``: ``index.html``, ``inspection.json`` (frames with state, pose and detections; tracks),
    ``heatmaps/*.png`` (16 bits: probability times 65535), ``masks/*.png`` and ``overlays/*.jpg``; all of it, or nothing. What an
    interrupted call of the same kind has done is not done again.
    Raises OmniadError where the site or the images cannot be used, ``out`` holds something, or another process is writing it.
    """
    options, out = options or InspectOptions(), Path(out)
    check_empty(out)
    site = Site.open(site_path)
    source = open_frames(images, options.bag, part(progress, 0.0, 0.05)).taken_by(site.mapped.camera)
    source = source.at_most(options.max_rate)
    place = out.resolve()
    work = place.parent / f".{place.name}.partial"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with exclusive(work):  # what another process does in it is neither touched nor removed
            try:
                check_empty(out)  # as it is now that nobody else works on it
                tracks = _Inspected(site, source, work, options).run(part(progress, 0.05, 1.0))
            except OmniadError:
                shutil.rmtree(work, ignore_errors=True)  # nothing is gained by going on with what cannot be
                raise
            check_empty(out)
            _hand_over(work, place)
    except OSError as error:
        raise OmniadError(f"cannot write to {out}: {error.strerror or error}") from error
    return tracks


def _hand_over(work: Path, out: Path) -> None:
    """Rename the finished folder. One that exists stays the one that it is: somebody may stand in it, or it is a mounted disk."""
    if not out.is_dir():
        work.replace(out)
        return
    for entry in work.iterdir():
        shutil.move(entry, out / entry.name)
    work.rmdir()


class SavedPoint(msgspec.Struct):
    """Where an interrupted inspection goes on. key: of what is inspected and how; frames: that are done; rows: bytes of ROWS that count."""

    key: str
    frames: int
    rows: int


class _Inspected:
    """One run over all frames, writing as it goes into ``folder``."""

    def __init__(self, site: Site, source: FrameSource, folder: Path, options: InspectOptions):
        self.site, self.source, self.folder, self.state = site, source, folder, folder / STATE
        self.options = options
        self.inspector = Inspector(site, options=options.inspection)
        self.key = _key(site, source, folder, options)
        self._begin()

    def _begin(self) -> None:
        """Nothing is known yet."""
        self.inspector.reset()
        if not self.source.timed:
            # without times only different views can confirm a track
            self.inspector.tracker = Tracker(TrackerOptions(confirm_seconds=math.inf))
        self.session = PatrolSession(self.inspector, self.site.survey)
        self.kept: KeptPatrol | None = None
        self.recorder = PatrolRecorder()
        self.rows: list[dict] = []

    def run(self, progress: Progress) -> list[Track]:
        done = self._resume()
        facts = {"robot": self.options.robot, "source": self.source.path.resolve().name, "key": self.key}
        self.kept = KeptPatrol.begin(self.site, self.session, self.options.patrols, **facts)
        with (self.state / ROWS).open("ab") as rows:
            saved_at = time.monotonic()
            for number, frame in enumerate(self.session.run(self.source, done), done + 1):
                row = self._write(frame)
                rows.write(json.dumps(row).encode() + b"\n")
                self._remember(row, frame)
                self._keep(frame)
                progress(number / max(self.source.count, number), f"inspected {row['name']}")
                if time.monotonic() - saved_at > SAVE_EVERY:
                    rows.flush()
                    self._save(number, rows.tell())
                    saved_at = time.monotonic()
        tracker = self.inspector.tracker
        told = [track for track in tracker.tracks if not (self.kept and self.kept.silent(track))]
        confirmed = [track for track in told if track.confirmed]
        frames = [{key: value for key, value in row.items() if key != "odometry"} for row in self.rows]
        write_json(
            self.folder / "inspection.json", {"frames": frames, "tracks": [self._track_row(t) for t in confirmed]}
        )
        title, subtitle = f"Patrol {self.source.path.resolve().name}", f"site {self.site.path.resolve().name}"
        report = self.recorder.report(
            title,
            self.site,
            tracker,
            subtitle=subtitle,
            timed=self.source.timed,
            tracks=told,
            inspected=self.session.inspected.share,
        )
        write_report(self.folder, report)
        shutil.rmtree(self.state)
        if self.kept is not None:
            self.kept.end()
        progress(1.0, "wrote the report")
        return confirmed

    # ---- a frame

    def _write(self, frame: PatrolFrame) -> dict:
        """Write a frame's pictures; returns its row of inspection.json, with the odometry's pose."""
        inspection, name = frame.inspection, frame.frame.name
        heatmaps, masks, overlays = (self.folder / folder for folder in PICTURES)
        write_image(heatmaps / f"{name}.png", np.round(inspection.heatmap * 65535).astype(np.uint16))
        write_image(masks / f"{name}.png", inspection.mask)
        (overlays / f"{name}.jpg").write_bytes(encode_jpeg(overlay(frame.image, inspection)))
        return _frame_row(frame, inspection) | {"odometry": rows_of(frame.odometry_pose)}

    def _remember(self, row: dict, frame: PatrolFrame) -> None:
        self.recorder.add(self._seconds(row), frame.image, frame.inspection, frame.odometry_pose)
        self.rows.append(row)

    def _seconds(self, row: dict) -> float:
        return row["stamp"] if self.source.timed else float(len(self.rows))

    def _keep(self, frame: PatrolFrame) -> None:
        if self.kept is None:
            return
        before = self.kept.trouble
        self.kept.add(frame)
        if self.kept.trouble and self.kept.trouble != before:
            logger.warning(self.kept.trouble)

    def _track_row(self, track: Track) -> dict:
        known = self.kept.known(track) if self.kept else None
        return _track_row(track) | (
            {} if known is None else {"finding": known.name, "state": known.state, "verdict": known.verdict}
        )

    # ---- interruptions

    def _save(self, frames: int, rows: int) -> None:
        """Keep this moment; the one before it counts until the new one is whole."""
        moment = self.state / f"{frames:08d}"
        shutil.rmtree(moment, ignore_errors=True)
        moment.mkdir()
        self.session.save(moment)
        write_atomically(self.state / POINT, msgspec.json.encode(SavedPoint(self.key, frames, rows)))
        for old in self.state.iterdir():
            if old.is_dir() and old != moment:
                shutil.rmtree(old)

    def _resume(self) -> int:
        """How many frames an interrupted run has done; begins anew where there was none, or of something else."""
        if (self.state / POINT).is_file():
            try:
                point = read_json(self.state / POINT, SavedPoint)
                if point.key == self.key:
                    self._reload(point)
                    logger.warning("going on after frame %d of an interrupted inspection", point.frames)
                    return point.frames
                logger.warning("an interrupted inspection in %s was another one: beginning anew", self.folder)
            except Exception:  # damage shows in whichever library meets it
                logger.warning("what an interrupted inspection left in %s is damaged: beginning anew", self.folder)
                self._begin()
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for name in (*PICTURES, STATE):
            (self.folder / name).mkdir()
        return 0

    def _reload(self, point: SavedPoint) -> None:
        self.session.restore(self.state / f"{point.frames:08d}")
        with (self.state / ROWS).open("r+b") as file:
            file.truncate(point.rows)
            lines = file.read().splitlines()
        if len(lines) != point.frames:
            raise ValueError("rows are missing")
        for line in lines:
            row = json.loads(line)
            picture = self.folder / "overlays" / f"{row['name']}.jpg"
            self.recorder.add_step(
                RouteStep(self._seconds(row), pose_of(row["pose"]), row["state"], row["message"], len(row["detections"])),
                row["ms"], pose_of(row["odometry"]), lambda picture=picture: encode_jpeg(read_image(picture), PICTURE_WIDTH),
            )  # fmt: skip
            self.rows.append(row)


def _key(site: Site, source: FrameSource, own: Path, options: InspectOptions) -> str:
    """Of what is inspected and how: an interrupted inspection of anything else is not gone on with. own: files that do not count."""
    path = source.path.resolve()
    files = [f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file() and own not in f.parents]
    stats = sorted((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    facts = [__version__, site.manifest["files"], stats, source.camera.to_dict(), repr(options)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _frame_row(frame: PatrolFrame, inspection: Inspection) -> dict:
    refined, known = inspection.localization.pose, inspection.pose
    return ({"camera": frame.frame.eye} if frame.frame.eye else {}) | {
        "name": frame.frame.name, "stamp": frame.stamp / SECOND, "state": inspection.state, "message": inspection.message,
        "map_from_camera": None if refined is None else refined.matrix().round(6).tolist(),
        "pose": None if known is None else known.matrix().round(6).tolist(),
        "detections": [
            {
                "box": [int(v) for v in d.box], "area": int(d.area), "score": round(float(d.score), 4), "kind": d.kind,
                "center": _list(d.center), "size": _list(d.size),
            }
            for d in inspection.detections
        ],
        "ms": {stage: round(value, 1) for stage, value in inspection.ms.items()},
    }  # fmt: skip


def _track_row(track: Track) -> dict:
    return {
        "id": track.id, "kind": track.kind, "score": round(track.score, 4), "views": track.views,
        "center": _list(track.center), "size": _list(track.size), "first_seen": track.first_seen, "last_seen": track.last_seen,
    }  # fmt: skip


def _list(vector: np.ndarray | None) -> list[float] | None:
    return None if vector is None else [round(float(v), 4) for v in vector]
