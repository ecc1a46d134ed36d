"""Aligning a reconstruction, known up to a similarity, with the survey's prior poses: metric scale, gravity, map frame.

Prior poses may be exact (rendered or surveyed) or drift (odometry), and single ones may be wrong, so the fit is robust
and uses orientations as well as positions: a robot that drives a straight line still fixes every degree of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from omniad_ros.geometry import Pose


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

    Raises ValueError where the camera hardly moved, so that the priors do not give the scale.
    """
    source = np.array([p.translation for p in poses])
    target = np.array([p.translation for p in priors])
    relative = Rotation.from_matrix(np.array([q.rotation @ p.rotation.T for p, q in zip(poses, priors)]))
    spread = np.linalg.norm(source - np.median(source, axis=0), axis=1).max(initial=0.0)
    if len(poses) < 2 or spread < 1e-9 or np.ptp(target, axis=0).max() < 1e-6:
        raise ValueError("the camera hardly moved, so the prior poses do not give the scale")

    rotation = _robust_mean(relative)
    turned = (source - np.median(source, axis=0)) @ rotation.as_matrix().T
    centred = target - np.median(target, axis=0)
    scale = (turned * centred).sum() / (turned**2).sum()
    if scale <= 0:  # orientations and positions contradict each other: let the positions start
        scale = np.linalg.norm(centred, axis=1).mean() / np.linalg.norm(turned, axis=1).mean()
    parameters = np.concatenate([[np.log(scale)], rotation.as_rotvec(), np.median(target, axis=0)])
    pivot = np.median(source, axis=0)

    def errors(x):
        turn = Rotation.from_rotvec(x[1:4])
        position = np.exp(x[0]) * turn.apply(source - pivot) + x[4:] - target
        return position, (relative.inv() * turn).as_rotvec()

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
    scale, turn = float(np.exp(parameters[0])), Rotation.from_rotvec(parameters[1:4]).as_matrix()
    return Similarity(
        scale, turn, parameters[4:] - scale * turn @ pivot,
        float(np.median(np.linalg.norm(position, axis=1))), float(np.degrees(np.median(np.linalg.norm(angle, axis=1)))),
    )  # fmt: skip


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


def _robust_mean(rotations: Rotation) -> Rotation:
    mean = rotations.mean()
    for _ in range(10):
        distance = (mean.inv() * rotations).magnitude()
        mean = rotations.mean(1.0 / np.maximum(distance, 1e-4 + 0.1 * np.median(distance)))
    return mean
