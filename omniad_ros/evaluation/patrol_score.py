"""Scores a patrol of which the truth is known (the simulator's): which planted anomalies were found, where, and how well.

The truth is in the simulator's world frame, the site in its map frame, which is aligned with the drifting odometry of the
survey; `align_truth` finds the rigid motion between them from the survey's true poses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Pose, similarity
from omniad_ros.evaluation.metrics import PixelMeter
from omniad_ros.recordings.transforms import load_transforms, read_pose
from omniad_ros.site import Site

FOUND_METRES, FALSE_METRES, LARGE_METRES = 0.3, 0.5, 0.6
SUCCESS_METRES, SUCCESS_DEGREES = 0.05, 2.0
STAGES = ("localize", "render", "detect", "track", "total")


@dataclass(frozen=True)
class Alignment:
    """A similarity between two frames: ``target = scale * rotation @ source + translation``; error: its RMS in target units."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    error: float

    @staticmethod
    def fit(source: Sequence[Pose], target: Sequence[Pose], with_scale: bool) -> Alignment:
        """Least squares over camera centres (Umeyama, 1991). Raises ValueError where they do not determine it."""
        a = np.stack([pose.translation for pose in source]) if source else np.zeros((0, 3))
        b = np.stack([pose.translation for pose in target]) if target else np.zeros((0, 3))
        if len(a) < 3:
            raise ValueError("at least three common poses are needed")
        scale, rotation, _ = similarity(a, b)
        scale = scale if with_scale else 1.0
        translation = b.mean(0) - scale * rotation @ a.mean(0)
        residual = scale * a @ rotation.T + translation - b
        return Alignment(scale, rotation, translation, float(np.sqrt((residual**2).sum(1).mean())))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the source frame in the target frame."""
        return self.scale * np.asarray(points, float) @ self.rotation.T + self.translation

    def pose(self, pose: Pose) -> Pose:
        return Pose(self.rotation @ pose.rotation, self.points(pose.translation))


@dataclass(frozen=True)
class PlantedAnomaly:
    """kind: what was done ("moved", "puddle", …); places: boxes (center (3,), size (3,)) in the world frame, metres. What was
    moved has two places, where it was and where it is."""

    name: str
    kind: str
    places: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class TrueFrame:
    """The truth of one frame: world_from_camera (optical), and uint8 or bool (H, W), nonzero where anomalous."""

    pose: Pose
    mask: np.ndarray


@dataclass(frozen=True)
class RecordedFrame:
    """What the inspector said of one frame: refined map_from_camera or None; heatmap (H, W) or None where lost; independent: the
    same from this frame alone."""

    stamp: float
    pose: Pose | None
    heatmap: np.ndarray | None
    independent: np.ndarray | None
    state: str
    ms: dict[str, float]


@dataclass(frozen=True)
class PatrolTruth:
    """map_from_world: from `align_truth`; frames: by the stamp that the recorded frame carries."""

    map_from_world: Alignment
    frames: dict[float, TrueFrame]
    anomalies: tuple[PlantedAnomaly, ...]


def align_truth(true_poses: Path, site: Site) -> Alignment:
    """The rigid motion ``map_from_world``, from the survey's true poses (nerfstudio's format) to the site's mapped poses.

    Images are matched by file name. The scale is kept at 1: a map of wrong scale is a fault that shall show.
    Raises OmniadError where fewer than three images are common.
    """
    truth = {}
    for frame in load_transforms(true_poses).frames:
        pose = read_pose(frame, true_poses)
        if pose is not None:
            truth[Path(frame.file_path).stem] = pose
    mapped = site.mapped
    pairs = [(truth[Path(n).stem], pose) for n, pose in zip(mapped.names, mapped.poses) if Path(n).stem in truth]
    try:
        return Alignment.fit([a for a, _ in pairs], [b for _, b in pairs], with_scale=False)
    except ValueError as error:
        raise OmniadError(f"{true_poses} does not say where the site's map lies in the world: {error}") from None


def score_patrol(frames: Iterable[RecordedFrame], tracks: Sequence, truth: PatrolTruth, threshold: float) -> dict:
    """Score a patrol.

    frames: what the inspector gave; those without a true frame of their stamp are left out of the pixel and localization
    figures; a frame that was lost counts with an empty heatmap. tracks: `Track`s of the whole patrol, of which the
    confirmed ones count. An anomaly is found where a confirmed track's centre lies within 0.3 m of the centre of one of
    its places; of a place longer than 0.6 m (an open door, a puddle) the distance to its box counts instead. A false
    track is a confirmed one farther than 0.5 m from every place, in the same measure.

    Returns ``{"planted", "found", "false_tracks", "place_error_m", "pixel": {"auroc", "aupro", "max_f1", "f1", "precision",
    "recall"}, "pixel_independent": the same of each frame alone, "localization": {"success", "median_m", "median_deg"}, "ms": {stage: median}, "frames", "states": {state: count},
    "anomalies": [{"name", "kind", "found", "track", "distance_m"}]}``.
    """
    meter, alone, errors, states = PixelMeter(threshold), PixelMeter(threshold), [], {}
    ms: dict[str, list[float]] = {stage: [] for stage in STAGES}
    scored = 0
    for frame in frames:
        states[frame.state] = states.get(frame.state, 0) + 1
        for stage in STAGES:
            if stage in frame.ms and frame.state == "ok":
                ms[stage].append(frame.ms[stage])
        true = truth.frames.get(frame.stamp)
        if true is None:
            continue
        scored += 1
        mask = np.asarray(true.mask) > 0
        meter.add(_as_large_as(frame.heatmap, mask), mask)
        alone.add(_as_large_as(frame.independent, mask), mask)
        if frame.pose is not None:
            errors.append(frame.pose.distance(truth.map_from_world.pose(true.pose)))
    confirmed = [track for track in tracks if track.confirmed]
    rows = [_match(anomaly, confirmed, truth.map_from_world) for anomaly in truth.anomalies]
    distances = [row["distance_m"] for row in rows if row["found"]]
    false = [t for t in confirmed if all(_nearest(a, t, truth.map_from_world) > FALSE_METRES for a in truth.anomalies)]
    within = [m <= SUCCESS_METRES and d <= SUCCESS_DEGREES for m, d in errors]
    return {
        "planted": len(rows),
        "found": len(distances),
        "false_tracks": len(false),
        "place_error_m": _rounded(np.median(distances)) if distances else None,
        "pixel": {key: _rounded(value) for key, value in meter.result().items()},
        "pixel_independent": {key: _rounded(value) for key, value in alone.result().items()},
        "localization": {
            "success": _rounded(sum(within) / scored) if scored else None,
            "median_m": _rounded(np.median([m for m, _ in errors])) if errors else None,
            "median_deg": _rounded(np.median([d for _, d in errors])) if errors else None,
        },
        "ms": {stage: round(float(np.median(values)), 1) for stage, values in ms.items() if values},
        "frames": sum(states.values()),
        "states": states,
        "anomalies": rows,
    }


def format_score(metrics: dict) -> str:
    """A patrol's metrics as a table for a terminal."""

    def show(value, form: str, unit: str = "") -> str:
        return "-" if value is None else f"{value:{form}}{unit}"

    pixel, alone, localization = metrics["pixel"], metrics["pixel_independent"], metrics["localization"]
    lines = [
        ("planted anomalies found", f"{metrics['found']} of {metrics['planted']}"),
        ("false tracks", str(metrics["false_tracks"])),
        ("place error (median)", show(metrics["place_error_m"], ".2f", " m")),
        ("pixel AUROC", show(pixel["auroc"], ".3f")),
        ("pixel F1 at the threshold (best)", f"{show(pixel['f1'], '.3f')} ({show(pixel['max_f1'], '.3f')})"),
        ("  without evidence from other frames", f"{show(alone['f1'], '.3f')} ({show(alone['max_f1'], '.3f')})"),
        ("localization within 5 cm and 2 degrees", show(localization["success"], ".1%")),
        ("localization error (median)", f"{show(localization['median_m'], '.3f', ' m')}, {show(localization['median_deg'], '.2f', ' deg')}"),
        *((f"{stage}, milliseconds", f"{value:.0f}") for stage, value in metrics["ms"].items()),
    ]  # fmt: skip
    width = max(len(label) for label, _ in lines)
    return "\n".join(f"{label.ljust(width)}  {value}" for label, value in lines)


def _rounded(value) -> float | None:
    return None if value is None else round(float(value), 5)


def _as_large_as(heatmap: np.ndarray | None, mask: np.ndarray) -> np.ndarray:
    import cv2

    if heatmap is None:
        return np.zeros(mask.shape, np.float32)
    if heatmap.shape == mask.shape:
        return heatmap
    return cv2.resize(heatmap, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _place_distance(center: np.ndarray, size: np.ndarray, point: np.ndarray) -> float:
    """Of a point from a place, all in the world frame: to its centre, or to its box where that is large."""
    offset = np.abs(point - np.asarray(center, float))
    if np.max(size) > LARGE_METRES:
        offset = np.maximum(offset - 0.5 * np.asarray(size, float), 0)
    return float(np.linalg.norm(offset))


def _nearest(anomaly: PlantedAnomaly, track, map_from_world: Alignment) -> float:
    """Boxes are along the world's axes, so the track is brought there."""
    point = map_from_world.rotation.T @ (track.center - map_from_world.translation) / map_from_world.scale
    return min(_place_distance(center, size, point) for center, size in anomaly.places)


def _match(anomaly: PlantedAnomaly, tracks: Sequence, map_from_world: Alignment) -> dict:
    distances = [(_nearest(anomaly, track, map_from_world), track.id) for track in tracks]
    distance, track = min(distances, default=(None, None))
    found = distance is not None and distance <= FOUND_METRES
    return {
        "name": anomaly.name, "kind": anomaly.kind, "found": found, "track": track if found else None,
        "distance_m": _rounded(distance),
    }  # fmt: skip
