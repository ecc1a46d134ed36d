"""Ten patrols of the plant room while it changes: what is new is found, what was accepted becomes normal, and the site follows.

    python -m omniad_ros.lab.rounds SITE SEED FOLDER

SITE: built from `recording.record_survey` of SEED; a copy of it is updated. Writes ``rounds.json`` and prints a table: of each patrol
what was there that was not normal, what of that was found, what was raised besides, and the F1 of the pixels, of a site that follows,
and of one that does not.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from omniad_ros.core.feedback import Progress, quiet
from omniad_ros.core.files import read_json, write_json
from omniad_ros.core.images import write_image
from omniad_ros.lab.anomalies import Anomaly, Place
from omniad_ros.lab.process import apart
from omniad_ros.site import PosedImages, Site, write_transforms

APART = 0.8
"""Metres between any two changes."""
FRAMES = 60
NEAR = 0.35
"""Metres from a change up to which a finding is of it."""


@dataclass(frozen=True)
class Change:
    """first, last: patrols in which it is there; verdict: what is said of it after the first of them, empty for nothing."""

    first: int
    last: int
    verdict: str = ""

    def there(self, patrol: int) -> bool:
        return self.first <= patrol <= self.last

    def normal(self, patrol: int) -> bool:
        """Whether it is a part of what is normal in a patrol."""
        return self.verdict == "accepted" and self.first < patrol


SCHEDULE = (
    Change(1, 10, "accepted"), Change(1, 3, "confirmed"), Change(3, 7, "accepted"), Change(3, 6), Change(5, 10, "accepted"),
    Change(6, 8, "confirmed"), Change(7, 10, "accepted"), Change(10, 10),
)  # fmt: skip
"""The third one is accepted, and taken away again before patrol 8: then its place is not normal."""
DRIFT = 0.03
"""By how much the light differs more from patrol to patrol, as of `PlantRoom`."""


def plan_changes(seed: int) -> list[Anomaly]:
    """As many changes as `SCHEDULE` has, of which none touches another."""
    from omniad_ros.lab.plantroom import PlantRoom

    world, chosen = PlantRoom(seed), []
    for draw in range(200):
        for anomaly in world.planned([seed, 30, draw]):
            bodies = {edit.body for other in chosen for edit in other.edits}
            free = all(_gap(a, b) > APART for other in chosen for a in anomaly.places for b in other.places)
            if len(chosen) < len(SCHEDULE) and free and not bodies & {edit.body for edit in anomaly.edits}:
                chosen.append(anomaly)
    world.close()
    return chosen


def _gap(first: Place, second: Place) -> float:
    return float(np.linalg.norm(np.subtract(first.center, second.center)))


def record_round(
    seed: int, out: Path, changes: list[Anomaly], patrol: int, frames: int = FRAMES, progress: Progress = quiet
) -> None:
    """Drive patrol number ``patrol``: images and odometry (transforms.json), labels/NNN.png (1 + the change that a pixel shows and that is
    not normal then), truth.json (true poses)."""
    from omniad_ros.lab.plantroom import PlantRoom
    from omniad_ros.lab.robot import Route, Simulation

    there = [a for a, c in zip(changes, SCHEDULE, strict=True) if c.there(patrol)]
    normal = [a for a, c in zip(changes, SCHEDULE, strict=True) if c.normal(patrol)]
    world = PlantRoom(seed, anomalies=there, light=DRIFT * (patrol - 1))
    robot = Simulation(world, Route.patrol(1000 * seed + patrol), seed=1000 * seed + patrol)
    points, names, odometry, truth = robot.route.points, [], [], []
    lap = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1).sum() / robot.options.speed
    shown = [i for i, c in enumerate(SCHEDULE) if c.there(patrol) != c.normal(patrol)]
    groups, number_of = [changes[i].edits for i in shown], np.array([0, *(i + 1 for i in shown)], np.uint8)
    edits = [[edit for a in state for edit in a.edits] for state in (normal, there)]
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True)
    for index in range(frames):
        robot.step(lap / frames)
        names.append(f"images/{index:03d}.png")
        odometry.append(robot.odometry_camera_pose())
        truth.append(robot.true_camera_pose())
        labels = number_of[world.stage.compare(truth[-1], groups, *edits)[1]]
        write_image(out / names[-1], robot.image())
        write_image(out / f"labels/{index:03d}.png", labels)
        progress((index + 1) / frames, f"driving patrol {patrol}")
    write_transforms(out / "transforms.json", PosedImages(world.camera, out, tuple(names), tuple(odometry)))
    write_json(out / "truth.json", [pose.matrix().tolist() for pose in truth])
    world.close()


def _pixels(out: Path, images: Path) -> tuple[float, set[int], float]:
    """(F1 of the pixels at the threshold, the changes that show more than 100 pixels in a frame, mean ms a frame)."""
    hits = raised = true = 0
    shown: set[int] = set()
    for file in sorted((images / "labels").glob("*.png")):
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(out / "masks" / file.name), cv2.IMREAD_UNCHANGED)
        hits += int(((mask == 255) & (labels > 0)).sum())
        raised += int((mask == 255).sum())
        true += int((labels > 0).sum())
        shown |= {int(i) - 1 for i in np.unique(labels) if i and (labels == i).sum() > 100}
    rows = read_json(out / "inspection.json")["frames"]
    return 2 * hits / max(raised + true, 1), shown, float(np.mean([row["ms"]["total"] for row in rows]))


def run(site_path: Path, seed: int, folder: Path) -> list[dict]:
    """Drive and inspect all patrols; returns a row of each."""
    from omniad_ros.evaluation import align_truth
    from omniad_ros.living import PatrolStore
    from omniad_ros.living.updating import update_site
    from omniad_ros.report.recorded import InspectOptions, inspect_images

    folder.mkdir(parents=True, exist_ok=True)
    changes, rows = apart("rounds", "plan_changes", seed), []
    following, still = folder / "following" / "site", folder / "still" / "site"
    for place in (following, still):
        if not place.is_dir():
            shutil.copytree(site_path, place)
    align = align_truth(site_path.parent / "survey" / "true_poses.json", Site.open(site_path, verify=False))
    for patrol in range(1, 1 + max(c.last for c in SCHEDULE)):
        images = folder / f"patrol{patrol}"
        if not images.is_dir():
            apart("rounds", "record_round", seed, images, changes, patrol)
        row: dict = {"patrol": patrol}
        for name, place in (("following", following), ("still", still)):
            out = folder / name / f"out{patrol}"
            shutil.rmtree(out, ignore_errors=True)
            tracks = inspect_images(place, images, out, options=InspectOptions())
            f1, shown, ms = _pixels(out, images)
            centers = [align.points(np.array(p.center)) for a in changes for p in a.places]
            owners = [number for number, a in enumerate(changes) for _ in a.places]
            sizes = [max(p.size) for a in changes for p in a.places]
            told = [row for row in read_json(out / "inspection.json")["tracks"]]
            found, false = set(), 0
            store = PatrolStore.of_site(place)
            for track in told:
                gaps = [
                    np.linalg.norm(np.subtract(track["center"], c)) - s / 2 for c, s in zip(centers, sizes, strict=True)
                ]
                near = int(np.argmin(gaps))
                number = owners[near]
                if gaps[near] < NEAR and number in shown:
                    found.add(number)
                    verdict = SCHEDULE[number].verdict if SCHEDULE[number].there(patrol) else ""
                    if verdict and track.get("finding") and not track.get("verdict"):
                        store.give(track["finding"], verdict, "rounds")
                else:
                    false += track.get("verdict", "") in ("", "confirmed")
            row[name] = {
                "f1": f1,
                "there": sorted(shown),
                "found": sorted(found),
                "false": false,
                "ms": ms,
                "tracks": len(tracks),
            }
            accepted = {
                number
                for number in shown
                if SCHEDULE[number].verdict == "accepted" and SCHEDULE[number].first == patrol
            }
            if name == "following" and accepted:
                site, began = Site.open(place), time.monotonic()
                try:
                    update = update_site(site, store)
                    row["update"] = {
                        "seconds": time.monotonic() - began,
                        "taken_in": update.taken_in,
                        "unseen": update.unseen,
                    }
                except Exception as error:
                    row["update"] = {"seconds": time.monotonic() - began, "error": str(error)}
            store.close()
        rows.append(row)
        print(row, flush=True)
        write_json(folder / "rounds.json", {"changes": [a.to_dict() for a in changes], "rows": rows})
    return rows


def main() -> None:
    site, seed, folder = sys.argv[1:]
    for row in run(Path(site), int(seed), Path(folder)):
        a, b = row["following"], row["still"]
        print(
            f"{row['patrol']:2}  there {a['there']}  found {a['found']} | {b['found']}  false {a['false']} | {b['false']}  "
            f"F1 {a['f1']:.3f} | {b['f1']:.3f}  {row.get('update', '')}"
        )


if __name__ == "__main__":
    main()
