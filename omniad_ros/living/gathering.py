"""What recorded patrols show of accepted changes: photographs with known poses, and which of their pixels may be learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from omniad_ros.core.feedback import Progress
from omniad_ros.core.geometry import Box, Camera, Pose, Rectifier
from omniad_ros.core.images import resized, write_image
from omniad_ros.living.photographs import image_of, kept_photographs, photograph_count
from omniad_ros.living.settled import in_view
from omniad_ros.patrol.pipeline import Inspector
from omniad_ros.patrol.session import PatrolSession
from omniad_ros.recordings import FrameSource
from omniad_ros.reference.photographs import chosen, shows
from omniad_ros.site import Site


@dataclass(frozen=True)
class GatheringOptions:
    """most: photographs that are taken in; moved, turned: metres and degrees from one to the next; shown: share of a photograph that must
    show a change; suspicious: share of the threshold from which a pixel is not learnt from, unless it was accepted, and grown: share of
    the width by which such pixels are widened; there: share of an accepted place's pixels above the threshold from which a frame shows
    that the change is there, and views: frames that must; own: share of a region's pixels that lie at an accepted change, and at no other
    finding, from which all of it is that change; cell: metres within which such pixels of several frames are one spot, and reach:
    metres, at most, by which they enlarge the place, or its size where that is more; often: share of the frames that have such a
    spot in view in which it must be one, cluster: spots that must hang together; slack, share: metres, and share of its size, by
    which a change may be larger than its box on each side."""

    most: int = 48
    moved: float = 0.04
    turned: float = 3.0
    shown: float = 0.002
    suspicious: float = 0.5
    grown: float = 0.02
    there: float = 0.05
    views: int = 3
    own: float = 0.3
    cell: float = 0.05
    reach: float = 0.6
    often: float = 0.3
    cluster: int = 8
    slack: float = 0.03
    share: float = 0.05


GATHERING = GatheringOptions()
HIDDEN = 0.9
"""Share of a point's depth before which nothing may stand that hides it."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """A photograph of a patrol as the survey's camera would have taken it. file: it; the maps are of the working size: heat, uint8 (h, w),
    the probability in steps of 1/255; depth: float16 (h, w) of the reference; inside: bool (h, w), where it shows anything."""

    file: Path
    pose: Pose
    heat: np.ndarray
    depth: np.ndarray
    inside: np.ndarray


class Gathering:
    """Goes through patrols, one after the other, and writes photographs into a folder."""

    def __init__(self, site: Site, accepted: Sequence[Box], others: Sequence[Box], folder: Path, light: bool = False):
        """accepted: where changes are normal now; others: where there is, or may be, something that is not; light: also take
        what is normal, as it looks now."""
        self.accepted, self.others, self.folder, self.light = list(accepted), others, folder, light
        self.inspector, self.survey = Inspector(site), site.mapped
        self.camera = site.working_camera(self.survey.camera)
        self.rays = self.camera.directions()
        self.taken: list[Gathered] = []
        self.localized = 0
        self._found = np.zeros(len(accepted), int)
        self._to_survey: dict[Camera, tuple[Rectifier, Rectifier, np.ndarray]] = {}
        self._count = 0

    @property
    def there(self) -> np.ndarray:
        """bool (accepted,): which of the accepted changes enough frames show to be there."""
        return self._found >= GATHERING.views

    def go_through(self, source: FrameSource, progress: Progress) -> None:
        """Take what a recorded patrol shows. Raises OmniadError where it cannot be read."""
        self.inspector.reset()
        session = PatrolSession(self.inspector, self.survey)
        for number, frame in enumerate(session.run(source)):
            progress(min(1.0, number / max(source.count, 1)), f"looking at {frame.frame.name}")
            inspection = frame.inspection
            if inspection.state == "ok" and inspection.raw is not None:
                heat = np.uint8(np.round(255 * resized(inspection.raw, *inspection.reference.depth.shape[1::-1])))
                self._look_at(frame.camera, inspection.pose, heat, inspection.reference.depth, lambda f=frame: f.image)

    def go_through_kept(self, folder: Path, progress: Progress) -> None:
        """Take what was kept of a patrol. Raises OmniadError where that is damaged."""
        count = photograph_count(folder)
        for number, kept in enumerate(kept_photographs(folder)):
            progress(number / max(count, 1), "looking at the photographs of the patrol")
            camera = self.inspector.working_camera(kept.camera)
            if self.light or any(in_view(box, camera, kept.pose) for box in self.accepted):
                depth = self.inspector.render(camera, kept.pose, None).depth
                heat = resized(kept.heat, camera.width, camera.height)
                self._look_at(kept.camera, kept.pose, heat, depth, lambda k=kept: image_of(k))
            else:
                self.localized += 1

    def _look_at(
        self, camera: Camera, pose: Pose, heat: np.ndarray, depth: np.ndarray, image: Callable[[], np.ndarray]
    ) -> None:
        """heat, depth: (h, w) at the working size of ``camera``."""
        self.localized += 1
        large, small, inside = self._survey_camera(camera)
        if small.maps is not None:
            depth = cv2.remap(depth, *small.maps, cv2.INTER_NEAREST, borderValue=float("nan"))
            heat = cv2.remap(heat, *small.maps, cv2.INTER_NEAREST)
        above = heat >= 255 * self.inspector.threshold
        place = self._place(self.accepted, pose, depth)
        for number in range(len(self.accepted)):
            shown = place == number + 1
            self._found[number] += shown.any() and (above & shown).sum() >= GATHERING.there * shown.sum()
        worth = self.light or (place > 0).mean() >= GATHERING.shown
        if worth and self._is_elsewhere(pose):
            self._count += 1
            file = self.folder / f"{self._count:06d}.png"
            write_image(file, large(image()))
            self.taken.append(Gathered(file, pose, heat, depth.astype(np.float16), inside))
            if len(self.taken) > 2 * GATHERING.most:
                self.thin_out(GATHERING.most)

    def _place(self, boxes: Sequence[Box], pose: Pose, depth: np.ndarray) -> np.ndarray:
        """int16 (h, w): 1 + the number of the box that a pixel shows, or looks through; 0 for none."""
        place = np.zeros(depth.shape, np.int16)
        for number, box in enumerate(boxes):
            place[shows([box], pose, self.rays, depth)] = number + 1
        return place

    def _is_elsewhere(self, pose: Pose) -> bool:
        if not self.taken:
            return True
        metres, degrees = pose.distance(self.taken[-1].pose)
        return metres >= GATHERING.moved or degrees >= GATHERING.turned

    def _survey_camera(self, camera: Camera) -> tuple[Rectifier, Rectifier, np.ndarray]:
        """What makes the survey camera's picture of a rectified one, at full and at working size, and where that has anything."""
        if camera not in self._to_survey:
            seen_by = self.inspector.working_camera(camera)
            large, small = Rectifier(camera, self.survey.camera), Rectifier(seen_by, self.camera)
            inside = small(np.full((seen_by.height, seen_by.width), 255, np.uint8)) > 254
            self._to_survey = {camera: (large, small, inside)}
        return self._to_survey[camera]

    def thin_out(self, most: int) -> None:
        """Keep at most so many photographs, evenly chosen; the others' files are removed."""
        kept = set(chosen(len(self.taken), most).tolist())
        for number, gathered in enumerate(self.taken):
            if number not in kept:
                gathered.file.unlink()
        self.taken = [gathered for number, gathered in enumerate(self.taken) if number in kept]

    # ---- what of it is learnt

    def extents(self) -> list[Box]:
        """The places of the changes that are there, and where the same change shows beyond them: an open door shows what is behind it."""
        boxes, depths = [], [gathered.depth.astype(np.float32) for gathered in self.taken]
        owners = [self._owners(gathered, depth) for gathered, depth in zip(self.taken, depths, strict=True)]
        for number in np.flatnonzero(self.there):
            box = self.accepted[number]
            size, seen = box.high - box.low, []
            for gathered, depth, owner in zip(self.taken, depths, owners, strict=True):
                beyond = owner == number + 1
                beyond &= ~shows([box], gathered.pose, self.rays, depth) & np.isfinite(depth)
                points = gathered.pose.apply(self.rays[beyond] * depth[beyond, None])
                near = box.grown(max(GATHERING.reach, size.max())).holds(points)
                seen.append(np.unique(np.floor(points[near] / GATHERING.cell).astype(int), axis=0))
            margin = GATHERING.slack + GATHERING.share * size
            cells, counts = np.unique(np.concatenate(seen), axis=0, return_counts=True)
            often = GATHERING.often * self._views_of((cells + 0.5) * GATHERING.cell)
            boxes += [
                Box(box.low - margin, box.high + margin),
                *_clusters(cells[counts >= np.maximum(GATHERING.views, often)]),
            ]
        return boxes

    def _views_of(self, points: np.ndarray) -> np.ndarray:
        """(N,) in how many of the photographs the points (N, 3) are in view, with nothing before them."""
        count = np.zeros(len(points), int)
        for gathered in self.taken:
            local = gathered.pose.inverse().apply(points)
            with np.errstate(invalid="ignore"):
                column, row = np.nan_to_num(self.camera.project(local), nan=-1).astype(int).T
                inside = (column >= 0) & (row >= 0) & (column < self.camera.width) & (row < self.camera.height)
                depth = gathered.depth[np.where(inside, row, 0), np.where(inside, column, 0)]
                count += inside & ~(depth < HIDDEN * local[:, 2])
        return count

    def shown(self, gathered: Gathered, boxes: Sequence[Box]) -> np.ndarray:
        """bool (h, w): where a photograph shows one of the ``boxes``, or looks through it."""
        return shows(boxes, gathered.pose, self.rays, gathered.depth.astype(np.float32))

    def known(self, gathered: Gathered) -> np.ndarray:
        """bool (h, w): where a photograph shows what is normal, or accepted."""
        depth = gathered.depth.astype(np.float32)
        side = 2 * round(GATHERING.grown * self.camera.width) + 1
        wide = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        elsewhere = cv2.dilate(np.uint8(self._owners(gathered, depth) > 0), wide) == 0
        suspicious = (gathered.heat >= 255 * GATHERING.suspicious * self.inspector.threshold) & elsewhere
        widened = cv2.dilate(np.uint8(suspicious), wide) > 0
        others = shows(self.others, gathered.pose, self.rays, depth) & elsewhere
        return gathered.inside & ~widened & ~others

    def _owners(self, gathered: Gathered, depth: np.ndarray) -> np.ndarray:
        """int16 (h, w): 1 + the number of the accepted change, of those that are there, that a pixel above the threshold belongs to,
        with all of its connected region; 0 for none."""
        place, owners = self._place(self.accepted, gathered.pose, depth), np.zeros(depth.shape, np.int16)
        others = shows(self.others, gathered.pose, self.rays, depth)
        count, regions = cv2.connectedComponents(np.uint8(gathered.heat >= 255 * self.inspector.threshold))
        for region in range(1, count):
            pixels = regions == region
            mine = np.bincount(place[pixels & ~others], minlength=len(self.accepted) + 1)[1:]
            mine[~self.there] = 0
            if mine.max(initial=0) >= max(1, GATHERING.own * pixels.sum()):
                owners[pixels] = mine.argmax() + 1
        return owners


def _clusters(cells: np.ndarray) -> list[Box]:
    """Boxes around what hangs together of cells (N, 3)."""
    if not len(cells):
        return []
    low = cells.min(0)
    grid = np.zeros(cells.max(0) - low + 1, bool)
    grid[tuple((cells - low).T)] = True
    labels, _ = ndimage.label(grid, np.ones((3, 3, 3)))
    return [
        Box(
            (low + [part.start for part in place]) * GATHERING.cell,
            (low + [part.stop for part in place]) * GATHERING.cell,
        )
        for number, place in enumerate(ndimage.find_objects(labels), 1)
        if (labels[place] == number).sum() >= GATHERING.cluster
    ]
