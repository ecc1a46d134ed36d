"""Tracks from detections as a patrol gives them: noisy boxes, the background's depth, misses, false alarms, occlusion."""

import functools
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.patrol.tracks import Tracker, TrackerOptions

CAMERA = Camera.from_fov(320, 240, math.radians(70))


@dataclass(frozen=True)
class Detection:
    box: tuple
    area: int
    score: float
    kind: str
    center: np.ndarray | None
    size: np.ndarray | None


def room_depth(pose):
    """A floor, four walls and a 1.2 m wide block in the middle, as the survey's reference view would have it."""
    rays = CAMERA.directions() @ pose.rotation.T
    eye, walls = pose.translation, []
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(rays[..., 2] < 0, -eye[2] / rays[..., 2], np.inf)
        for axis in (0, 1):
            walls += [
                np.where(s * rays[..., axis] > 0, (4.0 * s - eye[axis]) / rays[..., axis], np.inf) for s in (-1, 1)
            ]
        a, b = ((np.array(corner) - eye) / rays for corner in ((-0.6, -0.6, 0.0), (0.6, 0.6, 1.2)))
        enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    block = np.where((enter < leave) & (enter > 0), enter, np.inf)
    return np.min([floor, *walls, block], axis=0).astype(np.float32)


@functools.cache
def patrol(count=60, radius=2.6):
    """A robot drives around the block and looks at it, its camera at 0.5 m: a (step, pose, depth) each."""
    steps = []
    for step in range(count):
        angle = 2 * np.pi * step / count
        eye = np.array([radius * np.cos(angle), radius * np.sin(angle), 0.5])
        pose = Pose.look_at(eye, eye * [0.1, 0.1, 0.8])
        steps.append((step, pose, room_depth(pose)))
    return steps


def seen(place, size, kind, pose, depth, rng):
    """The detection of a box-shaped anomaly, None where it is outside the frame or hidden behind the block."""
    corners = np.array(place) + 0.5 * np.array(size) * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    local = pose.inverse().apply(corners)
    if (local[:, 2] < 0.2).any():
        return None
    pixels = CAMERA.project(local)
    x0, y0, x1, y1 = [*pixels.min(0), *pixels.max(0)]
    if x1 < 12 or y1 < 12 or x0 > 308 or y0 > 228:
        return None
    jitter = rng.normal(0, 0.08, 4) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
    x0, y0, x1, y1 = np.clip([x0 + jitter[0], y0 + jitter[1], x1 + jitter[2], y1 + jitter[3]], 0, [320, 240, 320, 240])
    if x1 - x0 < 3 or y1 - y0 < 3:
        return None
    u, v = int((x0 + x1) / 2), int((y0 + y1) / 2)
    z = depth[min(v, 239), min(u, 319)]
    if z < local[:, 2].min() - 0.05:
        return None
    ray = CAMERA.directions()[min(v, 239), min(u, 319)]
    return Detection(
        (x0, y0, x1, y1),
        int((x1 - x0) * (y1 - y0) * 0.6),
        float(rng.uniform(0.6, 0.95)),
        kind,
        pose.apply(z * ray),
        None,
    )


def drive(tracker, anomalies, rng, steps, recall=0.75, false_alarms=0.3, noise_m=0.02):
    for step, pose, depth in steps:
        found = [seen(*anomaly, pose, depth, rng) for anomaly in anomalies]
        found = [d for d in found if d is not None and rng.random() < recall]
        for _ in range(rng.poisson(false_alarms)):  # floaters and blur: anywhere, in one frame only
            x, y, w, h = *rng.uniform([20, 60], [280, 200]), *rng.uniform(4, 30, 2)
            z = depth[int(y), int(x)]
            found.append(
                Detection(
                    (x, y, x + w, y + h),
                    int(w * h),
                    0.6,
                    "changed",
                    pose.apply(z * CAMERA.directions()[int(y), int(x)]),
                    None,
                )
            )
        off = Pose(pose.rotation, pose.translation + rng.normal(0, noise_m, 3))
        image = np.full((240, 320, 3), step, np.uint8)
        tracker.update(found, CAMERA, off, depth, float(step), (image, image, np.zeros((240, 320), np.float32)))
    return [t for t in tracker.tracks if t.confirmed]


ANOMALIES = [
    ((1.2, 0.3, 0.15), (0.3, 0.3, 0.3), "added"),
    ((-0.62, 0.2, 0.7), (0.1, 0.15, 0.15), "changed"),
    ((0.1, 1.3, 0.2), (0.2, 0.2, 0.4), "added"),
    ((-0.2, -1.1, 0.01), (0.5, 0.5, 0.02), "changed"),
    ((-1.2, -0.6, 0.3), (0.3, 0.3, 0.6), "added"),
]


@pytest.mark.parametrize("seed", range(4))
def test_a_patrol_finds_all_places_and_no_others(seed):
    rng = np.random.default_rng(seed)
    tracks = drive(Tracker(), ANOMALIES, rng, patrol(80))
    errors = [min(np.linalg.norm(t.center - place) for t in tracks) for place, _, _ in ANOMALIES]
    false = [t for t in tracks if min(np.linalg.norm(t.center - place) for place, _, _ in ANOMALIES) > 0.5]
    assert max(errors) < 0.3, errors
    assert len(false) <= 1, [(t.center.round(2), t.views) for t in false]
    nearest = {k: min(tracks, key=lambda t: np.linalg.norm(t.center - p)).kind for p, _, k in ANOMALIES}
    assert all(kind == found for kind, found in nearest.items())
    assert len(tracks) <= len(ANOMALIES) + 1  # no doubles
    for track in tracks:
        assert track.snapshot[0].dtype == track.snapshot[2].dtype == np.uint8 and len(track.snapshot_box) == 4


def test_a_removed_anomaly_expires_and_a_hidden_one_does_not():
    rng = np.random.default_rng(1)
    tracker = Tracker()
    first = drive(tracker, ANOMALIES[:1], rng, patrol(), false_alarms=0)
    assert len(first) == 1
    again = drive(tracker, ANOMALIES[:1], rng, patrol(), false_alarms=0)  # half of the round it is behind the block
    assert [t.id for t in again] == [first[0].id]
    assert drive(tracker, [], rng, patrol(), false_alarms=0) == []
    assert [t.id for t in tracker.gone] == [first[0].id]
    assert [t.id for t in Tracker.from_json(tracker.to_json()).gone] == [first[0].id]


def test_false_alarms_alone_confirm_nothing():
    confirmed = [len(drive(Tracker(), [], np.random.default_rng(s), patrol(120), false_alarms=0.5)) for s in range(4)]
    assert sum(confirmed) <= 2, confirmed


def test_a_thing_that_is_seen_past_something_nearer_stays_one_track():
    """Its region then holds the nearer thing's depth too, which must not be taken for where it is."""
    tracker, place, half = Tracker(), np.array([0.0, 0.0, 3.0]), 0.2
    for step, x in enumerate(np.linspace(-0.8, 0.8, 60)):
        pose = Pose(np.eye(3), np.array([x, 0.0, 0.0]))
        (x0, y0), (x1, y1) = (
            CAMERA.project(pose.inverse().apply(place + sign * np.array([half, half, 0]))) for sign in (-1, 1)
        )
        depth = np.full((240, 320), 3.6, np.float32)
        if step >= 30:
            depth[:, : round(0.7 * x0 + 0.3 * x1)] = 1.4
        found = Detection((x0, y0, x1, y1), int((x1 - x0) * (y1 - y0)), 0.9, "added", None, None)
        tracker.update([found], CAMERA, pose, depth, float(step))
    assert [track.confirmed for track in tracker.tracks] == [True]
    assert np.linalg.norm(tracker.tracks[0].center - place) < 0.3


def test_standing_still_takes_time_to_confirm():
    pose = Pose.look_at((2.6, 0, 0.5), (0, 0, 0.4))
    depth, rng = room_depth(pose), np.random.default_rng(0)
    tracker = Tracker(TrackerOptions(confirm_seconds=4))
    for step in range(10):
        detection = seen(*ANOMALIES[0], pose, depth, rng)
        tracks = tracker.update([detection], CAMERA, pose, depth, 0.5 * step)
        assert len(tracks) == 1 and tracks[0].confirmed == (0.5 * step >= 4)


def test_saved_tracks_go_on_where_they_were():
    rng = np.random.default_rng(2)
    tracker = Tracker()
    before = drive(tracker, ANOMALIES, rng, patrol(), false_alarms=0)
    restored = Tracker.from_json(tracker.to_json())
    saved = json.loads(tracker.to_json())
    after = [t for t in restored.tracks if t.confirmed]
    assert [(t.id, t.kind, t.views) for t in after] == [(t.id, t.kind, t.views) for t in before]
    assert all(np.allclose(a.center, b.center) and np.allclose(a.size, b.size) for a, b in zip(after, before))
    assert after[0].snapshot[0].shape == (240, 320, 3)
    again = drive(restored, ANOMALIES, rng, patrol(), false_alarms=0)
    assert {t.id for t in again} >= {t.id for t in before}
    for damaged in (
        {},
        [],
        {**saved, "version": 99},
        {**saved, "tracks": [{}]},
        {**saved, "tracks": [{**saved["tracks"][0], "rays": []}]},
        {**saved, "tracks": [{**saved["tracks"][0], "snapshot": ["", "", ""]}]},
        {**saved, "tracks": [{**saved["tracks"][0], "score_sum": float("nan")}]},
        {**saved, "tracks": [{**saved["tracks"][0], "views": 0}]},
        {**saved, "tracks": [saved["tracks"][0], saved["tracks"][0]]},
        {**saved, "confirmed": 0},
    ):
        with pytest.raises(OmniadError, match="delete them to start clean"):
            Tracker.from_json(json.dumps(damaged).encode())
