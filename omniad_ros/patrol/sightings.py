"""What a track is made of: the rays of its views, their robust intersection, and how to save them.

One view knows well in which direction an anomaly lies, and badly how far: the reference's depth is that of the normal
place, which for an added object is what stands behind it. So the depth is a weak hint along each ray, and the place is where
the rays meet.
"""

from __future__ import annotations

import base64
import itertools
import math
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np

from omniad_ros.core.geometry import Camera, Pose

Snapshot = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Frame uint8 (H, W, 3), reference view uint8 (H, W, 3), heatmap uint8 (H, W), all of one view."""

DISAGREEMENT = 1.0
"""Root mean square distance of the rays from their place, in standard deviations, beyond which they show several things."""
AGREEING = 1.5


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
    first_seen, last_seen: stamps in seconds; snapshot: its best view, with snapshot_box (x0, y0, x1, y1) in its pixels.
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

    @property
    def lateral(self) -> float:
        """Standard deviation across the ray, metres at the hinted range."""
        return self.range * ((0.4 if self.clipped else 0.15) * math.hypot(self.width, self.height) + 0.01)

    @property
    def along(self) -> float:
        return 0.25 * self.range


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
    evidence: float = 0.0
    """Log-odds that it is real: more with each view that shows it, less with each that should and does not."""
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

    def locate(self) -> None:
        """Find the place from the rays; views that turn out to show something else are dropped, with what they counted."""
        center, information, sideways = intersect(self.rays)
        if len(self.rays) > 2 and _rms(sideways) > DISAGREEMENT:
            kept = consensus(self.rays)
            share = len(kept) / len(self.rays)
            self.rays = kept
            self.views = max(len(kept), round(self.views * share))
            self.evidence, self.score_sum = self.evidence * share, self.score_sum * share
            center, information, sideways = intersect(kept)
        self.center, self.disagreement = center, _rms(sideways)
        distances = np.array([max(float(ray.direction @ (center - ray.origin)), 1e-6) for ray in self.rays])
        width = float(np.median(distances * [ray.width for ray in self.rays]))
        height = float(np.median(distances * [ray.height for ray in self.rays]))
        self.size = np.array([width, width, height])
        # views of one anomaly share errors, so certainty stops growing at a quarter of its size
        self.covariance = np.linalg.inv(information) + np.eye(3) * (0.25 * self.size.max()) ** 2

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
        )  # fmt: skip


def intersect(rays: list[Ray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays meet: least squares in information form, reweighted so that stray views lose (Cauchy weights).

    Returns (center (3,), information (3, 3), distances of the rays from it in standard deviations (N,)).
    """
    origins = np.stack([ray.origin for ray in rays])
    directions = np.stack([ray.direction for ray in rays])
    lateral = np.array([ray.lateral for ray in rays])
    # The hints of one side share one error (the same background), so together they count as one.
    along = np.array([ray.along for ray in rays]) * math.sqrt(len(rays))
    parallel = directions[:, :, None] * directions[:, None, :]
    across = np.eye(3) - parallel
    means = origins + np.array([ray.range for ray in rays])[:, None] * directions
    weights = np.ones(len(rays))
    for _ in range(6):
        informations = (weights / lateral**2)[:, None, None] * across + (weights / along**2)[:, None, None] * parallel
        information = informations.sum(0)
        center = np.linalg.solve(information, np.einsum("nij,nj->i", informations, means))
        sideways = np.linalg.norm(np.einsum("nij,nj->ni", across, center - means), axis=1) / lateral
        weights = 1 / (1 + (sideways / 2) ** 2)
    return center, information, sideways


def consensus(rays: list[Ray]) -> list[Ray]:
    """The most rays that agree on one place, after those that two of them name (Fischler and Bolles, 1981)."""
    pairs = list(itertools.combinations(range(len(rays)), 2))
    if len(pairs) > 40:
        pairs = pairs[:: math.ceil(len(pairs) / 40)]
    origins = np.stack([ray.origin for ray in rays])
    directions = np.stack([ray.direction for ray in rays])
    lateral = np.array([ray.lateral for ray in rays])
    best = np.zeros(len(rays), bool)
    for i, j in pairs:
        offsets = intersect([rays[i], rays[j]])[0] - origins
        away = offsets - (offsets * directions).sum(1)[:, None] * directions
        inside = np.linalg.norm(away, axis=1) < AGREEING * lateral
        if inside.sum() > best.sum():
            best = inside
    return [ray for ray, keep in zip(rays, best) if keep] or rays


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def ray_of(detection: Detected, camera: Camera, pose: Pose, depth: np.ndarray) -> Ray | None:
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
        z = float(np.percentile(window, 10))
    else:
        z = float(pose.inverse().apply(np.asarray(detection.center, float))[2])
    if not math.isfinite(z) or z <= 0:
        return None
    clipped = x0 <= 2 or y0 <= 2 or x1 >= camera.width - 2 or y1 >= camera.height - 2
    return Ray(
        pose.translation.copy(), pose.rotation @ (direction / length), z * length,
        (x1 - x0) / camera.fx / length, (y1 - y0) / camera.fy / length, clipped,
    )  # fmt: skip


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) at length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def to_dict(hypothesis: Hypothesis) -> dict:
    """As JSON can hold it."""
    data = {
        key: value for key, value in vars(hypothesis).items()
        if key not in ("rays", "snapshot", "center", "covariance", "size", "disagreement")
    }  # fmt: skip
    data["rays"] = [
        {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(ray).items()}
        for ray in hypothesis.rays
    ]
    data["snapshot"] = None if hypothesis.snapshot is None else [_encode(image) for image in hypothesis.snapshot]
    return data


def from_dict(data: dict) -> Hypothesis:
    """What `to_dict` gave. Raises KeyError, TypeError, ValueError or IndexError where it is something else."""
    rays = [
        Ray(
            _vector(r["origin"]),
            unit(_vector(r["direction"])),
            *(float(r[k]) for k in ("range", "width", "height")),
            bool(r["clipped"]),
        )
        for r in data["rays"]
    ]
    if not rays or not isinstance(data["votes"], dict) or not data["votes"]:
        raise ValueError("a track without views")
    box = data["snapshot_box"]
    hypothesis = Hypothesis(
        int(data["id"]), float(data["first_seen"]), float(data["last_seen"]), rays,
        {str(kind): float(vote) for kind, vote in data["votes"].items()}, float(data["score_sum"]), int(data["views"]),
        float(data["evidence"]), int(data["misses"]), int(data["unseen"]), 0.0, bool(data["confirmed"]),
        None if data["snapshot"] is None else tuple(_decode(text) for text in data["snapshot"]),
        None if box is None else tuple(int(v) for v in box), float(data["snapshot_worth"]),
    )  # fmt: skip
    hypothesis.locate()
    return hypothesis


def _vector(values) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise ValueError("not a finite vector")
    return vector


def _encode(image: np.ndarray) -> str:
    import cv2

    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return base64.b64encode(cv2.imencode(".jpg", data, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()).decode()


def _decode(text: str) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("not an image")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
