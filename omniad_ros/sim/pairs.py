"""Pairs of table-top pictures from one pose, normal and changed, for training the bundled comparison network:
``python -m omniad_ros.sim.pairs OUT``. Seeds start at 100000, far from those of any benchmark.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from omniad_ros.sim.tabletop import EVERYDAY, KINDS, Tabletop, TabletopOptions

FIRST_SEED = 100_000


def write_pairs(out: Path, scenes: int, per_kind: int, first_seed: int = FIRST_SEED) -> None:
    """Write ``out/<seed>.npz`` for each scene: normal, changed uint8 (N, H, W, 3) and mask bool (N, H, W)."""
    out.mkdir(parents=True, exist_ok=True)
    for seed in range(first_seed, first_seed + scenes):
        rng = np.random.default_rng(seed)
        options = replace(
            EVERYDAY if rng.random() < 0.6 else TabletopOptions(), field_of_view=rng.uniform(45, 75), noise=0.0,
            gloss=rng.uniform(0, 0.8), elevation=(8.0, 75.0), objects=(5, 18),
        )  # fmt: skip
        scene = Tabletop(seed, options)
        normal, changed, masks = [], [], []
        for kind in KINDS[1:]:
            for _ in range(per_kind):
                pose = scene.pose()
                try:
                    image, mask = scene.anomalous(pose, kind)
                except ValueError:
                    continue
                normal.append(scene.image(pose))
                changed.append(image)
                masks.append(mask > 0)
        scene.close()
        np.savez_compressed(out / f"{seed}.npz", normal=np.stack(normal), changed=np.stack(changed), mask=np.stack(masks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--per-kind", type=int, default=4)
    arguments = parser.parse_args()
    write_pairs(arguments.out, arguments.scenes, arguments.per_kind, arguments.first_seed)


if __name__ == "__main__":
    main()
