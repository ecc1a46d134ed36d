"""What a radiance field hands out: colour and depth of the normal place from any pose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from omniad_ros.core.geometry import Camera, Pose


@dataclass(frozen=True, eq=False)
class Rendering:
    """image: (H, W, 3) uint8 RGB, always full; depth: (H, W) float32, metres along the optical axis, NaN where not covered."""

    image: np.ndarray
    depth: np.ndarray


class Field(Protocol):
    """A trained radiance field."""

    def render(self, camera: Camera, pose: Pose) -> Rendering:
        """What the normal place looks like to ``camera`` (without distortion) at ``pose``.

        Covered is what at least three survey views saw, and where the field is opaque and sure of the depth.
        """
        ...
