"""The patrol robot: differential drive with MuJoCo's wheel physics, a route follower, wheel odometry and a camera.

The robot has a physics world of its own (a floor, two driven wheels, a caster), so a step costs microseconds however
much stands in the room. Frames: ``base_link`` lies on the floor between the wheels, x forwards (REP 103); the odometry
frame is where the robot was at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import BODY_FROM_OPTICAL, Camera, Pose
from omniad_ros.lab.plantroom import PlantRoom

TIMESTEP = 0.004
TICKS = 4096
"""Encoder ticks a wheel turn."""


@dataclass(frozen=True)
class RobotOptions:
    """The robot as its makers describe it; each real one (seed) differs a little in wheel radius and separation.

    Metres, radians, metres a second; noise: standard deviation of the camera's noise in grey levels; tolerance:
    standard deviation of a real wheel's relative difference from the nominal one.
    """

    wheel_radius: float = 0.08
    wheel_separation: float = 0.36
    camera_height: float = 0.68
    camera_yaw: float = np.radians(90)
    camera_down: float = np.radians(9)
    speed: float = 0.25
    lookahead: float = 0.35
    noise: float = 1.5
    tolerance: float = 0.002


@dataclass(frozen=True)
class Route:
    """Points (N, 2) a few centimetres apart in the world; ``closed`` routes are driven lap after lap."""

    points: np.ndarray
    closed: bool

    @staticmethod
    def survey(seed: int) -> Route:
        """One and two fifths laps that widen as they go, weaving a little: views from two distances, and a closed loop."""
        rng = np.random.default_rng([seed, 10])
        angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2.8 * np.pi, 1200)
        half = np.linspace(2.4, 2.8, len(angle)) + 0.07 * np.sin(5 * angle + rng.uniform(0, 6.3))
        return Route(_around(angle, half), closed=False)

    @staticmethod
    def patrol(seed: int) -> Route:
        """A lap at another distance, with another weave and another start than the survey's."""
        rng = np.random.default_rng([seed, 11])
        angle = rng.uniform(0, 2 * np.pi) + np.linspace(0, 2 * np.pi, 800, endpoint=False)
        wave = 0.09 * np.sin(2 * angle + rng.uniform(0, 6.3)) + 0.05 * np.sin(7 * angle + rng.uniform(0, 6.3))
        return Route(_around(angle, 2.57 + wave), closed=True)

    def start(self) -> tuple[np.ndarray, float]:
        """Where the robot is put down: point (2,) and heading in radians."""
        ahead = self.points[3] - self.points[0]
        return self.points[0], float(np.arctan2(ahead[1], ahead[0]))


def _around(angle: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Points of a rounded square of half width ``half``, counter-clockwise, so that what lies left is the island."""
    reach = half / (np.abs(np.cos(angle)) ** 3 + np.abs(np.sin(angle)) ** 3) ** (1 / 3)
    return np.column_stack([reach * np.cos(angle), reach * np.sin(angle)])


class Simulation:
    """A robot that drives a route in a plant room. The seed (the world's by default) decides its wheels and noise."""

    def __init__(self, world: PlantRoom, route: Route, options: RobotOptions = RobotOptions(), seed: int | None = None):
        self.world, self.route, self.options = world, route, options
        rng = np.random.default_rng([world.seed if seed is None else seed, 20])
        radii = options.wheel_radius * (1 + options.tolerance * rng.normal(size=2))
        separation = options.wheel_separation * (1 + 2 * options.tolerance * rng.normal())
        self._noise = np.random.default_rng(rng.integers(1 << 62))
        self._model = mujoco.MjModel.from_xml_string(_robot_xml(radii, separation, route.start()))
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        self._target = 0
        self._pending = 0.0
        self._encoders = self._ticks()
        self._odometry = np.zeros(3)
        self._velocity = np.zeros(2)
        self.finished = False

    @property
    def time(self) -> float:
        """Seconds since the start."""
        return float(self._data.time)

    @property
    def camera(self) -> Camera:
        return self.world.camera

    @property
    def base_from_camera(self) -> Pose:
        """Where the camera sits: on a mast, looking left and a little down."""
        look = Rotation.from_euler("ZY", [self.options.camera_yaw, self.options.camera_down]).as_matrix()
        return Pose(look @ BODY_FROM_OPTICAL, np.array([0.0, 0.06, self.options.camera_height]))

    def step(self, dt: float) -> None:
        """Drive on for ``dt`` seconds."""
        self._pending += dt
        while self._pending >= TIMESTEP:
            self._pending -= TIMESTEP
            if round(self._data.time / TIMESTEP) % 5 == 0:  # the controller and the encoders run at 50 Hz
                self._steer()
                self._read_encoders()
            mujoco.mj_step(self._model, self._data)

    def odometry(self) -> tuple[Pose, float, float]:
        """(odom_from_base, m/s forwards, rad/s to the left), as the wheels' encoders tell."""
        x, y, heading = self._odometry
        pose = Pose(Rotation.from_euler("z", heading).as_matrix(), np.array([x, y, 0.0]))
        return pose, float(self._velocity[0]), float(self._velocity[1])

    def odometry_camera_pose(self) -> Pose:
        """odom_from_camera (optical): what a survey has for a prior pose."""
        return self.odometry()[0] @ self.base_from_camera

    def true_base_pose(self) -> Pose:
        """world_from_base."""
        rotation = self._data.body("base").xmat.reshape(3, 3).copy()
        return Pose(rotation, self._data.body("base").xpos.copy())

    def true_camera_pose(self) -> Pose:
        """world_from_camera (optical)."""
        return self.true_base_pose() @ self.base_from_camera

    def image(self) -> np.ndarray:
        """What the camera sees now, with sensor noise; uint8 RGB (H, W, 3)."""
        clean = self.world.image(self.true_camera_pose())
        return np.clip(clean + self._noise.normal(0, self.options.noise, clean.shape) + 0.5, 0, 255).astype(np.uint8)

    def ground_truth(self) -> np.ndarray:
        """uint8 (H, W) for the present view: 0 normal, 1 + i where the world's ``anomalies[i]`` shows."""
        return self.world.labels(self.true_camera_pose())

    def _steer(self) -> None:
        """Pure pursuit (Coulter, 1992). The robot's navigation is taken to know where it is; only odometry drifts."""
        options, points = self.options, self.route.points
        base = self.true_base_pose()
        for _ in range(len(points)):
            away = np.linalg.norm(points[self._target % len(points)] - base.translation[:2])
            if away >= options.lookahead or self.finished:
                break
            self._target += 1
            self.finished = not self.route.closed and self._target >= len(points) - 1
        goal = np.append(points[self._target % len(points)], 0.0) - base.translation
        across = float((base.rotation.T @ goal)[1])
        speed = 0.0 if self.finished else options.speed
        turn = speed * 2 * across / max(float(goal @ goal), 1e-6)
        half = options.wheel_separation / 2
        self._data.ctrl[:] = np.array([speed - turn * half, speed + turn * half]) / options.wheel_radius

    def _ticks(self) -> np.ndarray:
        angles = [self._data.joint(name).qpos[0] for name in ("left", "right")]
        return np.floor(np.array(angles) * TICKS / (2 * np.pi))

    def _read_encoders(self) -> None:
        ticks = self._ticks()
        left, right = (ticks - self._encoders) * 2 * np.pi / TICKS * self.options.wheel_radius
        self._encoders = ticks
        forward, turn = (left + right) / 2, (right - left) / self.options.wheel_separation
        x, y, heading = self._odometry
        middle = heading + turn / 2
        self._odometry = np.array([x + forward * np.cos(middle), y + forward * np.sin(middle), heading + turn])
        self._velocity = 0.8 * self._velocity + 0.2 * np.array([forward, turn]) / (5 * TIMESTEP)


def _robot_xml(radii: np.ndarray, separation: float, start: tuple[np.ndarray, float]) -> str:
    (x, y), heading = start
    wheel = """<body name="{name}" pos="0 {y} {r}"><joint name="{name}" axis="0 1 0" damping="0.02"/>
      <geom type="cylinder" size="{r} 0.018" euler="90 0 0" mass="0.6" friction="0.9 0.005 0.0001"/></body>"""
    wheels = [
        wheel.format(name=n, y=s * separation / 2, r=r)
        for n, s, r in zip(("left", "right"), (1, -1), radii, strict=True)
    ]
    return f"""<mujoco>
      <option timestep="{TIMESTEP}" integrator="implicitfast"/>
      <worldbody>
        <geom type="plane" size="0 0 1" friction="0.9 0.005 0.0001"/>
        <body name="base" pos="{x} {y} 0" euler="0 0 {np.degrees(heading)}">
          <freejoint/>
          <geom type="box" size="0.2 0.13 0.06" pos="-0.05 0 0.13" mass="12" contype="0" conaffinity="0"/>
          <geom type="capsule" size="0.02 0.25" pos="0 0.06 0.42" mass="0.8" contype="0" conaffinity="0"/>
          <geom type="sphere" size="0.04" pos="-0.2 0 0.04" mass="0.3" friction="0.01 0.001 0.0001" priority="1"/>
          {"".join(wheels)}
        </body>
      </worldbody>
      <actuator>
        <velocity joint="left" kv="4" forcerange="-6 6"/><velocity joint="right" kv="4" forcerange="-6 6"/>
      </actuator>
    </mujoco>"""
