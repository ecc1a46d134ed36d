"""The sites that are served, by their names, each with its store and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.living import PatrolStore
from omniad_ros.living.store import UnknownError
from omniad_ros.report.floorplan import PlanFrame, background, extent_of
from omniad_ros.site import Site, SparsePoints
from omniad_ros.versions import Version, history

NEAR = 2.5
"""Metres around a finding whose points are shown with it."""
MOST_POINTS = 6000


@dataclass
class Place:
    """A site with what is known of its patrols."""

    name: str
    site: Site
    store: PatrolStore

    def versions(self) -> list[Version]:
        """Of the site as it lies in its folder now, the newest first."""
        return history(Site.open(self.site.path, verify=False))[::-1]

    @cached_property
    def points(self) -> SparsePoints:
        """The sparse map."""
        return self.site.sparse_points

    @cached_property
    def frame(self) -> PlanFrame:
        """Of the plan: all that the survey's cameras stood at, and the bulk of the map."""
        return extent_of(self.points.xyz, np.stack([pose.translation for pose in self.site.mapped.poses]))

    @cached_property
    def background(self) -> str:
        """The sparse map from above, as an SVG image."""
        return background(self.points.xyz, self.points.rgb, self.frame)

    def points_near(self, center: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 3) relative to a place, and their colours (N, 3) uint8: the nearest of them."""
        away = self.points.xyz - np.asarray(center, np.float32)
        distance = np.linalg.norm(away, axis=1)
        chosen = np.argsort(distance)[: min(MOST_POINTS, int((distance < NEAR).sum()))]
        return away[chosen], self.points.rgb[chosen]


class Places:
    """Sites by their names. Two of one name are told apart by a number."""

    def __init__(self, by_name: dict[str, Place]):
        self.by_name = by_name

    @staticmethod
    def open(sites: Sequence[Path], database: str = "") -> Places:
        """Raises OmniadError where a site or its database cannot be used."""
        by_name: dict[str, Place] = {}
        for path in sites:
            site, name, number = Site.open(path, verify=False), Path(path).resolve().name, 2
            while name in by_name:
                name, number = f"{Path(path).resolve().name}-{number}", number + 1
            by_name[name] = Place(name, site, PatrolStore.of_site(path, database))
        if not by_name:
            raise OmniadError("give at least one site to be served")
        return Places(by_name)

    def named(self, name: str) -> Place:
        """Raises UnknownError where no site of that name is served."""
        if name not in self.by_name:
            raise UnknownError(f"no site '{name}' is served here")
        return self.by_name[name]

    def close(self) -> None:
        for place in self.by_name.values():
            place.store.close()
