"""Aligning a reconstruction, known up to a similarity, with the survey's prior poses: metric scale, gravity, map frame.

Prior poses may be exact (rendered or surveyed) or drift (odometry), and single ones may be wrong, so the fit is robust
and uses orientations as well as positions: a robot that drives a straight line still fixes every degree of freedom.
The scale comes from motions rather than from places: a path that drift has opened or closed is longer or shorter across,
but its steps are as long as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import Pose


@dataclass(frozen=True)
class Similarity:
    """``x_map = scale * rotation @ x + translation``, and how well it fits.

    position_error: median metres, rotation_error: median degrees, between aligned and prior poses.
    """

    scale: float
    rotation: np.ndarray
    translation: np.ndarray
    position_error: float = 0.0
    rotation_error: float = 0.0

    def apply(self, pose: Pose) -> Pose:
        return Pose(self.rotation @ pose.rotation, self.scale * self.rotation @ pose.translation + self.translation)


def align_poses(poses: Sequence[Pose], priors: Sequence[Pose]) -> Similarity:
    """Robust similarity that brings ``poses`` (any scale and frame) onto ``priors`` (metres, map frame).

    Both in the order in which they were taken, where that is known: the scale is read from motions along the path.

    Raises ValueError where the camera hardly moved, so that the priors do not give the scale.
    """
    source = np.array([p.translation for p in poses])
    target = np.array([p.translation for p in priors])
    relative = Rotation.from_matrix(np.array([q.rotation @ p.rotation.T for p, q in zip(poses, priors)]))
    spread = np.linalg.norm(source - np.median(source, axis=0), axis=1).max(initial=0.0)
    if len(poses) < 2 or spread < 1e-9 or np.ptp(target, axis=0).max() < 1e-6:
        raise ValueError("the camera hardly moved, so the prior poses do not give the scale")

    rotation = robust_mean(relative)
    scale = _scale(poses, priors)
    if scale is None:  # orientations and positions contradict each other: their extents say it
        scale = np.linalg.norm(target - np.median(target, axis=0), axis=1).mean()
        scale /= np.linalg.norm(source - np.median(source, axis=0), axis=1).mean()
    pivot = np.median(source, axis=0)
    parameters = np.concatenate([rotation.as_rotvec(), np.median(target, axis=0)])

    def errors(x):
        turn = Rotation.from_rotvec(x[:3])
        return scale * turn.apply(source - pivot) + x[3:] - target, (relative.inv() * turn).as_rotvec()

    for _ in range(3):
        position, angle = errors(parameters)
        # the two kinds of error are weighed by their own spread, estimated again after each fit
        position_sigma = max(np.median(np.linalg.norm(position, axis=1)), 1e-9 * np.ptp(target, axis=0).max())
        angle_sigma = max(np.median(np.linalg.norm(angle, axis=1)), 1e-9)

        def residuals(x, position_sigma=position_sigma, angle_sigma=angle_sigma):
            position, angle = errors(x)
            return np.concatenate([(position / position_sigma).ravel(), (angle / angle_sigma).ravel()])

        parameters = least_squares(residuals, parameters, loss="soft_l1", x_scale="jac", xtol=1e-12, ftol=1e-12).x
    position, angle = errors(parameters)
    turn = Rotation.from_rotvec(parameters[:3]).as_matrix()
    return Similarity(
        scale, turn, parameters[3:] - scale * turn @ pivot,
        float(np.median(np.linalg.norm(position, axis=1))), float(np.degrees(np.median(np.linalg.norm(angle, axis=1)))),
    )  # fmt: skip


def _scale(poses: Sequence[Pose], priors: Sequence[Pose]) -> float | None:
    """Metres a unit, from motions seen from the camera: over as many steps as make it most certain. None if not positive.

    Over few steps a prior's own noise weighs most, over many its drift. The first shows in how much the motions disagree;
    of a path that turns by ``a``, another turn ``d`` too many makes the chord shorter by about ``a d / 12``.
    """
    ours, theirs = list(poses), list(priors)
    found = []
    steps = 1
    while steps < len(ours):
        moves, prior_moves = (
            np.array([a.rotation.T @ (b.translation - a.translation) for a, b in zip(path, path[steps:])])
            for path in (ours, theirs)
        )
        turns, prior_turns = (
            Rotation.from_matrix([a.rotation.T @ b.rotation for a, b in zip(path, path[steps:])])
            for path in (ours, theirs)
        )
        length = np.linalg.norm(moves, axis=1)
        moved = length > 1e-9 * length.max()
        if moved.any():
            length = length[moved]
            ratio = (moves[moved] * prior_moves[moved]).sum(1) / length**2
            scale = _weighted_median(ratio, length)
            spread = 1.4826 * np.median(np.abs(ratio - scale) * length)
            independent = max(len(length) / steps, 1)  # motions that overlap share their errors
            noise = spread / np.sqrt((length**2).mean() * independent)
            drift = scale / 12 * np.median(turns.magnitude()) * np.median((turns.inv() * prior_turns).magnitude())
            if scale > 0:
                found.append((np.hypot(noise, drift), steps, scale))
        steps *= 2
    return float(min(found)[2]) if found else None


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])


def upright(poses: Sequence[Pose], points: np.ndarray) -> Similarity:
    """A similarity for a reconstruction without prior poses: z up as the cameras were held, median depth 1, origin amid.

    points: (P, 3) reconstructed points. "Up" is the direction to which the images' x axes are most perpendicular,
    on the side to which the images' upper edges point.
    """
    rotations = np.array([p.rotation for p in poses])
    centres = np.array([p.translation for p in poses])
    x_axes, up_axes = rotations[:, :, 0], -rotations[:, :, 1]
    scatter = x_axes.T @ x_axes / len(poses) - 1e-3 * up_axes.T @ up_axes / len(poses)
    up = np.linalg.eigh(scatter)[1][:, 0]
    up *= np.sign(up @ up_axes.mean(0)) or 1.0
    forward = rotations[:, :, 2].mean(0)
    side = np.cross(up, forward if np.linalg.norm(np.cross(up, forward)) > 1e-3 else rotations[0, :, 0])
    side /= np.linalg.norm(side)
    turn = np.stack([np.cross(side, up), side, up])
    middle = np.median(points, axis=0)
    scale = 1.0 / max(np.median(np.linalg.norm(centres - middle, axis=1)), 1e-9)
    return Similarity(float(scale), turn, -scale * turn @ middle)


def robust_mean(rotations: Rotation) -> Rotation:
    mean = rotations.mean()
    for _ in range(10):
        distance = (mean.inv() * rotations).magnitude()
        mean = rotations.mean(1.0 / np.maximum(distance, 1e-4 + 0.1 * np.median(distance)))
    return mean
