"""The second look: frame and reference compared again at the camera's pixels, where it pays.

At working size a bolt is three pixels. Where the camera and the survey's photographs are larger, the comparison looks again at
their size: over the whole frame where that costs no more than the first look does, else in the tiles that are most suspicious,
by what the first look says and by how the large pictures differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.images import resized, resized_map
from omniad_ros.detection.matching import network_input
from omniad_ros.detection.networks import Networks
from omniad_ros.reference.view import ReferenceView


@dataclass(frozen=True)
class SecondLookOptions:
    """budget: pixels that are looked at, in working frames: from one side a pixel costs half of what it does in the first look,
    which has the student besides; tile: side of a tile in pixels; step: grey levels in [0, 1] of difference that count as much as a
    unit of the first look's log-odds; tolerance: share of the picture's own contrast that a difference must pass, for nothing is
    aligned to the pixel. Set by judgement."""

    budget: float = 4.2
    tile: int = 160
    step: float = 0.03
    tolerance: float = 0.7


SECOND_LOOK = SecondLookOptions()


def look_again(
    networks: Networks, frame: np.ndarray, reference: ReferenceView, score: np.ndarray, whole: bool = False
) -> np.ndarray:
    """Logits of change (H, W) float32, NaN where nobody looked or no two photographs bear the reference out.

    frame: (H, W, 3) float32 in [0, 1], of the size of the reference's detail; reference: at working size, with a detail; score:
    (h, w) of the first look; whole: look everywhere.
    """
    height, width = frame.shape[:2]
    covered, trusted = (resized_map(m, width, height) for m in (reference.covered, ~reference.doubtful))
    detail = reference.detail.astype(np.float32) / 255
    pair = network_input(frame, np.where(covered[..., None], detail, frame), covered)
    allowed = SECOND_LOOK.budget * score.size
    if whole or height * width <= allowed:
        tiles = [(slice(0, height), slice(0, width))]
    else:
        tiles = suspicious_tiles(pair, covered & trusted, score, int(allowed / SECOND_LOOK.tile**2))
    logits = networks.second_look(pair, tiles)
    logits[~(covered & trusted)] = np.nan
    return logits


def suspicious_tiles(pair: np.ndarray, known: np.ndarray, score: np.ndarray, most: int) -> list[tuple[slice, slice]]:
    """The ``most`` tiles (rows, columns) of a `network_input` (H, W, 6) in which the first look's score (h, w), or the difference
    of frame and reference, is highest; known: bool (H, W)."""
    height, width = known.shape
    frame, reference = (cv2.GaussianBlur(pair[..., i : i + 3].mean(2), (0, 0), 1.0) for i in (0, 3))
    window = np.ones((5, 5), np.uint8)
    contrast = cv2.dilate(reference, window) - cv2.erode(reference, window)
    beyond = np.abs(frame - reference) - SECOND_LOOK.tolerance * contrast
    suspicion = cv2.GaussianBlur(np.maximum(beyond, 0), (0, 0), 2.0) / SECOND_LOOK.step + resized(score, width, height)
    suspicion = np.where(known, suspicion, suspicion.min())
    side, found = SECOND_LOOK.tile, []
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = slice(top, min(top + side, height)), slice(left, min(left + side, width))
            found.append((float(suspicion[tile].max()), tile))
    return [tile for _, tile in sorted(found, key=lambda f: f[0], reverse=True)[: max(1, most)]]
