"""Camera and Pose: the only place where conventions are converted.

Inside the package a pose is ``map_from_camera`` in the optical convention (x right, y down, z forward), in metres,
and pixel centres are at half-integers as in COLMAP: the centre of the top left pixel is (0.5, 0.5).
Everything else (OpenGL/nerfstudio, COLMAP's ``cam_from_world``, OpenCV's and ROS's integer pixel centres) is
converted here, at a wing's boundary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

OPENGL_FROM_OPTICAL = np.diag([1.0, -1.0, -1.0])
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation from the optical convention to REP 103's body convention (x forward, y left, z up)."""

MAX_DISTANCE = 1e7
"""Metres: farther away than any place on earth."""
MOST_DISTORTED = 20.0
"""How many times farther from the middle a lens shows a corner than a pinhole would, at most; fisheyes show it nearer."""
DISTORTION_MODELS = ("none", "plumb_bob", "rational_polynomial", "equidistant")


@dataclass(frozen=True)
class Pose:
    """A rigid transform, by default ``map_from_camera`` (optical): ``x_map = rotation @ x_camera + translation``.

    rotation: (3, 3) float64, orthonormal; translation: (3,) float64, metres.
    """

    rotation: np.ndarray
    translation: np.ndarray

    @staticmethod
    def identity() -> Pose:
        return Pose(np.eye(3), np.zeros(3))

    @staticmethod
    def from_matrix(matrix: np.ndarray) -> Pose:
        """From a (3, 4) or (4, 4) matrix; the rotation is projected to the nearest orthonormal one.

        Raises ValueError where the matrix is not finite, its left part is no rotation, or it leads off the earth.
        """
        matrix = np.asarray(matrix, dtype=np.float64)
        if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
            raise ValueError("a pose must be a finite 3x4 or 4x4 matrix")
        if np.abs(matrix[:3]).max() > MAX_DISTANCE:
            raise ValueError("a pose is farther away than any place on earth")
        u, singular, vt = np.linalg.svd(matrix[:3, :3])
        if np.linalg.det(u @ vt) < 0 or singular.min() < 0.9 or singular.max() > 1.1:
            raise ValueError("the left 3x3 part of a pose must be a rotation")
        return Pose(u @ vt, matrix[:3, 3].copy())

    @staticmethod
    def from_quaternion(translation, xyzw) -> Pose:
        """From a translation (3,) and a quaternion (x, y, z, w), as in ROS. Raises ValueError if not near unit."""
        xyzw = np.asarray(xyzw, dtype=np.float64)
        translation = np.asarray(translation, dtype=np.float64)
        if not (np.isfinite(xyzw).all() and np.isfinite(translation).all()):
            raise ValueError("a pose must be finite")
        if abs(np.linalg.norm(xyzw) - 1.0) > 0.01:
            raise ValueError("the quaternion of a pose must have unit length")
        return Pose(Rotation.from_quat(xyzw).as_matrix(), translation)

    @staticmethod
    def from_opengl(matrix: np.ndarray) -> Pose:
        """From nerfstudio's camera-to-world (x right, y up, z backward)."""
        pose = Pose.from_matrix(matrix)
        return Pose(pose.rotation @ OPENGL_FROM_OPTICAL, pose.translation)

    @staticmethod
    def look_at(eye, target, up=(0.0, 0.0, 1.0)) -> Pose:
        """A camera at ``eye`` that looks at ``target``; the image's up is ``up`` (map z by default)."""
        eye, forward = np.asarray(eye, float), np.asarray(target, float) - np.asarray(eye, float)
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, np.asarray(up, float))
        right = right / np.linalg.norm(right)
        return Pose(np.stack([right, np.cross(forward, right), forward], axis=1), eye)

    def matrix(self) -> np.ndarray:
        """(4, 4) homogeneous matrix."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.rotation, self.translation
        return matrix

    def opengl(self) -> np.ndarray:
        """(4, 4) camera-to-world in nerfstudio's convention (x right, y up, z backward)."""
        return Pose(self.rotation @ OPENGL_FROM_OPTICAL, self.translation).matrix()

    def quaternion(self) -> np.ndarray:
        """(4,) quaternion x, y, z, w, as in ROS."""
        return Rotation.from_matrix(self.rotation).as_quat()

    def inverse(self) -> Pose:
        """For ``map_from_camera`` this is COLMAP's ``cam_from_world``."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: Pose) -> Pose:
        return Pose(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Transform points (..., 3)."""
        return points @ self.rotation.T + self.translation

    def distance(self, other: Pose) -> tuple[float, float]:
        """Distance to another pose: (metres, degrees)."""
        angle = Rotation.from_matrix(self.rotation.T @ other.rotation).magnitude()
        return float(np.linalg.norm(self.translation - other.translation)), float(np.degrees(angle))

    def interpolate(self, other: Pose, fraction: float) -> Pose:
        """The pose ``fraction`` of the way to ``other``: linear in translation, slerp in rotation."""
        slerp = Slerp([0.0, 1.0], Rotation.from_matrix(np.stack([self.rotation, other.rotation])))
        translation = self.translation + fraction * (other.translation - self.translation)
        return Pose(slerp(np.clip(fraction, 0.0, 1.0)).as_matrix(), translation)


@dataclass(frozen=True, eq=False)
class Box:
    """Along the axes of the map: its corners low and high, (3,) metres."""

    low: np.ndarray
    high: np.ndarray

    def grown(self, metres: float) -> Box:
        """The same, larger by so much on each side."""
        return Box(self.low - metres, self.high + metres)

    def holds(self, points: np.ndarray) -> np.ndarray:
        """bool (...): which of the points (..., 3) lie in it."""
        return ((points >= self.low) & (points <= self.high)).all(-1)

    def span(self, eye: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far along ``directions`` (..., 3) rays from ``eye`` (3,) enter it, 0 at the least, and leave it, both (...): they meet
        it where they leave it later than they enter it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second = (self.low - eye) / directions, (self.high - eye) / directions
            start = np.maximum(np.nanmax(np.minimum(first, second), axis=-1), 0.0)
            return start, np.nanmin(np.maximum(first, second), axis=-1)

    def corners(self) -> np.ndarray:
        """(8, 3)."""
        return np.array(np.meshgrid(*zip(self.low, self.high, strict=True))).reshape(3, -1).T


def rows_of(pose: Pose | None) -> list[list[float]] | None:
    """A pose's (4, 4) matrix as JSON holds it; None for None."""
    return None if pose is None else pose.matrix().tolist()


def pose_of(rows: list[list[float]] | None) -> Pose | None:
    """What `rows_of` was given. Raises ValueError where the rows are no pose."""
    return None if rows is None else Pose.from_matrix(np.array(rows))


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a camera in pixels, with pixel centres at half-integers.

    ``distortion`` holds OpenCV's coefficients for ``distortion_model``: k1 k2 p1 p2 [k3] for ``plumb_bob``,
    k1 k2 p1 p2 k3 k4 k5 k6 for ``rational_polynomial``, k1 k2 k3 k4 for ``equidistant`` (fisheye).
    Sites, maps and fields only ever see cameras without distortion.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = "none"
    distortion: tuple[float, ...] = ()

    def __post_init__(self):
        if self.width < 1 or self.height < 1:
            raise ValueError("a camera needs a width and a height of at least one pixel")
        if not np.isfinite([self.fx, self.fy, self.cx, self.cy, *self.distortion]).all():
            raise ValueError("a camera's intrinsics must be finite")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError("a camera's focal length must be positive")
        if self.distortion_model not in DISTORTION_MODELS:
            raise ValueError(
                f"unknown distortion model '{self.distortion_model}', known: {', '.join(DISTORTION_MODELS)}"
            )

    @staticmethod
    def from_fov(width: int, height: int, horizontal_radians: float) -> Camera:
        """A pinhole camera with square pixels and the principal point in the middle."""
        focal = 0.5 * width / np.tan(0.5 * horizontal_radians)
        return Camera(width, height, focal, focal, width / 2, height / 2)

    @staticmethod
    def from_opencv(width: int, height: int, k: np.ndarray, distortion_model: str = "none", distortion=()) -> Camera:
        """From OpenCV's or ROS's K (3, 3), whose pixel centres are at integers. Raises ValueError if K is singular."""
        k = np.asarray(k, dtype=np.float64).reshape(3, 3)
        distortion = tuple(float(d) for d in distortion)
        if distortion_model == "equidistant":
            # also with zero coefficients it is no pinhole
            distortion = (*distortion, 0.0, 0.0, 0.0, 0.0)[:4]
        elif not any(distortion):
            distortion_model, distortion = "none", ()
        return Camera(width, height, k[0, 0], k[1, 1], k[0, 2] + 0.5, k[1, 2] + 0.5, distortion_model, distortion)

    @staticmethod
    def from_dict(data: dict) -> Camera:
        return Camera(**{**data, "distortion": tuple(data.get("distortion", ()))})

    def to_dict(self) -> dict:
        return asdict(self)

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy; pixel centres at half-integers."""
        return float(self.fx), float(self.fy), float(self.cx), float(self.cy)

    def matrix(self) -> np.ndarray:
        """K (3, 3) for pixel centres at half-integers."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def opencv_matrix(self) -> np.ndarray:
        """K (3, 3) for OpenCV and ROS, whose pixel centres are at integers."""
        k = self.matrix()
        k[:2, 2] -= 0.5
        return k

    def resized(self, width: int, height: int) -> Camera:
        """The same camera with its image resized."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=self.cx * sx, cy=self.cy * sy
        )

    def fitted(self, longest_side: int) -> Camera:
        """The same camera, resized down so that its longest side is at most ``longest_side`` pixels."""
        scale = min(1.0, longest_side / max(self.width, self.height))
        return self.resized(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def project(self, points_camera: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 3) in the camera frame; no distortion; NaN at or behind the camera."""
        z = np.where(points_camera[..., 2] > 1e-9, points_camera[..., 2], np.nan)
        u = self.fx * points_camera[..., 0] / z + self.cx
        return np.stack([u, self.fy * points_camera[..., 1] / z + self.cy], axis=-1)

    def directions(self) -> np.ndarray:
        """(H, W, 3) float64: through each pixel centre, in the camera frame, with z = 1 (so depth * direction is the point)."""
        u = (np.arange(self.width) + 0.5 - self.cx) / self.fx
        v = (np.arange(self.height) + 0.5 - self.cy) / self.fy
        return np.stack([*np.meshgrid(u, v), np.ones((self.height, self.width))], axis=-1)

    def check_distortion(self) -> None:
        """Raise ValueError where no lens distorts so: a corner of the image would come to lie many images away."""
        u, v = np.array([0.0, self.width]) - self.cx, np.array([0.0, self.height]) - self.cy
        squared = np.add.outer((u / self.fx) ** 2, (v / self.fy) ** 2)
        k = np.zeros(8)
        k[: min(len(self.distortion), 8)] = self.distortion[:8]
        with np.errstate(all="ignore"):
            if self.distortion_model == "equidistant":
                angle = np.arctan(np.sqrt(squared)) ** 2
                factor = 1 + angle * (k[0] + angle * (k[1] + angle * (k[2] + angle * k[3])))
            else:
                factor = (1 + squared * (k[0] + squared * (k[1] + squared * k[4]))) / (
                    1 + squared * (k[5] + squared * (k[6] + squared * k[7]))
                )
            factor = np.abs(factor) + 3 * np.abs(k[2:4]).max() * np.sqrt(squared) * (
                self.distortion_model != "equidistant"
            )
        if not (factor < MOST_DISTORTED).all():
            raise ValueError("its distortion is that of no lens")

    def check_pinhole(self) -> None:
        """Raise ValueError where this can be no real camera without distortion: what is rendered for it would be without end."""
        side = max(self.width, self.height)
        lens = min(self.fx, self.fy) > side / 100 and max(self.fx, self.fy) < 1000 * side
        if not lens or max(abs(self.cx), abs(self.cy)) > 10 * side or self.distortion_model != "none":
            raise ValueError("its intrinsics are those of no camera without distortion")

    def undistorted(self) -> Camera:
        """The pinhole camera that `Rectifier` maps this one's images to (same size and K, no distortion)."""
        return replace(self, distortion_model="none", distortion=())


class Rectifier:
    """Removes a camera's lens distortion from its images, and brings them to another camera where one is given; the maps are
    computed once."""

    def __init__(self, camera: Camera, target: Camera | None = None):
        import cv2

        self.camera = target or camera.undistorted()
        self.maps = None
        if camera == self.camera:
            return
        size, k, d = (self.camera.width, self.camera.height), camera.opencv_matrix(), np.array(camera.distortion)
        undistort = (
            cv2.fisheye.initUndistortRectifyMap
            if camera.distortion_model == "equidistant"
            else cv2.initUndistortRectifyMap
        )
        self.maps = undistort(k, d, np.eye(3), self.camera.opencv_matrix(), size, cv2.CV_16SC2)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Rectified copy of an image (H, W[, C]); the image itself where there is no distortion."""
        import cv2

        return image if self.maps is None else cv2.remap(image, *self.maps, cv2.INTER_LINEAR)


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Least-squares similarity ``target ≈ scale * rotation @ source + translation`` of points (N, 3) (Umeyama, 1991).

    Returns (scale, rotation (3, 3), translation (3,)). Raises ValueError where the points do not determine it.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    variance = (a**2).sum()
    if len(source) < 3 or variance < 1e-12 or singular[1] < 1e-9 * max(singular[0], 1e-12):
        raise ValueError("the points do not determine a similarity: they are fewer than three or on one line")
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((singular * sign).sum() / variance)
    return scale, rotation, target_mean - scale * rotation @ source_mean
