"""Whether prior poses belong to a map: the misfit after alignment, and what it looks like where it is large.

Odometry drifts, and is used all the same. Poses in another convention (OpenCV's axes for nerfstudio's, camera-from-world for
world-from-camera, positions in other axes than rotations) fit nothing, and any scale that they gave would be wrong. They are
not converted in silence: the usual conventions are tried only to tell the user which one it looks like.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, OPENGL_FROM_OPTICAL, Pose
from omniad_ros.mapping.alignment import Similarity, align_poses, robust_mean

TRIED = 200
"""So many poses are enough to recognise a convention."""
LOOKED_AT = 5000
"""So many points of a map are enough to tell how far away things are."""


@dataclass(frozen=True)
class PriorLimits:
    """From where on prior poses are not believed.

    degrees: median rotation between aligned and prior poses; share: median distance between them, of the prior path's
    median distance from its middle. The odometry of the plant rooms' robots has up to 7 degrees and 0.14 (seeds 0, 3, 5), one
    that turns by 10 % too much over 1.4 rounds 13 and 0.27; poses in a wrong convention have 60 to 180 degrees, or a share of
    about 1 (simulated paths: a round, an orbit, a straight line, a corridor there and back).
    drifted: degrees up to which a heading may drift over many rounds, if the motions over an eighth of the path keep to
    ``degrees`` and ``share``, and the places are off by no more than such a heading explains.
    metres: typical distance from a camera to what it sees; a robot's is less, an indoor survey's in centimetres is not.
    """

    degrees: float = 20.0
    share: float = 0.35
    drifted: float = 60.0
    metres: float = 50.0


@dataclass(frozen=True)
class PriorFit:
    """alignment: of the map with the prior poses, None where they do not give one; doubt: a sentence that says why."""

    alignment: Similarity | None
    doubt: str = ""


def fit_priors(poses: Sequence[Pose], priors: Sequence[Pose], limits: PriorLimits) -> PriorFit:
    """Align a map's poses (any scale and frame) with the prior ones (metres), where these belong to it.

    Both in the order in which they were taken.
    """
    if len(poses) < 2:
        return PriorFit(None)
    try:
        fit = align_poses(poses, priors)
    except ValueError:
        return PriorFit(
            None, "the prior poses all lie at one place although the camera moved, so the map's scale is not taken from them"
        )  # fmt: skip
    if _belong(poses, priors, fit, limits):
        return PriorFit(fit)
    share = fit.position_error / _extent(priors)
    misfit = f"rotations by {fit.rotation_error:.0f} degrees, positions by {100 * share:.0f} % of the path's extent"
    cause = _likely_cause(poses, priors, limits)
    return PriorFit(
        None,
        f"the prior poses do not fit the images (aligned with the map they are off: {misfit}), so the map's scale is not taken from "
        f"them; {cause or 'check that they are world-from-camera, in metres, and of these images'}",
    )


def doubtful_unit(model: pycolmap.Reconstruction, limits: PriorLimits) -> str:
    """A sentence where a map in "metres" is too large to be in metres, otherwise empty."""
    registered = set(model.reg_image_ids())
    away = [
        np.linalg.norm(point.xyz - model.images[seen.image_id].projection_center())
        for point in itertools.islice(model.points3D.values(), LOOKED_AT)
        for seen in point.track.elements[:1]
        if seen.image_id in registered
    ]
    typical = float(np.median(away)) if away else 0.0
    if typical < limits.metres:
        return ""
    return (
        f"by the prior poses what the cameras see lies typically {typical:,.0f} m away: if they are in millimetres or "
        "centimetres, convert them to metres"
    )


def _belong(poses: Sequence[Pose], priors: Sequence[Pose], fit: Similarity, limits: PriorLimits) -> bool:
    share = fit.position_error / _extent(priors)
    if fit.rotation_error < limits.degrees and share < limits.share:
        return True
    if fit.rotation_error > limits.drifted or share > 2 * np.radians(fit.rotation_error):
        return False
    steps = max(len(poses) // 8, 1)
    ours, theirs = ([a.inverse() @ b for a, b in zip(path, path[steps:])] for path in (poses, priors))
    turned = np.median([a.distance(b)[1] for a, b in zip(ours, theirs)])
    moves, prior_moves = (np.array([motion.translation for motion in motions]) for motions in (ours, theirs))
    off = np.median(np.linalg.norm(fit.scale * moves - prior_moves, axis=1))
    return turned < limits.degrees and off < limits.share * np.median(np.linalg.norm(prior_moves, axis=1))


def _extent(poses: Sequence[Pose]) -> float:
    places = np.array([p.translation for p in poses])
    return max(float(np.median(np.linalg.norm(places - np.median(places, axis=0), axis=1))), 1e-9)


def _likely_cause(poses: Sequence[Pose], priors: Sequence[Pose], limits: PriorLimits) -> str:
    """What the first convention in which the priors fit is called, and what to do; empty where none does."""
    step = -(-len(poses) // TRIED)
    poses, priors = poses[::step], priors[::step]
    ours = Rotation.from_matrix([p.rotation for p in poses])
    for said, change in _conventions():
        changed = [change(p) for p in priors]
        relative = Rotation.from_matrix([p.rotation for p in changed]) * ours.inv()
        if np.degrees(np.median((robust_mean(relative).inv() * relative).magnitude())) > limits.degrees:
            continue
        try:
            fit = align_poses(poses, changed)
        except ValueError:
            continue
        if _belong(poses, changed, fit, limits):
            return said
    return ""


def _conventions() -> Iterator[tuple[str, Callable[[Pose], Pose]]]:
    """Ways in which poses are given wrongly, the usual ones first, and how to undo each (up to a rotation of the world).

    Only what a rotation of the world does not mend is a misfit: of a world with y up nothing is seen here, unless the positions
    are in it and the rotations are not.
    """
    flipped = OPENGL_FROM_OPTICAL
    optical = (
        "they look like OpenCV's axes (y down, z forward) where nerfstudio's (y up, z backward) are meant, or the other way "
        "round; convert them to nerfstudio's"
    )
    body = "they look like the axes of the robot's body (x forward, z up); convert them to the camera's"
    inverted = "they look inverted (camera-from-world); convert them to world-from-camera"
    mirrored = "they look left-handed; convert them to right-handed axes"
    turned = "their cameras' axes look exchanged (x, y and z of another convention); convert them"
    placed = "their positions look given in other axes than their rotations (such as y up and z up); convert them to one world"
    mirror = np.diag([-1.0, 1.0, 1.0])
    yield optical, lambda p: Pose(p.rotation @ flipped, p.translation)
    for axes in (np.eye(3), flipped):
        yield inverted, lambda p, axes=axes: Pose(p.rotation.T @ axes, -p.rotation.T @ p.translation)
        yield body, lambda p, axes=axes: Pose(p.rotation @ axes @ BODY_FROM_OPTICAL, p.translation)
    signed = [
        np.diag(signs) @ np.eye(3)[list(order)]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]
    proper = [axes for axes in signed if np.linalg.det(axes) > 0]
    for axes in signed:
        yield placed, lambda p, axes=axes: Pose(p.rotation, axes @ p.translation)
    for axes in proper:
        yield turned, lambda p, axes=axes: Pose(p.rotation @ axes, p.translation)
    for axes in proper:
        yield inverted, lambda p, axes=axes: Pose(p.rotation.T @ axes, -p.rotation.T @ p.translation)
    for axes in proper:
        yield mirrored, lambda p, axes=axes: Pose(mirror @ p.rotation @ mirror @ axes, mirror @ p.translation)
