"""Which places raise nothing, because somebody said so: accepted findings, false alarms, and zones in which things always change."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.geometry import Box, Camera, Pose
from omniad_ros.living.schema import ACCEPTED, FALSE_ALARM, IGNORED, Finding
from omniad_ros.living.store import PatrolStore

SLACK, SHARE = 0.05, 0.15
"""Metres, and share of its size, by which a finding may be larger than its box on each side."""
STRONGER = 0.5
"""Share of the way from a false alarm's highest probability to certainty, beyond which what is seen there is something else."""
BEHIND = 1.05
"""Times the reference's depth up to which a ray is followed."""
CELLS, SAMPLES = 96, 16
"""Of a zone's outline as a grid, each side; and of a ray in its box."""


@dataclass(frozen=True, eq=False)
class SettledPlace:
    """box: around it; inside: bool (CELLS, CELLS), by y and x, which part of that belongs to it, None for all; level: probability up
    to which nothing is raised, infinite for whatever it is."""

    box: Box
    inside: np.ndarray | None
    level: float

    def holds(self, points: np.ndarray) -> np.ndarray:
        """bool (...): which of the points (..., 3) lie in it."""
        within, (low, high) = self.box.holds(points), (self.box.low, self.box.high)
        if self.inside is None:
            return within
        cells = ((points - low) / (high - low) * CELLS)[..., :2]
        column, row = np.moveaxis(np.clip(cells, 0, CELLS - 1).astype(int), -1, 0)
        return within & self.inside[row, column]


def level_of(finding: Finding) -> float:
    """The probability up to which a finding's place raises nothing: 0 where anything may be raised, infinite where nothing may."""
    if finding.verdict in (ACCEPTED, IGNORED):
        return np.inf
    return finding.peak + STRONGER * (1 - finding.peak) if finding.verdict == FALSE_ALARM else 0.0


def box_of(finding: Finding) -> Box:
    """The part of the map that a finding's verdict is of."""
    half = np.array(finding.size) * (0.5 + SHARE) + SLACK
    return Box(np.array(finding.center) - half, np.array(finding.center) + half)


class Settled:
    """The places of a site that raise nothing, as they are now."""

    def __init__(self, places: list[SettledPlace]):
        self.places = places

    @staticmethod
    def of(store: PatrolStore, taken_in: Collection[int] = ()) -> Settled:
        """taken_in: ids of the accepted findings that are a part of what is normal: what is seen there now is another thing.

        Raises OmniadError where the database cannot be read."""
        places = []
        for finding in store.findings():
            if finding.id not in taken_in and (level := level_of(finding)):
                places.append(SettledPlace(box_of(finding), None, level))
        for zone in store.zones():
            outline = np.array(json.loads(zone.outline))
            low, high = outline.min(0), outline.max(0)
            grid = np.zeros((CELLS, CELLS), np.uint8)
            corners = (outline - low) / np.maximum(high - low, 1e-6) * (CELLS - 1)
            cv2.fillPoly(grid, [np.round(corners).astype(np.int32)], 1)
            box = Box(np.array([*low, zone.low]), np.array([*high, zone.high]))
            places.append(SettledPlace(box, grid > 0, np.inf))
        return Settled(places)

    def covers(self, center: np.ndarray) -> bool:
        """Whether nothing is to be said of a thing at ``center`` (3,), whatever it is."""
        return any(np.isinf(place.level) and bool(place.holds(center)) for place in self.places)

    def __call__(self, camera: Camera, pose: Pose, depth: np.ndarray) -> np.ndarray | None:
        """The probability up to which each pixel raises nothing: float32 (h, w), 0 where anything may be raised; None where that is
        everywhere. A pixel belongs to a place where its ray meets it before what the reference shows.

        depth: (h, w) metres of the reference view, NaN where it is unknown.
        """
        levels = None
        directions = None
        for place in self.places:
            if not in_view(place.box, camera, pose):
                continue
            if directions is None:
                directions = camera.directions() @ pose.rotation.T
                levels = np.zeros(depth.shape, np.float32)
            met = _met(place, pose.translation, directions, np.where(np.isfinite(depth), BEHIND * depth, np.inf))
            levels[met] = np.maximum(levels[met], place.level)
        return levels


def in_view(box: Box, camera: Camera, pose: Pose) -> bool:
    """Whether a box may be in view."""
    seen = pose.inverse().apply(box.corners())
    if (seen[:, 2] <= 0).all():
        return False
    if (seen[:, 2] <= 0.01).any():
        return True
    u, v = camera.project(seen).T
    return bool(u.max() > 0 and v.max() > 0 and u.min() < camera.width and v.min() < camera.height)


def _met(place: SettledPlace, eye: np.ndarray, directions: np.ndarray, far: np.ndarray) -> np.ndarray:
    """bool (h, w): which rays from ``eye`` along ``directions`` (h, w, 3) meet the place before ``far`` (h, w)."""
    start, end = place.box.span(eye, directions)
    end = np.minimum(end, far)
    met = end > start
    if place.inside is None or not met.any():
        return met
    shares = np.linspace(0.02, 0.98, SAMPLES)
    along = start[met][:, None] + (end - start)[met][:, None] * shares
    met[met] = place.holds(eye + along[..., None] * directions[met][:, None]).any(1)
    return met
