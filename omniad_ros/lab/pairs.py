"""Pairs of pictures from one pose, normal and changed, for training the bundled comparison network:
``python -m omniad_ros.lab.pairs OUT``. Table-tops and plant rooms, most of them under light that is not the same in both pictures.
Seeds start at 100000, far from those of any benchmark.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.lab.conditions import Conditions
from omniad_ros.lab.looks import PATTERNED, drawn_look
from omniad_ros.lab.plantroom import PlantRoom
from omniad_ros.lab.tabletop import EVERYDAY, KINDS, SMALL_THINGS, Tabletop, TabletopOptions

FIRST_SEED = 100_000
SIZE = (240, 320)
"""Height and width of the pictures."""


class Pairs:
    """Pictures of one scene: normal, changed uint8 (N, H, W, 3), and masks bool (N, H, W) of what changed."""

    def __init__(self):
        self.normal, self.changed, self.mask = [], [], []

    def add(self, normal: np.ndarray, changed: np.ndarray, mask: np.ndarray) -> None:
        self.normal.append(normal)
        self.changed.append(changed)
        self.mask.append(mask > 0)

    def write(self, path: Path) -> None:
        np.savez_compressed(
            path, normal=np.stack(self.normal), changed=np.stack(self.changed), mask=np.stack(self.mask)
        )


def tabletop_pairs(seed: int, per_kind: int) -> Pairs:
    """A table-top scene with one anomaly a pair, or none; in two thirds of the scenes each changed picture is under other lamps, and
    a third is seen by a camera of twice the size, of which the surroundings of something small are kept."""
    rng, pairs = np.random.default_rng(seed), Pairs()
    small, everyday = rng.random() < 1 / 3, rng.random() < 0.6
    options = SMALL_THINGS if small else EVERYDAY if everyday else TabletopOptions()
    lit = Conditions(lamps=rng.uniform(0.2, 1.0), exposure=rng.uniform(0, 0.8), noise=0.0)
    options = replace(
        options, field_of_view=rng.uniform(45, 75), gloss=rng.uniform(0, 0.8), elevation=(8.0, 75.0), objects=(5, 18),
        look=PATTERNED if rng.random() < 0.4 else drawn_look(4 * seed + 2),
        conditions=lit if rng.random() < 2 / 3 else Conditions(noise=0.0),
    )  # fmt: skip
    scene = Tabletop(seed, options)
    for kind in KINDS:
        for _ in range(per_kind * 2 if kind == "good" else per_kind):
            pose = scene.pose()
            try:
                changed = scene.patrol(pose, kind)
            except ValueError:
                continue
            mask = np.zeros(changed.image.shape[:2], np.uint8) if changed.mask is None else changed.mask
            window = around(rng, mask)
            pairs.add(scene.survey(pose).image[window], changed.image[window], mask[window])
    scene.close()
    return pairs


def around(rng: np.random.Generator, mask: np.ndarray) -> tuple[slice, slice]:
    """A window of SIZE that holds a pixel of the mask (H, W); anywhere where it is empty."""
    marked = np.argwhere(mask > 0)
    middle = marked[rng.integers(len(marked))] if len(marked) else rng.uniform((0, 0), mask.shape)
    start = [
        int(np.clip(m - rng.uniform(0.2, 0.8) * s, 0, n - s)) for m, s, n in zip(middle, SIZE, mask.shape, strict=True)
    ]
    return tuple(slice(first, first + side) for first, side in zip(start, SIZE, strict=True))


def room_pairs(seed: int, count: int) -> Pairs:
    """A plant room with five anomalies, looked at from its lane; in half of the rooms the lamps have changed too."""
    rng, pairs = np.random.default_rng(seed), Pairs()
    camera = Camera.from_fov(320, 240, np.radians(rng.uniform(50, 80)))
    before = PlantRoom(seed, camera=camera)
    after = PlantRoom(seed, anomalies=True, light=rng.uniform(0.1, 0.8) if rng.random() < 0.5 else 0.0, camera=camera)
    places = [np.array(place.center) for anomaly in after.anomalies for place in anomaly.places]
    for index in range(count):
        target = places[index % len(places)] + rng.normal(0, 0.25, 3)
        out = target[:2] / max(np.linalg.norm(target[:2]), 0.3)
        angle = np.arctan2(out[1], out[0]) + rng.uniform(-0.6, 0.6)
        eye = np.array([*rng.uniform(2.2, 3.3) * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.4, 1.2)])
        pose = Pose.look_at(eye, target)
        pairs.add(before.image(pose), after.image(pose), after.labels(pose))
    before.close()
    after.close()
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=40, help="table-tops")
    parser.add_argument("--rooms", type=int, default=30, help="plant rooms")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--per-kind", type=int, default=4, help="pairs of each kind of anomaly in a table-top")
    parser.add_argument("--per-room", type=int, default=24, help="pairs in a plant room")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for index in range(max(arguments.scenes, arguments.rooms)):
        seed = arguments.first_seed + index
        if index < arguments.scenes:
            tabletop_pairs(seed, arguments.per_kind).write(arguments.out / f"table_{seed}.npz")
        if index < arguments.rooms:
            room_pairs(seed, arguments.per_room).write(arguments.out / f"room_{seed}.npz")


if __name__ == "__main__":
    main()
