"""Colour of a ray from its composited features: three of them are the diffuse colour, a tiny network adds what depends
on the direction (deferred shading as in SNeRG, arXiv 2103.14645), so the network runs once a ray, not once a sample."""

from __future__ import annotations

import numpy as np

HIDDEN = 32
DIRECTION = 9


def harmonics(directions):
    """Real spherical harmonics up to degree 2, without their constants: (R, 3) unit vectors → list of 9 columns."""
    x, y, z = directions[:, 0], directions[:, 1], directions[:, 2]
    return [x * 0 + 1, x, y, z, x * y, y * z, z * x, x * x - y * y, 3 * z * z - 1]


def shade(features: np.ndarray, directions: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """(R, 3) colour in [0, 1] of features (R, C) seen along unit directions (R, 3), in numpy."""
    inputs = np.concatenate([features, np.stack(harmonics(directions), 1)], 1).astype(np.float32)
    hidden = np.maximum(inputs @ weights["shader.0.weight"].T + weights["shader.0.bias"], 0)
    return np.clip(features[:, :3] + hidden @ weights["shader.2.weight"].T + weights["shader.2.bias"], 0, 1)
