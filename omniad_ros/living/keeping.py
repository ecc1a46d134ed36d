"""Keeps a patrol as it goes: each frame, and each confirmed track as a sighting of a finding."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import encode_jpeg, heat_colors, resized_map
from omniad_ros.living.recognition import has_changed, looks_of, recognised
from omniad_ros.living.schema import FALSE_ALARM, Finding, KeptFrame, Patrol, Sighting
from omniad_ros.living.settled import level_of
from omniad_ros.living.store import PatrolStore
from omniad_ros.patrol.pipeline import ANOMALOUS, NORMAL, Inspection
from omniad_ros.patrol.tracks import Track
from omniad_ros.site import Site

CROP_MARGIN = 0.5
"""Of a thing's box, that its crop shows around it."""
MOVED = 0.05
"""Metres from one view to the next that counts for a place to be normal again."""
NORMAL_VIEWS = 6
"""Views from different places that show it normal, after which a finding is gone."""
CLEAR, VISIBLE = 0.02, 0.7
"""Share of a finding's pixels up to which it is normal, and from which it is looked at, in a view."""
FARTHER = 1.2
"""Times as far as it ever was seen, from which nothing is said of a finding."""
HIDDEN = 0.8
"""Share of its distance before which nothing may stand that hides it."""


@dataclass(frozen=True)
class Known:
    """What is known of a track over all patrols: the finding's name, state and verdict; level: see `settled.level_of`."""

    name: str
    state: str
    verdict: str
    level: float

    @staticmethod
    def of(finding: Finding, state: str) -> Known:
        return Known(finding.name, state, finding.verdict, level_of(finding))

    def __str__(self) -> str:
        return f"{self.name} {self.state}" + (f", {self.verdict}" if self.verdict else "")


class PatrolKeeper:
    """Writes one patrol of a robot into a store. Used from one thread. A patrol of a ``key`` that was cut off goes on.

    A write that fails raises OmniadError; what the frame would have added comes with a later one, but for the frame itself.
    """

    def __init__(self, store: PatrolStore, site: Site, robot: str, source: str, key: str = ""):
        self.store = store
        self.known: dict[int, Known] = {}
        """By the ids of tracks."""
        self._taken_in = site.manifest.get("taken_in", [])
        """Accepted findings that are normal now: what is seen there is another thing."""
        self._facts = dict(robot=robot, source=source, version=version_of(site))
        self._written: dict[int, tuple] = {}
        self._pictured: dict[int, tuple] = {}
        """By the ids of tracks: which state of them is written, and the box of the view that their crops show."""
        self._normal: dict[int, tuple[int, np.ndarray]] = {}
        self._open: dict[int, Finding] = {}
        with store.writing() as session:
            self.patrol = self._begin(
                session, key or hashlib.sha256(f"{time.time_ns()} {robot} {source}".encode()).hexdigest()
            )
            for sighting in session.scalars(select(Sighting).where(Sighting.patrol_id == self.patrol.id)):
                self.known[sighting.track] = Known.of(sighting.finding, sighting.state)
            self._reread(session)

    def _begin(self, session: Session, key: str) -> Patrol:
        known = session.scalars(select(Patrol).where(Patrol.key == key)).first()
        if known is not None and known.ended is None:
            return known
        if known is not None:  # the same once more is another patrol
            key = f"{key} {time.time_ns()}"
        patrol = Patrol(site=self.store.site, key=key, began=time.time(), ended=None, **self._facts)
        session.add(patrol)
        session.flush()
        return patrol

    def add(self, stamp: float, camera: Camera, inspection: Inspection) -> None:
        """Take in an inspected frame. stamp: seconds; camera: of its image. Raises OmniadError where it cannot be written."""
        changed = [t for t in inspection.tracks if t.confirmed and self._written.get(t.id) != _version(t)]
        gone = self._seen_normal(camera, inspection)
        with self.store.writing() as session:
            self._add_frame(session, stamp, inspection)
            for track in changed:
                self._sight(session, track, inspection)
            for finding in gone:
                session.get(Finding, finding).state = "gone"
            if changed or gone:
                session.flush()
                self._reread(session)
        for track in changed:
            self._written[track.id], self._pictured[track.id] = _version(track), track.snapshot_box
        for finding in gone:
            self._normal.pop(finding, None)

    def end(self) -> None:
        """The patrol is over."""
        with self.store.writing() as session:
            session.get(Patrol, self.patrol.id).ended = time.time()

    def refresh(self) -> None:
        """Take in what people have said meanwhile."""
        with self.store.reading() as session:
            self._reread(session)

    def _reread(self, session: Session) -> None:
        """Which findings of earlier patrols this one has not met yet, and what is known of those that it has."""
        own = session.execute(
            select(Sighting.track, Sighting.state, Finding).join(Finding).where(Sighting.patrol_id == self.patrol.id)
        ).all()
        self.known = {track: Known.of(finding, state) for track, state, finding in own}
        met = {finding.id for _, _, finding in own}
        there = select(Finding).where(Finding.site == self.store.site, Finding.state != "gone")
        self._open = {f.id: f for f in session.scalars(there) if f.id not in met.union(self._taken_in)}

    def _add_frame(self, session: Session, stamp: float, inspection: Inspection) -> None:
        x, y, z = (None,) * 3 if inspection.pose is None else map(float, inspection.pose.translation)
        session.merge(KeptFrame(patrol_id=self.patrol.id, stamp=stamp, state=inspection.state, x=x, y=y, z=z))

    # ---- what is there

    def _sight(self, session: Session, track: Track, inspection: Inspection) -> None:
        """Write a confirmed track: the sighting it is, and the finding it belongs to."""
        own = session.scalars(
            select(Sighting).where(Sighting.patrol_id == self.patrol.id, Sighting.track == track.id)
        ).first()
        place = dict(
            zip(("x", "y", "z", "width", "depth", "height"), map(float, (*track.center, *track.size)), strict=True)
        )
        values = place | {
            "kind": track.kind, "score": float(track.score), "views": track.views,
            "first_seen": track.first_seen, "last_seen": track.last_seen,
        }  # fmt: skip
        if self._pictured.get(track.id) != track.snapshot_box and (crops := self._crops(track)) is not None:
            values |= dict(zip(("frame", "reference", "heatmap"), crops, strict=True))
        looks = looks_of(track.snapshot, track.snapshot_box)
        if own is None:
            own = Sighting(
                patrol_id=self.patrol.id, track=track.id, frame=None, reference=None, heatmap=None, state="new", **place
            )
        for name, value in values.items():
            setattr(own, name, value)
        if own.finding_id is None:
            finding = self._finding_of(session, own, looks)
            session.add(own)
        else:
            finding = session.get(Finding, own.finding_id)
        eye = inspection.pose.translation if inspection.pose is not None else np.array(own.center)
        finding.farthest = max(finding.farthest, float(np.linalg.norm(np.subtract(own.center, eye))))
        finding.score = max(finding.score, own.score)
        if finding.verdict != FALSE_ALARM:  # else what is judged anew would raise what it is judged by
            finding.peak = max(finding.peak, _peak(track))
        for name, value in (place | {"kind": track.kind, "state": own.state, "last_patrol": self.patrol.id}).items():
            setattr(finding, name, value)
        finding.looks = looks or finding.looks

    def _finding_of(self, session: Session, own: Sighting, looks: bytes) -> Finding:
        """The finding that a new sighting is of; says so in both."""
        taken = select(Sighting.finding_id).where(Sighting.patrol_id == self.patrol.id)
        others = session.scalars(select(Finding).where(Finding.site == self.store.site, Finding.id.not_in(taken))).all()
        finding = recognised(own, looks, [other for other in others if other.id not in self._taken_in])
        if finding is None:
            finding = Finding(
                site=self.store.site, kind=own.kind, state="new", verdict="", score=own.score, peak=0.0, farthest=0.0, looks=looks,
                last_patrol=self.patrol.id, x=own.x, y=own.y, z=own.z, width=own.width, depth=own.depth, height=own.height,
            )  # fmt: skip
            session.add(finding)
            session.flush()
        elif finding.state != "gone":
            own.state = "changed" if has_changed(own, looks, finding) else "still there"
        own.finding_id = finding.id
        return finding

    def _crops(self, track: Track) -> tuple[str, str, str] | None:
        """Names of the pictures of a track's best view, the thing with its surroundings."""
        if track.snapshot is None or track.snapshot_box is None:
            return None
        height, width = track.snapshot[0].shape[:2]
        x0, y0, x1, y1 = track.snapshot_box
        grow = CROP_MARGIN * max(x1 - x0, y1 - y0, 16)
        rows = slice(max(0, round(y0 - grow)), min(height, round(y1 + grow)))
        columns = slice(max(0, round(x0 - grow)), min(width, round(x1 + grow)))
        frame, reference, heat = (np.ascontiguousarray(image[rows, columns]) for image in track.snapshot)
        heat = heat.astype(np.float32) / 255 if heat.dtype == np.uint8 else heat
        return tuple(self.store.keep_crop(encode_jpeg(image)) for image in (frame, reference, heat_colors(heat)))

    # ---- what is gone

    def _seen_normal(self, camera: Camera, inspection: Inspection) -> list[int]:
        """Findings of earlier patrols whose place enough views of this one, this one among them, have shown to be normal."""
        if inspection.state != "ok" or inspection.reference is None or not self._open:
            return []
        depth = resized_map(inspection.reference.depth, camera.width, camera.height)
        eye, gone = inspection.pose.translation, []
        for number, finding in self._open.items():
            views, last = self._normal.get(number, (0, np.full(3, np.inf)))
            if (
                np.linalg.norm(eye - last) < MOVED
                or (verdict := self._shows(finding, camera, inspection, depth)) is None
            ):
                continue
            views = views + 1 if verdict else 0
            self._normal[number] = views, eye
            if views >= NORMAL_VIEWS:
                gone.append(number)
        return gone

    @staticmethod
    def _shows(finding: Finding, camera: Camera, inspection: Inspection, depth: np.ndarray) -> bool | None:
        """Whether a frame shows a finding's place normal; None where it does not show it well enough to tell."""
        window, inside = window_of(finding, camera, inspection.pose)
        distance = float(np.linalg.norm(np.subtract(finding.center, inspection.pose.translation)))
        if inside < VISIBLE or distance > FARTHER * finding.farthest:
            return None
        mask, before = inspection.mask[window], depth[window]
        told = (mask == NORMAL) | (mask == ANOMALOUS)
        with np.errstate(invalid="ignore"):
            hidden = before < HIDDEN * inspection.pose.inverse().apply(np.array(finding.center))[2]
        if inside * (told & ~hidden).mean() < VISIBLE:
            return None
        return bool((mask == ANOMALOUS).mean() <= CLEAR)


def window_of(finding: Finding, camera: Camera, pose: Pose) -> tuple[tuple[slice, slice], float]:
    """Rows and columns of a finding's box in a view, and the share of it that is inside; nothing, and 0, where it is not before the
    camera, or hardly larger than a pixel."""
    nothing = (slice(0), slice(0)), 0.0
    signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
    corners = pose.inverse().apply(np.array(finding.center) + signs * np.maximum(finding.size, 0.02))
    if (corners[:, 2] < 0.05).any():
        return nothing
    pixels = camera.project(corners)
    low, high = np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int)
    first, last = np.maximum(low, 0), np.minimum(high, [camera.width, camera.height])
    if (high - low < 3).any() or (last <= first).any():
        return nothing
    share = float(np.prod(last - first) / np.prod(high - low))
    return (slice(first[1], last[1]), slice(first[0], last[0])), share


def version_of(site: Site) -> str:
    """What tells a site's version from another: a digest of its files' hashes."""
    return hashlib.sha256(repr(sorted(site.manifest["files"].items())).encode()).hexdigest()[:16]


def _peak(track: Track) -> float:
    """The highest probability in a track's picture."""
    if track.snapshot is None or track.snapshot_box is None:
        return float(track.score)
    x0, y0, x1, y1 = track.snapshot_box
    heat = track.snapshot[2][y0:y1, x0:x1]
    return (
        max(float(track.score), float(heat.max()) / (255 if heat.dtype == np.uint8 else 1))
        if heat.size
        else float(track.score)
    )


def _version(track: Track) -> tuple:
    return track.views, track.kind, round(track.score, 3)
