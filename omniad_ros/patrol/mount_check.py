"""Is the camera where it is said to be on the robot? With a wrong place, map -> odom turns and wanders with the robot's heading.

The refined poses and odometry of the last metres tell the camera's place themselves (hand-eye calibration, Tsai and Lenz, 1989): where
that explains them and the given one does not, it is proposed. Its height is not asked for: a robot on a floor never shows it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Pose, pose_of, rows_of

SavedMount = list[list[list[list[float]]]]
"""A `MountCheck` as JSON holds it: pairs of poses as rows of their (4, 4) matrices."""


@dataclass(frozen=True)
class MountCheckOptions:
    """When a place on the robot is called wrong.

    poses: that are kept; metres, degrees: from one to the next, of which one is needed; every: poses between two looks; turned: degrees
    that the robot must have turned in all, without which a place cannot be told; residual: metres by which the given
    place must fail to explain the poses; better: times that another one must explain them better; metre_degrees: degrees that
    count as much as a metre. Set by judgement: odometry that slips is explained by no place.
    """

    poses: int = 40
    metres: float = 0.1
    degrees: float = 5.0
    every: int = 12
    turned: float = 60.0
    residual: float = 0.03
    better: float = 3.0
    metre_degrees: float = 30.0


class MountCheck:
    """Looks at the last poses of one robot."""

    def __init__(self, options: MountCheckOptions | None = None):
        self.options = options or MountCheckOptions()
        self._poses: deque[tuple[Pose, Pose]] = deque(maxlen=self.options.poses)
        self.reset()

    def reset(self) -> None:
        self._poses.clear()
        self._since, self._reason = 0, ""

    def saved(self) -> SavedMount:
        """What `restore` needs to go on."""
        return [list(map(rows_of, pair)) for pair in self._poses]

    def restore(self, saved: Sequence) -> None:
        """Go on where another one was saved. Raises ValueError where a pose is none."""
        self.reset()
        self._poses.extend((pose_of(odometry), pose_of(camera)) for odometry, camera in saved)

    def __call__(self, odom_from_base: Pose | None, map_from_camera: Pose, base_from_camera: Pose) -> str:
        """One phrase where the given place of the camera is wrong, with that which fits; else empty. The poses are odometry's and the
        refined one of a frame."""
        options = self.options
        if odom_from_base is None:
            return ""
        if self._poses:
            moved, turned = self._poses[-1][0].distance(odom_from_base)
            if moved < options.metres and turned < options.degrees:
                return self._reason
        self._poses.append((odom_from_base, map_from_camera))
        self._since += 1
        if self._since >= options.every and self._turned() >= options.turned:
            self._since = 0
            self._reason = self._judged(base_from_camera)
        return self._reason

    def _turned(self) -> float:
        odometry = [odom for odom, _ in self._poses]
        return sum(a.distance(b)[1] for a, b in itertools.pairwise(odometry))

    def _judged(self, given: Pose) -> str:
        odometry, cameras = zip(*self._poses)
        as_given = _fit(odometry, cameras, given, False, self.options)
        if as_given.residual < self.options.residual:
            return ""
        other = _fit(odometry, cameras, given, True, self.options)
        if other.residual * self.options.better > as_given.residual:
            return ""
        xyz, rpy = _parameters(other.base_from_camera)
        return (
            f"the camera's place on the robot looks wrong: map -> odom moves with the robot by {as_given.residual:.2f} m; "
            f"camera_xyz {xyz} and camera_rpy {rpy} fit to {other.residual:.2f} m (the height cannot be told)"
        )


@dataclass(frozen=True)
class _Fit:
    """residual: metres, the root mean square of what positions and, weighed, directions fail to agree by."""

    base_from_camera: Pose
    residual: float


def _fit(
    odometry: Sequence[Pose], cameras: Sequence[Pose], start: Pose, free: bool, options: MountCheckOptions
) -> _Fit:
    """The map_from_odom, and the turn, x and y of the camera's place where that is ``free``, that explain refined poses by odometry."""
    base_r, base_t = _stacked(odometry)
    camera_r, camera_t = _stacked(cameras)
    metres = np.degrees(1.0) / options.metre_degrees
    first = cameras[0] @ start.inverse() @ odometry[0].inverse()

    def place(values: np.ndarray) -> Pose:
        if not free:
            return start
        turn = Rotation.from_rotvec(values[6:9]).as_matrix()
        return Pose(turn @ start.rotation, start.translation + np.array([values[9], values[10], 0.0]))

    def residuals(values: np.ndarray) -> np.ndarray:
        turn, mount = Rotation.from_rotvec(values[:3]).as_matrix() @ first.rotation, place(values)
        at = (base_t + base_r @ mount.translation) @ turn.T + first.translation + values[3:6]
        off = Rotation.from_matrix(np.swapaxes(turn @ base_r @ mount.rotation, 1, 2) @ camera_r).as_rotvec()
        return np.concatenate([(at - camera_t).ravel(), metres * off.ravel()])

    found = least_squares(residuals, np.zeros(11 if free else 6), loss="soft_l1", f_scale=0.05, max_nfev=30)
    off = residuals(found.x).reshape(2, -1, 3)
    return _Fit(place(found.x), float(np.sqrt(np.median((off**2).sum(axis=(0, 2))))))


def _stacked(poses: Sequence[Pose]) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (N, 3, 3) and translations (N, 3)."""
    return np.stack([pose.rotation for pose in poses]), np.stack([pose.translation for pose in poses])


def _parameters(base_from_camera: Pose) -> tuple[list[float], list[float]]:
    """camera_xyz in metres and camera_rpy in radians, rounded."""
    body = Rotation.from_matrix(base_from_camera.rotation @ BODY_FROM_OPTICAL.T)
    return [round(float(v), 2) for v in base_from_camera.translation], [
        round(float(v), 3) for v in body.as_euler("xyz")
    ]
