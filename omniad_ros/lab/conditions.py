"""The conditions under which a place is photographed: other lamps, exposure and white balance, motion blur, noise, JPEG, passers-by.

A simulator's pictures are all taken in one light by a camera that stands still. Those of a real patrol are not, and a detector
that was only measured on the former fails there. All conditions are off by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.geometry import Camera, Pose

GAMMA = 2.2
GREY = 0.2
"""Mean of linear light that automatic exposure aims at: the usual 18 % of a grey card, and a little for its headroom."""
STEP = 1.0
"""Pixels that the picture moves from one rendering of a blurred frame to the next: less cannot be seen."""


@dataclass(frozen=True)
class Conditions:
    """What differs between the pictures of one place.

    lamps: how far each patrol frame's lamps are from the survey's, 0 (the same) to 1 (from any side, half or twice as bright,
    of a candle's or the sky's colour); exposure: how far every picture's exposure and white balance are set by what it shows,
    0 to 1 (a camera's automatic); blurred: share of the patrol's frames that are blurred by motion, and motion: over how much
    of the picture's width, least and most; transients: share of the survey's pictures in which something stands that is no
    part of the place; noise: standard deviation of the sensor's noise in grey levels; jpeg: quality of the files, None for PNG.
    """

    lamps: float = 0.0
    exposure: float = 0.0
    blurred: float = 0.0
    motion: tuple[float, float] = (0.008, 0.022)
    transients: float = 0.0
    noise: float = 1.0
    jpeg: int | None = None


@dataclass(frozen=True)
class Lamps:
    """Lamps, relative to the normal ones. turn: of all of them about the scene's middle; strength: (3,) of each colour;
    ambient: (3,) the same of the light from everywhere."""

    turn: Rotation
    strength: np.ndarray
    ambient: np.ndarray

    @staticmethod
    def drawn(rng: np.random.Generator, far: float) -> Lamps:
        """Other lamps; far: see `Conditions.lamps`."""
        tilt = Rotation.from_euler("x", far * rng.uniform(-20, 20), degrees=True)
        turn = Rotation.from_euler("z", far * rng.uniform(-180, 180), degrees=True) * tilt
        warmth = far * rng.uniform(-1, 1)
        tint = np.array([1 + 0.2 * warmth, 1.0, 1 - 0.3 * warmth])
        strength, ambient = np.exp(far * np.array([rng.uniform(-0.7, 0.5), rng.uniform(-0.4, 0.3)]))
        return Lamps(turn, strength * tint, ambient * tint)


@dataclass(frozen=True)
class Motion:
    """How the camera moves while the shutter is open. turn: (3,) rotation vector in the camera's frame; steps: renderings."""

    turn: np.ndarray
    steps: int

    @staticmethod
    def drawn(rng: np.random.Generator, conditions: Conditions, camera: Camera) -> Motion:
        pixels = rng.uniform(*conditions.motion) * camera.width
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.array([np.cos(angle), np.sin(angle), rng.uniform(-0.3, 0.3)])
        return Motion(axis * pixels / camera.fx, int(np.ceil(pixels / STEP)) + 1)

    def poses(self, pose: Pose) -> list[Pose]:
        """Where the camera is during the exposure; ``pose`` is the middle."""
        parts = np.linspace(-0.5, 0.5, self.steps)
        return [Pose(pose.rotation @ Rotation.from_rotvec(p * self.turn).as_matrix(), pose.translation) for p in parts]

    def image(self, render: Callable[[Pose], np.ndarray], pose: Pose) -> np.ndarray:
        """The mean of the light of all renderings, uint8 (H, W, 3)."""
        return displayed(np.mean([linear(render(p)) for p in self.poses(pose)], axis=0))


def linear(image: np.ndarray) -> np.ndarray:
    """Light in [0, 1], float32, of a picture uint8."""
    return (image.astype(np.float32) / 255) ** GAMMA


def displayed(light: np.ndarray) -> np.ndarray:
    """The picture uint8 of light; what is above 1 is burnt out."""
    return np.round(255 * np.clip(light, 0, 1) ** (1 / GAMMA)).astype(np.uint8)


def exposed(rng: np.random.Generator, image: np.ndarray, strength: float) -> np.ndarray:
    """A rendering uint8 (H, W, 3) as an automatic camera exposes and white-balances it; strength: `Conditions.exposure`."""
    light = linear(image)
    channels = light.reshape(-1, 3).mean(0)
    grey = channels.mean()
    wanted = rng.normal(0, 0.15) + 0.8 * np.log(GREY / max(grey, 1e-3))
    balance = rng.normal(0, 0.02, 3) + 0.6 * np.log(grey / np.maximum(channels, 1e-3))
    return displayed(light * np.float32(np.exp(strength * (wanted + balance))))


def noisy(rng: np.random.Generator, image: np.ndarray, deviation: float) -> np.ndarray:
    """An image uint8 with the sensor's noise; deviation: `Conditions.noise`."""
    return np.clip(np.round(image + rng.normal(0, deviation, image.shape)), 0, 255).astype(np.uint8)
