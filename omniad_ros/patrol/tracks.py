"""Detections of many frames → tracks: anomalies at one place in the map, confirmed over several views.

How sure a track's place is (see `sightings`) decides which detections of the next frame may belong to it; a track counts
once views from different directions agree on the place, and ends when the place is seen normal again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose, pose_of, rows_of
from omniad_ros.patrol.saved_tracks import FORMAT, VERSION, SavedHead, SavedTracks, restored, saved
from omniad_ros.patrol.sightings import Detected, Hypothesis, Ray, SightingOptions, Snapshot, Track, ray_of, unit

__all__ = ["Snapshot", "Track", "Tracker", "TrackerOptions"]


@dataclass(frozen=True)
class TrackerOptions:
    """When a detection counts as the same anomaly, when an anomaly as real, and when as gone.

    What confirms was measured on the patrols of the simulated plant rooms (docs/design-notes.md, "Evidence and tracks"): with
    less, floaters of the field and weak things were confirmed. The rest is judged by geometry and held by test/test_tracking.py.

    Which views count:
        moved, seconds: once the camera has moved by this share of the viewing distance, or so much time has passed, since the
        last that counted; so a fast camera or a robot that stands does not count the same view again and again.
    Which detection belongs to which track:
        gate: Mahalanobis distance up to which it may; precedence: what a tentative track must be nearer than a confirmed one;
        part: share of the gate within which a further region is a part of a matched track; size_ratio: sizes that differ by more
        are not of one thing; behind: beyond this share of the reference's depth there can be nothing.
        same_place, inside: of the sum of two tracks' sizes, the distance below which they are one; ``inside`` where one frame shows both.
    What confirms:
        hit, miss: log-odds that a view adds which shows the track, and that one takes away which should and does not; with
        these, what is seen in less than a third of such views loses; full_log_odds: where they stop growing, so that what is gone
        can be let go. confirm_log_odds, confirm_views, confirm_margin (of the mean score above the threshold, as a share of what
        there is above it): what confirms a track, together with views whose directions differ by confirm_degrees or (standing
        still) that span confirm_seconds, and that agree: their rays pass the place within ``agreement`` standard deviations
        (root mean square).
    What ends:
        expire_after: frames in a row that show the place normal; tentative_frames: frames after which a track not confirmed is
        dropped anyway. A view tells that a place is normal only if it looks from a side from which the anomaly was seen, within
        same_side_degrees (same_view_degrees for confirmed tracks), from at most ``farther`` times as far as it ever was, if the
        reference covers so much of it (``covered``) and nothing hides it: the depth there is no less than the track's, but for
        ``depth_of_size`` of its size and ``depth_of_distance`` of its distance.
    What is kept:
        rays: a track; gone: tracks; worth_clipped: what a view cut by the frame's border is worth as a track's picture.
    """

    moved: float = 0.03
    seconds: float = 0.5
    gate: float = 2.5
    precedence: float = 0.5
    part: float = 0.6
    size_ratio: float = 5.0
    behind: float = 1.15
    same_place: float = 0.35
    inside: float = 0.2
    hit: float = 1.6
    miss: float = 0.8
    full_log_odds: float = 8.0
    confirm_log_odds: float = 4.7
    confirm_views: int = 8
    confirm_margin: float = 0.4
    confirm_degrees: float = 4.0
    confirm_seconds: float = 4.0
    agreement: float = 1.0
    expire_after: int = 6
    tentative_frames: int = 8
    same_side_degrees: float = 40.0
    same_view_degrees: float = 15.0
    farther: float = 1.2
    covered: float = 0.7
    depth_of_size: float = 0.6
    depth_of_distance: float = 0.05
    rays: int = 40
    gone: int = 100
    worth_clipped: float = 0.3
    sighting: SightingOptions = field(default_factory=SightingOptions)


class Tracker:
    """Associates detections over frames. One tracker per patrol; not safe for several threads."""

    def __init__(self, options: TrackerOptions | None = None):
        self.options = options or TrackerOptions()
        self._hypotheses: list[Hypothesis] = []
        self._gone: list[Hypothesis] = []
        self._created = self._confirmed = 0
        self._counted: tuple[Pose, float] | None = None
        """Pose and stamp of the last view that counted."""

    @property
    def tracks(self) -> list[Track]:
        """All present tracks: confirmed ones by id, then tentative ones."""
        return [h.track() for h in sorted(self._hypotheses, key=lambda h: (not h.confirmed, abs(h.id)))]

    @property
    def gone(self) -> list[Track]:
        """Confirmed tracks whose place was seen normal again, the latest of them."""
        return [hypothesis.track() for hypothesis in self._gone]

    def update(
        self,
        detections: Sequence[Detected],
        camera: Camera,
        pose: Pose,
        depth: np.ndarray,
        stamp_seconds: float,
        snapshot: Snapshot | None = None,
        threshold: float = 0.5,
    ) -> list[Track]:
        """Take in the detections of one frame and return `tracks`.

        detections: with boxes in the pixels of ``camera``; pose: refined map_from_camera; depth: float32 (H, W), the
        reference's, NaN where not covered; snapshot: (frame uint8 (H, W, 3), reference uint8 (H, W, 3), heatmap
        (H, W), float in [0, 1] or uint8); threshold: of the heatmap, above which the detections lie.
        """
        sighting = self.options.sighting
        seen = [(d, ray) for d in detections if (ray := ray_of(d, camera, pose, depth, options=sighting)) is not None]
        matched: set[int] = set()
        counts = self._counts(pose, depth, stamp_seconds)
        for hypothesis in self._hypotheses:
            hypothesis.unseen += counts
        for hypothesis, indices in self._associate([ray for _, ray in seen], camera, pose):
            matched.update(indices)
            self._observe(hypothesis, [seen[i] for i in indices], counts, stamp_seconds, camera, snapshot)
        for hypothesis in self._hypotheses if counts else ():
            if hypothesis.unseen and self._should_show(hypothesis, camera, pose, depth):
                hypothesis.misses += 1
                hypothesis.log_odds -= self.options.miss
        for index, pair in enumerate(seen):
            if index not in matched:
                self._created += 1
                hypothesis = Hypothesis(-self._created, stamp_seconds, stamp_seconds)
                self._observe(hypothesis, [pair], True, stamp_seconds, camera, snapshot)
                self._hypotheses.append(hypothesis)
        self._expire()
        self._merge()
        self._confirm(threshold + self.options.confirm_margin * (1 - threshold))
        return self.tracks

    def _counts(self, pose: Pose, depth: np.ndarray, stamp: float) -> bool:
        """Whether this view tells more than the last that counted."""
        if self._counted is not None and np.isfinite(depth).any():
            last, when = self._counted
            near = last.distance(pose)[0] < self.options.moved * float(np.nanmedian(depth))
            if near and 0 <= stamp - when < self.options.seconds:
                return False
        self._counted = (pose, stamp)
        return True

    def _associate(self, rays: list[Ray], camera: Camera, pose: Pose) -> list[tuple[Hypothesis, list[int]]]:
        """Best one-to-one pairs within the gate; further regions inside a matched track's outline are parts of it."""
        from scipy.optimize import linear_sum_assignment

        if not rays or not self._hypotheses:
            return []
        cost = np.array([[self._distance(h, ray, camera, pose) for ray in rays] for h in self._hypotheses])
        # a confirmed track takes precedence over a tentative one
        penalty = np.array([[0.0 if h.confirmed else self.options.precedence] for h in self._hypotheses])
        within = cost < self.options.gate
        pairs = zip(*linear_sum_assignment(np.where(within, cost + penalty, 1e3)))
        matches = {row: [column] for row, column in pairs if within[row, column]}
        taken = {columns[0] for columns in matches.values()}
        for column in range(len(rays)):
            if column not in taken and matches:
                row = min(matches, key=lambda r: cost[r, column])
                if cost[row, column] < self.options.part * self.options.gate:
                    matches[row].append(column)
        return [(self._hypotheses[row], columns) for row, columns in matches.items()]

    def _distance(self, hypothesis: Hypothesis, ray: Ray, camera: Camera, pose: Pose) -> float:
        """Mahalanobis distance across the ray; infinite where the two cannot be the same."""
        offset = hypothesis.center - ray.origin
        distance = float(offset @ ray.direction)
        if distance <= 0:
            return math.inf
        size = distance * math.hypot(ray.width, ray.height)
        known = float(np.hypot(hypothesis.size[0], hypothesis.size[2]))
        if not 1 / self.options.size_ratio < size / max(known, 1e-9) < self.options.size_ratio:
            return math.inf
        # behind the surface that the reference shows there can be nothing, beside what the track's place is unsure
        unsure = math.sqrt(float(ray.direction @ hypothesis.covariance @ ray.direction))
        if distance > self.options.behind * ray.farthest + size + 2 * unsure:
            return math.inf
        basis = np.linalg.svd(ray.direction[None])[2][1:]
        innovation = basis @ offset
        lateral = ray.lateral(self.options.sighting) * distance / ray.range
        spread = basis @ hypothesis.covariance @ basis.T + np.eye(2) * lateral**2
        return math.sqrt(float(innovation @ np.linalg.solve(spread, innovation)))

    def _observe(
        self, hypothesis: Hypothesis, parts, counts: bool, stamp: float, camera: Camera, snapshot: Snapshot | None
    ) -> None:
        detection, ray = max(parts, key=lambda part: part[0].area * part[0].score)
        hypothesis.misses = hypothesis.unseen = 0
        hypothesis.last_seen = stamp
        if counts:
            hypothesis.add(ray, self.options.rays)
            hypothesis.views += 1
            hypothesis.log_odds = min(hypothesis.log_odds + self.options.hit, self.options.full_log_odds)
            hypothesis.score_sum += float(detection.score)
        weight = float(detection.score) * math.sqrt(max(float(detection.area), 1.0))
        hypothesis.votes[detection.kind] = hypothesis.votes.get(detection.kind, 0.0) + weight
        hypothesis.locate(self.options.sighting)
        worth = float(detection.area) * float(detection.score) * (self.options.worth_clipped if ray.clipped else 1.0)
        if snapshot is not None and worth > hypothesis.snapshot_worth:
            frame, reference, heatmap = snapshot
            heat = heatmap if heatmap.dtype == np.uint8 else np.round(255 * np.clip(heatmap, 0, 1)).astype(np.uint8)
            hypothesis.snapshot = (frame.copy(), reference.copy(), heat)
            hypothesis.snapshot_box = tuple(round(float(v)) for v in detection.box)
            hypothesis.snapshot_worth = worth

    def _should_show(self, hypothesis: Hypothesis, camera: Camera, pose: Pose, depth: np.ndarray) -> bool:
        """Whether this view must show the anomaly if it is there: inside the frame, covered, not hidden, near enough."""
        local = pose.inverse().apply(hypothesis.center)
        if local[2] <= 0:
            return False
        distance = float(np.linalg.norm(hypothesis.center - pose.translation))
        half = 0.5 * np.array([hypothesis.size[0] * camera.fx, hypothesis.size[2] * camera.fy]) / local[2]
        u, v = camera.project(local)
        if not (half[0] < u < camera.width - half[0] and half[1] < v < camera.height - half[1]):
            return False
        seen_from = np.array([np.linalg.norm(hypothesis.center - ray.origin) for ray in hypothesis.rays])
        if distance > self.options.farther * seen_from.max():
            return False
        towards = unit(hypothesis.center - np.stack([ray.origin for ray in hypothesis.rays]))
        alike = float((towards @ unit(hypothesis.center - pose.translation)).max())
        side = self.options.same_view_degrees if hypothesis.confirmed else self.options.same_side_degrees
        if alike < math.cos(math.radians(side)):
            return False
        x0, y0 = np.maximum(np.floor([u - half[0], v - half[1]]), 0).astype(int)
        window = depth[y0 : math.ceil(v + half[1]) + 1, x0 : math.ceil(u + half[0]) + 1]
        covered = np.isfinite(window)
        if window.size == 0 or covered.mean() < self.options.covered:
            return False
        margin = self.options.depth_of_size * float(hypothesis.size.max()) + self.options.depth_of_distance * distance
        return bool(np.median(window[covered]) > local[2] - margin)

    def _expire(self) -> None:
        kept = []
        for hypothesis in self._hypotheses:
            stale = not hypothesis.confirmed and hypothesis.unseen >= self.options.tentative_frames
            if hypothesis.log_odds > 0 and hypothesis.misses < self.options.expire_after and not stale:
                kept.append(hypothesis)
            elif hypothesis.confirmed:
                self._gone = [*self._gone, hypothesis][-self.options.gone :]
        self._hypotheses = kept

    def _merge(self) -> None:
        """Two tracks that turn out to be at one place become the older one (confirmed before tentative)."""
        order = sorted(self._hypotheses, key=lambda h: (not h.confirmed, abs(h.id)))
        kept: list[Hypothesis] = []
        for young in order:
            old = next((old for old in kept if self._same_place(old, young)), None)
            if old is None:
                kept.append(young)
                continue
            for ray in young.rays:
                old.add(ray, self.options.rays)
            old.locate(self.options.sighting)
            # both may have been seen in one frame, so the views of the two do not add up
            old.views, old.log_odds = max(old.views, young.views), max(old.log_odds, young.log_odds)
            old.score_sum = old.score_sum if old.views != young.views else max(old.score_sum, young.score_sum)
            for kind, vote in young.votes.items():
                old.votes[kind] = old.votes.get(kind, 0.0) + vote
            old.first_seen, old.last_seen = min(old.first_seen, young.first_seen), max(old.last_seen, young.last_seen)
            old.misses, old.unseen = min(old.misses, young.misses), min(old.unseen, young.unseen)
            if young.snapshot_worth > old.snapshot_worth:
                old.snapshot, old.snapshot_box = young.snapshot, young.snapshot_box
                old.snapshot_worth = young.snapshot_worth
        self._hypotheses = kept

    def _same_place(self, old: Hypothesis, young: Hypothesis) -> bool:
        distance = float(np.linalg.norm(old.center - young.center))
        sizes = float(old.size.max() + young.size.max())
        if distance > self.options.same_place * sizes:
            return False
        # side by side in one frame they are two things, unless one lies in the other
        apart = old.unseen == young.unseen == 0 and min(old.views, young.views) > 1
        return distance < self.options.inside * sizes or not apart

    def _confirm(self, score: float) -> None:
        options = self.options
        for hypothesis in self._hypotheses:
            if hypothesis.confirmed or hypothesis.views < options.confirm_views:
                continue
            if hypothesis.log_odds < options.confirm_log_odds or hypothesis.disagreement > options.agreement:
                continue
            if hypothesis.score_sum < score * hypothesis.views:
                continue
            lasted = hypothesis.last_seen - hypothesis.first_seen
            if lasted >= options.confirm_seconds or hypothesis.spread_degrees() >= options.confirm_degrees:
                self._confirmed += 1
                hypothesis.confirmed, hypothesis.id = True, self._confirmed

    def to_json(self) -> bytes:
        """All that a restarted inspector needs to go on (`from_json`)."""
        state = SavedTracks(
            format=FORMAT,
            version=VERSION,
            created=self._created,
            confirmed=self._confirmed,
            tracks=[saved(hypothesis) for hypothesis in self._hypotheses],
            gone=[saved(hypothesis) for hypothesis in self._gone],
            counted=self._counted and (rows_of(self._counted[0]), self._counted[1]),
        )
        return msgspec.json.encode(state, enc_hook=lambda number: number.item())  # some are numpy's scalars

    @classmethod
    def from_json(cls, data: bytes, options: TrackerOptions | None = None) -> Tracker:
        """Raises OmniadError where ``data`` is not what `to_json` gave."""
        tracker = cls(options)
        try:
            head = msgspec.json.decode(data, type=SavedHead)
            if (head.format, head.version) != (FORMAT, VERSION):
                raise OmniadError(
                    "the saved tracks are not in a format that this version reads; delete them to start clean"
                )
            state = msgspec.json.decode(data, type=SavedTracks)
            tracker._created, tracker._confirmed = state.created, state.confirmed
            tracker._hypotheses, tracker._gone = (
                [restored(track, tracker.options.sighting) for track in tracks] for tracks in (state.tracks, state.gone)
            )
            if state.counted is not None:
                tracker._counted = pose_of(state.counted[0]), state.counted[1]
            tracks = tracker.tracks + tracker.gone
            ids = [track.id for track in tracks]
            sound = (
                len(set(ids)) == len(ids)
                and -tracker._created <= min(ids, default=0) <= max(ids, default=0) <= tracker._confirmed
            )
            if not sound or not all(map(_sound, tracks)):
                raise ValueError("tracks that cannot be")
        except OmniadError:
            raise
        except Exception as error:  # any byte of it may be wrong: also OpenCV and the solver of the places find faults
            raise OmniadError("the saved tracks are damaged; delete them to start clean") from error
        return tracker


def _sound(track: Track) -> bool:
    places = [*track.center, *track.size]
    return all(abs(number) < 1e15 for number in places) and 0 <= track.score <= 1 and track.confirmed == (track.id > 0)
