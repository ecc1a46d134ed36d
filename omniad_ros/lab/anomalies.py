"""What may be wrong in the plant room: plans a seed's anomalies as edits of the normal world, with their true places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.lab.stage import Edit, Stage, wxyz

COUNT = 5
APART = 0.75
"""Metres between the places of two anomalies, so that each can be told from the others."""
KINDS = {
    "missing": 1.2,
    "added": 1.2,
    "moved": 1.2,
    "recoloured": 1.2,
    "spill": 1.2,
    "door": 1.0,
    "valve": 0.7,
    "gauge": 0.5,
}
"""Kinds and how likely each is drawn."""


@dataclass(frozen=True)
class Place:
    """An axis-aligned box in the world: centre (3,) and full size (3,), metres."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]

    def distance(self, point) -> float:
        """Metres from a point (3,) to the nearest point of the box; 0 inside."""
        away = np.abs(np.asarray(point) - self.center) - np.asarray(self.size) / 2
        return float(np.linalg.norm(np.maximum(away, 0)))


@dataclass(frozen=True)
class Anomaly:
    """One planted anomaly; ``places``: where it can be seen (two where something moved: where it is and where it was)."""

    id: str
    kind: str
    edits: tuple[Edit, ...]
    places: tuple[Place, ...]

    @property
    def center(self) -> tuple[float, float, float]:
        return self.places[0].center

    @property
    def size(self) -> tuple[float, float, float]:
        return self.places[0].size

    def to_dict(self) -> dict:
        """For JSON: id, kind, center, size, and places as a list of {center, size}."""
        places = [{"center": list(p.center), "size": list(p.size)} for p in self.places]
        return {"id": self.id, "kind": self.kind, **places[0], "places": places}


def plan(
    stage: Stage,
    rng: np.random.Generator,
    standing: dict[str, np.ndarray],
    crates: Sequence[str],
    strays: Sequence[str],
    spills: Sequence[str],
    free: Sequence[np.ndarray],
) -> list[Anomaly]:
    """Draw `COUNT` anomalies of different kinds that lie `APART`.

    standing: things on the floor and their places (2,); crates: loose things on the pallet; strays, spills: hidden
    bodies that may appear; free: places (2,) on the floor where something may be moved to.
    """
    weights = np.array(list(KINDS.values()))
    while True:
        kinds = rng.choice(list(KINDS), COUNT, replace=False, p=weights / weights.sum())
        anomalies = [_draw(stage, rng, str(kind), standing, crates, strays, spills, free) for kind in kinds]
        if all(_apart(a, b) for i, a in enumerate(anomalies) for b in anomalies[:i]):
            return anomalies


def _apart(first: Anomaly, second: Anomaly) -> bool:
    return all(np.linalg.norm(np.subtract(a.center, b.center)) > APART for a in first.places for b in second.places)


def _draw(stage: Stage, rng, kind: str, standing, crates, strays, spills, free) -> Anomaly:
    if kind == "missing":
        name = str(rng.choice([*standing, *crates[2:]]))  # the crates below another cannot vanish
        edits = (Edit(name, visible=False),)
    elif kind in ("added", "spill"):
        name = str(rng.choice(strays if kind == "added" else spills))
        edits = (Edit(name, visible=True),)
    elif kind == "moved":
        name = str(rng.choice(list(standing)))
        x, y = min(free, key=lambda place: np.linalg.norm(place - standing[name]))
        height = stage.model.body(name).pos[2]
        edits = (Edit(name, position=(float(x), float(y), float(height)), quaternion=_turn("z", rng.uniform(40, 140))),)
    elif kind == "recoloured":
        parts = ["pump1/motor", "pump2/motor", "pump1/volute", "pump2/volute", "pump1/guard", "pump2/guard"]
        name = str(rng.choice([*standing, *crates, *parts]))
        edits = (Edit(name, material=(name, f"{name} recoloured")),)
    elif kind == "door":
        name = "cabinet/door"
        edits = (Edit(name, quaternion=_turn("z", -rng.uniform(55, 115))),)
    elif kind == "valve":
        name = f"{rng.choice(['pump1', 'pump2'])}/valve"
        edits = (Edit(name, quaternion=_turn("x", rng.choice([-90, 90]))),)
    else:
        name = "tank/level"
        edits = (Edit(name, visible=False), Edit("tank/level low", visible=True))
    return Anomaly(f"{kind}: {name}", kind, edits, _places(stage, kind, name, edits))


def _turn(axis: str, degrees: float):
    return wxyz(Rotation.from_euler(axis, degrees, degrees=True))


def _places(stage: Stage, kind: str, name: str, edits) -> tuple[Place, ...]:
    """Where the anomaly is, and for what moved as a whole also where it was."""
    boxes = []
    for state in (edits, ()):
        stage.edit(state)
        low, high = stage.bounds(name)
        boxes.append((low, high))
    if kind != "moved":  # one place that holds both states
        boxes = [(np.minimum(boxes[0][0], boxes[1][0]), np.maximum(boxes[0][1], boxes[1][1]))]
    return tuple(Place(tuple(((a + b) / 2).tolist()), tuple((b - a).tolist())) for a, b in boxes)
