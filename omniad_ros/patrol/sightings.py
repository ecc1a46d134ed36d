"""What a track is made of: the rays of its views and their robust intersection.

One view knows well in which direction an anomaly lies, and badly how far: the reference's depth is that of the normal
place, which for an added object is what stands behind it. So the depth is a weak hint along each ray, and the place is where
the rays meet.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from omniad_ros.core.geometry import Camera, Pose

Snapshot = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Frame uint8 (H, W, 3), reference view uint8 (H, W, 3), heatmap uint8 (H, W), all of one view."""


@dataclass(frozen=True)
class SightingOptions:
    """How much each view is believed. Judged by geometry, and held by the simulated patrols of test/test_tracking.py.

    strays, strays_clipped: by what share of its angular size the middle of a region lies off the anomaly's (1 sigma), inside the
    frame and cut by its border; border: pixels from it that count as cut. pointing: what the pose adds to that, in radians.
    depth: how far the hint of the depth is off, as a share of it: an added thing stands well before its background.
    nearest: percentile of the depths in a region at which an added thing is thought to stand.
    disagreement: root mean square distance of the rays from their place, in their standard deviations, beyond which they show
    several things; agreeing: distance within which a ray agrees with a place. stray: distance at which a ray counts half (Cauchy),
    rounds: of that reweighting. pairs: at most so many are asked for a place. shared: what all views of one anomaly are off
    together, as a share of its size, for their certainty stops growing there.
    """

    strays: float = 0.15
    strays_clipped: float = 0.4
    border: float = 2.0
    pointing: float = 0.01
    depth: float = 0.25
    nearest: float = 10.0
    disagreement: float = 1.0
    agreeing: float = 1.5
    stray: float = 2.0
    rounds: int = 6
    pairs: int = 40
    shared: float = 0.25


class Detected(Protocol):
    """What tracking needs of the detection wing's `Detection`."""

    box: tuple
    area: int
    score: float
    kind: str
    center: np.ndarray | None


@dataclass(frozen=True)
class Track:
    """An anomaly at one place.

    id: positive and stable once confirmed, negative before; center: (3,) metres in the map; size: (3,) metres along the
    map's axes; score: in [0, 1], mean over views; kind: "missing", "added" or "changed"; views: frames that showed it;
    first_seen, last_seen: stamps in seconds; snapshot: its best view, with snapshot_box (x0, y0, x1, y1) in its pixels; covariance:
    (3, 3) square metres, of ``center``.
    """

    id: int
    center: np.ndarray
    size: np.ndarray
    score: float
    kind: str
    views: int
    first_seen: float
    last_seen: float
    confirmed: bool
    snapshot: Snapshot | None = None
    snapshot_box: tuple[int, int, int, int] | None = None
    covariance: np.ndarray | None = None


@dataclass
class Ray:
    """One view of an anomaly: from where, in which unit direction, and what the reference's depth hints."""

    origin: np.ndarray
    direction: np.ndarray
    range: float
    width: float
    """Angular width and height of the region, as tangents."""
    height: float
    clipped: bool
    """The region touches the frame's border, so its middle says less."""
    farthest: float = math.inf
    """Metres to the farthest that the reference shows in the region: behind it there can be nothing. Of a new view only."""

    def lateral(self, options: SightingOptions) -> float:
        """Standard deviation across the ray, metres at the hinted range."""
        strays = options.strays_clipped if self.clipped else options.strays
        return self.range * (strays * math.hypot(self.width, self.height) + options.pointing)


class Rays(NamedTuple):
    """Several rays as arrays: origins, directions (N, 3); ranges (N,) metres, as the depth hints; standard deviations there,
    across (lateral) and along the ray, (N,) metres.
    """

    origins: np.ndarray
    directions: np.ndarray
    ranges: np.ndarray
    lateral: np.ndarray
    along: np.ndarray

    @staticmethod
    def of(rays: list[Ray], options: SightingOptions) -> Rays:
        ranges = np.array([ray.range for ray in rays])
        return Rays(
            np.stack([ray.origin for ray in rays]),
            np.stack([ray.direction for ray in rays]),
            ranges,
            np.array([ray.lateral(options) for ray in rays]),
            options.depth * ranges,
        )

    def chosen(self, which) -> Rays:
        return Rays(*(values[which] for values in self))


@dataclass
class Hypothesis:
    """A track's changeable state."""

    id: int
    first_seen: float
    last_seen: float
    rays: list[Ray] = field(default_factory=list)
    votes: dict[str, float] = field(default_factory=dict)
    score_sum: float = 0.0
    views: int = 0
    log_odds: float = 0.0
    """That it is real: more with each view that shows it, less with each that should and does not."""
    misses: int = 0
    unseen: int = 0
    """Frames since the last that showed it, whether they could show it or not."""
    disagreement: float = 0.0
    confirmed: bool = False
    snapshot: Snapshot | None = None
    snapshot_box: tuple[int, int, int, int] | None = None
    snapshot_worth: float = -1.0
    center: np.ndarray = field(default_factory=lambda: np.zeros(3))
    covariance: np.ndarray = field(default_factory=lambda: np.eye(3))
    size: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def locate(self, options: SightingOptions) -> None:
        """Find the place from the rays; views that turn out to show something else are dropped, with what they counted."""
        place = intersect(Rays.of(self.rays, options), options)
        if len(self.rays) > 2 and place.disagreement > options.disagreement:
            kept = consensus(self.rays, options)
            share = len(kept) / len(self.rays)
            self.rays = kept
            self.views = max(len(kept), round(self.views * share))
            self.log_odds, self.score_sum = self.log_odds * share, self.score_sum * share
            place = intersect(Rays.of(kept, options), options)
        self.center, self.disagreement = place.center, place.disagreement
        distances = np.array([max(float(ray.direction @ (self.center - ray.origin)), 1e-6) for ray in self.rays])
        width = float(np.median(distances * [ray.width for ray in self.rays]))
        height = float(np.median(distances * [ray.height for ray in self.rays]))
        self.size = np.array([width, width, height])
        shared = (options.shared * self.size.max()) ** 2
        self.covariance = np.linalg.inv(place.information) + np.eye(3) * shared

    def spread_degrees(self) -> float:
        """The largest angle between two of the directions from which it was seen."""
        towards = unit(self.center - np.stack([ray.origin for ray in self.rays]))
        return math.degrees(math.acos(float(np.clip((towards @ towards.T).min(), -1, 1))))

    def add(self, ray: Ray, limit: int) -> None:
        self.rays.append(ray)
        if len(self.rays) > limit:
            # the ray that tells least is the one nearest in direction to its successor
            directions = np.stack([r.direction for r in self.rays])
            del self.rays[int(np.argmax((directions[:-1] * directions[1:]).sum(1)))]

    def track(self) -> Track:
        kind = max(self.votes, key=self.votes.get)
        return Track(
            self.id, self.center.copy(), self.size.copy(), self.score_sum / self.views, kind, self.views,
            self.first_seen, self.last_seen, self.confirmed, self.snapshot, self.snapshot_box,
            self.covariance.copy(),
        )  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where rays meet. center: (3,); information: (3, 3), the inverse of its covariance; sideways: (N,) distances of the
    rays from it in their standard deviations.
    """

    center: np.ndarray
    information: np.ndarray
    sideways: np.ndarray

    @property
    def disagreement(self) -> float:
        return float(np.sqrt(np.mean(np.square(self.sideways))))


def intersect(rays: Rays, options: SightingOptions) -> Place:
    """Where rays meet: least squares in information form, reweighted so that stray views lose (Cauchy weights)."""
    directions, lateral = rays.directions, rays.lateral
    # The hints of one side share one error (the same background), so together they count as one.
    along = rays.along * math.sqrt(len(lateral))
    parallel = directions[:, :, None] * directions[:, None, :]
    across = np.eye(3) - parallel
    means = rays.origins + rays.ranges[:, None] * directions
    weights = np.ones(len(lateral))
    for _ in range(options.rounds):
        informations = (weights / lateral**2)[:, None, None] * across + (weights / along**2)[:, None, None] * parallel
        information = informations.sum(0)
        center = np.linalg.solve(information, np.einsum("nij,nj->i", informations, means))
        sideways = np.linalg.norm(np.einsum("nij,nj->ni", across, center - means), axis=1) / lateral
        weights = 1 / (1 + (sideways / options.stray) ** 2)
    return Place(center, information, sideways)


def consensus(rays: list[Ray], options: SightingOptions) -> list[Ray]:
    """The most rays that agree on one place, after those that two of them name (Fischler and Bolles, 1981)."""
    pairs = list(itertools.combinations(range(len(rays)), 2))
    if len(pairs) > options.pairs:
        pairs = pairs[:: math.ceil(len(pairs) / options.pairs)]
    bundle = Rays.of(rays, options)
    best = np.zeros(len(rays), bool)
    for pair in pairs:
        offsets = intersect(bundle.chosen(list(pair)), options).center - bundle.origins
        away = offsets - (offsets * bundle.directions).sum(1)[:, None] * bundle.directions
        inside = np.linalg.norm(away, axis=1) < options.agreeing * bundle.lateral
        if inside.sum() > best.sum():
            best = inside
    return [ray for ray, keep in zip(rays, best) if keep] or rays


def ray_of(
    detection: Detected, camera: Camera, pose: Pose, depth: np.ndarray, *, options: SightingOptions
) -> Ray | None:
    """The ray through the middle of a region; None where the reference has no depth there."""
    x0, y0, x1, y1 = (float(v) for v in detection.box)
    window = depth[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)]
    window = window[np.isfinite(window)]
    if window.size == 0 or x1 <= x0 or y1 <= y0:
        return None
    direction = np.array([(0.5 * (x0 + x1) - camera.cx) / camera.fx, (0.5 * (y0 + y1) - camera.cy) / camera.fy, 1.0])
    length = float(np.linalg.norm(direction))
    if detection.kind == "added" or detection.center is None:
        # what was added stands in front of all that the reference shows there, and mostly on its nearest part
        z = float(np.percentile(window, options.nearest))
    else:
        z = float(pose.inverse().apply(np.asarray(detection.center, float))[2])
    if not math.isfinite(z) or z <= 0:
        return None
    border = options.border
    clipped = x0 <= border or y0 <= border or x1 >= camera.width - border or y1 >= camera.height - border
    return Ray(
        pose.translation.copy(), pose.rotation @ (direction / length), z * length,
        (x1 - x0) / camera.fx / length, (y1 - y0) / camera.fy / length, clipped,
        max(z, float(np.percentile(window, 100 - options.nearest))) * length,
    )  # fmt: skip


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
