"""Takes accepted changes into a site: a new version of its map, field, photographs and calibration (`omniad update`).

Only what somebody accepted gets in, and only where it is: a patrol's photographs are drawn from within the accepted places alone, and
what is anomalous in them, or may be, is left out there, too. All else stays as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError, Progress, part, quiet
from omniad_ros.core.files import as_type, exclusive, read_json
from omniad_ros.core.images import read_image, resized, resized_map
from omniad_ros.detection.renewing import NewPhotograph, renew_detector
from omniad_ros.living.gathering import GATHERING, Gathering
from omniad_ros.living.photographs import photograph_count, photographs_of
from omniad_ros.living.schema import ACCEPTED
from omniad_ros.living.store import PatrolStore
from omniad_ros.mapping import ADDED, Added, extend_map
from omniad_ros.recordings import FrameSource
from omniad_ros.reference.grid_field import GridField
from omniad_ros.reference.photographs import has_photographs
from omniad_ros.reference.relearning import NewPoints, Shot, relearn
from omniad_ros.reference.renderer import load_field
from omniad_ros.site import PosedImages, Site, SparsePoints, read_points, read_transforms
from omniad_ros.versions import next_version


@dataclass(frozen=True)
class Update:
    """What an update did. version: of the site; taken_in: names of the findings that are normal now; unseen:
    of accepted ones that the patrols do not show."""

    version: int
    taken_in: tuple[str, ...]
    unseen: tuple[str, ...]


def update_site(
    site: Site,
    store: PatrolStore,
    patrols: Sequence[FrameSource] = (),
    progress: Progress = quiet,
    light: bool = False,
) -> Update:
    """Make the next version of a site, with the accepted findings that the patrols show as a part of what is normal.

    patrols: recorded ones in which the changes are there; none for what was kept of the latest one; light: draw
    references from what is normal in them everywhere, as it looks now. Raises OmniadError where the site cannot follow its place, a patrol cannot be
    read or localized, or another process works on the site; the site then stays what it was.
    """
    field = _check(site)
    known, taken_in = store.findings(), site.manifest.get("taken_in", [])
    accepted = [f for f in known if f.verdict == ACCEPTED and f.id not in taken_in]
    if not accepted and not light:
        raise OmniadError(
            f"nothing is to be taken into {site.path}: no finding is accepted that is not yet normal there"
        )
    others = [f.box for f in known if f.verdict != ACCEPTED and f.state != "gone"]
    with exclusive(site.path), next_version(site) as (number, work, notes):
        photographs = work / f"{ADDED}{number}"
        photographs.mkdir()
        gathering = Gathering(site, [f.box for f in accepted], others, photographs, light)
        looking = part(progress, 0.0, 0.5)
        for index, patrol in enumerate(patrols):
            gathering.go_through(patrol, part(looking, index / len(patrols), (index + 1) / len(patrols)))
        if not patrols:
            gathering.go_through_kept(_latest(site, store), looking)
        if not gathering.localized:
            raise OmniadError(
                "no frame of the patrols could be localized in the site's map, so there is nothing to learn from"
            )
        gathering.thin_out(GATHERING.most)
        there = gathering.there
        seen = [f for f, is_there in zip(accepted, there, strict=True) if is_there]
        unseen = tuple(f.name for f, is_there in zip(accepted, there, strict=True) if not is_there)
        if not seen and not light:
            raise OmniadError(
                f"the patrols do not show {', '.join(unseen)} well enough to learn what is normal there now; give one in which it is there"
            )
        _Learning(site, field, gathering, work).run(notes, part(progress, 0.5, 1.0))
        notes["taken_in"] = [f.id for f in seen]
        said = [f"took in {', '.join(f.name for f in seen)}"] if seen else []
        said += ["took what is normal as it looks now"] if light else []
        notes["changes"] = f"{', '.join(said)}, as {len(gathering.taken)} photographs show it"
    progress(1.0, f"the site is at version {number}")
    return Update(number, tuple(f.name for f in seen), unseen)


def _latest(site: Site, store: PatrolStore) -> Path:
    """The photographs of the latest patrol that has any. Raises OmniadError where none has."""
    folders = (photographs_of(site.path, patrol.id) for patrol in store.patrols())
    found = next((folder for folder in folders if photograph_count(folder)), None)
    if found is None:
        raise OmniadError(f"no photographs of a patrol of {site.path} are kept; give the recording of one")
    return found


def _check(site: Site) -> GridField:
    """The site's field, where the site can follow its place. Raises OmniadError where it cannot."""
    field = load_field(site.radiance_dir)
    if not isinstance(field, GridField):
        raise OmniadError(
            f"the field of {site.path} is not of the method grid-field, and cannot be trained in parts; build it again"
        )
    if not has_photographs(site):
        raise OmniadError(
            f"the references of {site.path} are not redrawn from photographs, so it cannot follow its place; build it again"
        )
    return field


class _Learning:
    """Writes the stages of a new version into the folder ``work``."""

    def __init__(self, site: Site, field: GridField, gathering: Gathering, work: Path):
        self.site, self.field, self.work = site, field, work
        self.before, self.camera, self.taken = gathering.survey, gathering.camera, gathering.taken
        self.light, self.changed = gathering.light, gathering.extents()
        self.known = [gathering.known(taken) for taken in self.taken]
        self.shown = [
            known & gathering.shown(taken, self.changed) for taken, known in zip(self.taken, self.known, strict=True)
        ]
        self.numbers = self.is_new = np.zeros(0, int)
        """Of the images of the map before in the new one, and which of that one are new."""

    def run(self, notes: dict, progress: Progress) -> None:
        added = [
            Added(taken.file, taken.pose, self._large(known), self._large(shown))
            for taken, known, shown in zip(self.taken, self.known, self.shown, strict=True)
        ]
        mapping = part(progress, 0.0, 0.35)
        notes["stages"]["map"] = extend_map(self.site.map_dir, added, self.changed, self.work / "map", mapping)
        mapped = read_transforms(self.work / "map" / "transforms.json")
        places = {mapped.path(n).resolve(): n for n in range(len(mapped))}
        self.numbers = np.array([places.get(self.before.path(n).resolve(), -1) for n in range(len(self.before))])
        self.is_new = ~np.isin(np.arange(len(mapped)), self.numbers)
        sources = {Path(mapped.names[n]).name: n for n in np.flatnonzero(self.is_new)}
        images = [self._small(read_image(g.file)) for g in self.taken]
        shots = [Shot(i, taken.pose, known) for i, taken, known in zip(images, self.taken, self.known, strict=True)]
        points = read_points(self.work / "map" / "points.safetensors", len(mapped))
        learning = part(progress, 0.35, 0.7)
        field = relearn(self.field, self.camera, shots, self._points(mapped, points), self.changed, learning)
        old = read_json(self.site.radiance_dir / "field.json")
        (self.work / "radiance").mkdir()
        field.save(self.work / "radiance", {"steps": old["steps"]} if "steps" in old else {})
        new = [
            NewPhotograph(i, g.pose, drawn, sources[g.file.name])
            for i, g, drawn in zip(images, self.taken, self.known if self.light else self.shown, strict=True)
            if g.file.name in sources
        ]
        notes["stages"]["radiance"] = {"heldout": self._heldout(mapped)}
        detector = self.work / "detector"
        renewed = renew_detector(
            self.site.detector_dir,
            detector,
            field,
            self.camera,
            self.changed,
            new,
            self.numbers,
            part(progress, 0.7, 1.0),
        )
        notes["stages"]["detector"] = renewed

    def _small(self, image: np.ndarray) -> np.ndarray:
        return resized(image, self.camera.width, self.camera.height)

    def _large(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the working size at the photographs' size."""
        return resized_map(mask, self.before.camera.width, self.before.camera.height)

    def _heldout(self, mapped: PosedImages) -> list[str]:
        """Names of the map's images that the field never saw: a version's map has its own paths to them."""
        names = as_type(self.site.info("radiance").get("heldout", []), str(self.site.path / "site.json"), list[str])
        return [mapped.names[i] for i in self.numbers[np.isin(self.before.names, names)] if i >= 0]

    def _points(self, mapped: PosedImages, points: SparsePoints) -> NewPoints:
        """What the new map says of the boxes, and along which lines the new photographs see its points."""
        inside = np.any([np.zeros(len(points.xyz), bool), *(box.holds(points.xyz) for box in self.changed)], axis=0)
        own = self.is_new[points.image]
        eyes = np.array([pose.translation for pose in mapped.poses])
        targets = points.xyz[points.point[own]].astype(np.float64)
        return NewPoints(points.xyz[inside], points.rgb[inside] / 255, eyes[points.image[own]], targets)
