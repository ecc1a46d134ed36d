"""`omniad inspect`: a patrol from a folder of images, a video or a rosbag2, inspected by the same code as the node's."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import check_empty, write_json
from omniad_ros.core.geometry import Camera, Pose, Rectifier
from omniad_ros.core.images import write_image
from omniad_ros.patrol.odometry import SECOND
from omniad_ros.patrol.pipeline import Inspection, InspectionOptions, Inspector, overlay, resize
from omniad_ros.patrol.session import Patrol
from omniad_ros.patrol.tracks import Track, Tracker, TrackerOptions
from omniad_ros.recordings import read_survey
from omniad_ros.recordings.bag import BagOptions, is_bag, open_recording
from omniad_ros.recordings.source import LONGEST_SIDE
from omniad_ros.report.pictures import encode_jpeg
from omniad_ros.report.recorder import PatrolRecorder
from omniad_ros.report.writing import write_report
from omniad_ros.site import Site


@dataclass(frozen=True)
class InspectOptions:
    """max_rate: frames a second of recorded time at most, 0 for all; independent: judge each frame alone; bag: which topics
    of a rosbag2 are read."""

    max_rate: float = 0.0
    independent: bool = False
    bag: BagOptions | None = None


@dataclass(frozen=True)
class _Frames:
    """What is inspected. odometry: (stamp in nanoseconds, odom_from_base); frames: starts an iteration over (stamp, name, image)."""

    camera: Camera
    known: bool
    """The camera's intrinsics were given with the images; else they are taken for the site's camera."""
    base_from_camera: Pose
    odometry: tuple[tuple[int, Pose], ...]
    count: int
    frames: Iterator[tuple[int, str, np.ndarray]]
    timed: bool


def inspect_images(
    site_path: Path, images: Path, out: Path, progress: Progress = quiet, options: InspectOptions | None = None
) -> list[Track]:
    """Inspect a patrol and write what was found; returns the confirmed tracks.

    images: a folder of images (with a transforms.json where their poses are roughly known), a video, or a rosbag2.
    Writes into ``out``: ``index.html``, ``inspection.json`` (frames with state, pose and detections; tracks),
    ``heatmaps/*.png`` (16 bits: probability times 65535), ``masks/*.png`` and ``overlays/*.jpg``; all of it, or nothing.
    Raises OmniadError where the site or the images cannot be used, or ``out`` holds something.
    """
    options, out = options or InspectOptions(), Path(out)
    check_empty(out)
    site = Site.open(site_path)
    source = open_frames(Path(images), options, part(progress, 0.0, 0.05))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
            folder = Path(work) / "patrol"
            tracks = _Patrol(site, source, folder, options).run(part(progress, 0.05, 1.0), Path(images).name)
            folder.replace(out)
    except OSError as error:
        raise OmniadError(f"cannot write to {out}: {error.strerror or error}") from error
    return tracks


def open_frames(images: Path, options: InspectOptions, progress: Progress) -> _Frames:
    """The frames of a folder, video or bag, one after the other. Raises OmniadError where there are none."""
    if not images.exists():
        raise OmniadError(f"{images} does not exist")
    if is_bag(images):
        bag = open_recording(images, options.bag)
        frames = ((stamp, f"{stamp:019d}", image) for stamp, image in bag.images())
        return _Frames(
            bag.camera, bag.camera_from == "file", bag.base_from_camera, bag.odometry, bag.count, frames, True
        )
    source = read_survey(images, progress)
    posed = [(index * SECOND, pose) for index, pose in enumerate(source.poses) if pose is not None]
    # images without poses may be in any order, so none is a hint where the next one is; those of a video are
    step = SECOND if posed or source.kind == "video" else 3600 * SECOND
    names = [Path(name).stem for name in source.names]
    frames = ((i * step, name, image) for i, (name, image) in enumerate(zip(names, source.open_images())))
    known = source.camera_from == "file"
    return _Frames(source.camera, known, Pose.identity(), tuple(posed), len(source), frames, source.kind == "video")


def camera_of(source: _Frames, site: Site) -> Camera:
    """The camera of the frames: as given, else the site's. Raises OmniadError where it cannot be the site's."""
    own, mapped = source.camera, site.mapped.camera
    if source.known:
        return own
    if abs(own.width * mapped.height / (own.height * mapped.width) - 1) > 0.02:
        raise OmniadError(
            f"the images are {own.width}x{own.height} and the site's camera has {mapped.width}x{mapped.height}: another camera must be given, "
            "by a transforms.json or a camera_info"
        )
    return mapped.resized(own.width, own.height)


class _Patrol:
    """One run over all frames, writing as it goes."""

    def __init__(self, site: Site, source: _Frames, folder: Path, options: InspectOptions):
        self.site, self.source, self.folder, self.options = site, source, folder, options
        inspector = Inspector(site, options=InspectionOptions(evidence=not options.independent))
        self.patrol = Patrol(inspector, site.survey)
        if not source.timed:
            # without times only different views can confirm a track
            inspector.tracker = Tracker(TrackerOptions(confirm_seconds=math.inf))
        self.rectify = Rectifier(camera_of(source, site))
        self.camera = self.rectify.camera.fitted(LONGEST_SIDE)
        self.recorder = PatrolRecorder()
        self.rows: list[dict] = []
        for name in ("heatmaps", "masks", "overlays"):
            (folder / name).mkdir(parents=True)

    def run(self, progress: Progress, title: str) -> list[Track]:
        waiting, newest, last = list(reversed(self.source.odometry)), -math.inf, -math.inf
        for index, (stamp, name, image) in enumerate(self.source.frames):
            progress(index / max(self.source.count, 1), f"inspecting {name}")
            if self.options.max_rate and stamp - last < SECOND / self.options.max_rate:
                continue
            last = stamp
            while waiting and newest < stamp:  # up to the first sample after the frame, so that it can be interpolated
                newest, pose = waiting.pop()
                self.patrol.add_odometry(newest, pose)
            self._inspect(stamp, name, resize(self.rectify(image), self.camera))
        tracker = self.patrol.inspector.tracker
        write_json(
            self.folder / "inspection.json",
            {"frames": self.rows, "tracks": [_track_row(t) for t in tracker.tracks if t.confirmed]},
        )
        report = self.recorder.report(
            f"Patrol {title}",
            self.site,
            tracker,
            subtitle=f"site {self.site.path.resolve().name}",
            timed=self.source.timed,
        )
        write_report(self.folder, report)
        progress(1.0, "wrote the report")
        return [track for track in tracker.tracks if track.confirmed]

    def _inspect(self, stamp: int, name: str, image: np.ndarray) -> None:
        frame = self.patrol.inspect(image, self.camera, stamp, self.source.base_from_camera, wait=False)
        inspection = frame.inspection
        seconds = stamp / SECOND if self.source.timed else float(len(self.rows))
        self.recorder.add(seconds, image, inspection, frame.odometry_pose)
        write_image(self.folder / "heatmaps" / f"{name}.png", np.round(inspection.heatmap * 65535).astype(np.uint16))
        write_image(self.folder / "masks" / f"{name}.png", inspection.mask)
        (self.folder / "overlays" / f"{name}.jpg").write_bytes(encode_jpeg(overlay(image, inspection)))
        self.rows.append(_frame_row(name, stamp, inspection))


def _frame_row(name: str, stamp: int, inspection: Inspection) -> dict:
    refined = inspection.localization.pose
    return {
        "name": name, "stamp": stamp / SECOND, "state": inspection.state, "message": inspection.message,
        "map_from_camera": None if refined is None else refined.matrix().round(6).tolist(),
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
