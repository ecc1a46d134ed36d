"""Is what a patrol sees the same thing at the same place as before? By place, extent and looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.living.schema import Extent, Finding
from omniad_ros.patrol.tracks import Snapshot

BINS = 8
"""Of each of the two colour axes."""


@dataclass(frozen=True)
class RecognitionOptions:
    """slack: metres by which two patrols may place the same thing apart, besides ``share`` of its size; grown: ratio of two extents
    beyond which a thing has changed; unlike: Hellinger distance of its colours beyond which it has. Judged by geometry, and held by
    test/test_living.py."""

    slack: float = 0.15
    share: float = 0.6
    grown: float = 2.5
    unlike: float = 0.75


RECOGNITION = RecognitionOptions()


def looks_of(snapshot: Snapshot | None, box: tuple[int, int, int, int] | None) -> bytes:
    """The colours of what is anomalous in a snapshot, without their brightness: a histogram over Lab's a and b, uint8 (BINS * BINS,);
    empty where there is no snapshot."""
    if snapshot is None or box is None:
        return b""
    x0, y0, x1, y1 = box
    frame, heat = snapshot[0][y0:y1, x0:x1], snapshot[2][y0:y1, x0:x1]
    if not frame.size:
        return b""
    lab = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2LAB)
    mask = np.uint8(heat >= np.quantile(heat, 0.5)) * 255
    counts = cv2.calcHist([lab], [1, 2], mask, [BINS, BINS], [64, 192, 64, 192])
    counts = cv2.GaussianBlur(counts, (3, 3), 0.7)
    return np.uint8(np.round(255 * counts / max(float(counts.max()), 1e-6))).tobytes()


def unlike(first: bytes, second: bytes) -> float:
    """Hellinger distance of two `looks_of` in [0, 1]; 0 where one is not known."""
    if len(first) != BINS * BINS or len(second) != BINS * BINS:
        return 0.0
    a, b = (np.frombuffer(looks, np.uint8).astype(float) for looks in (first, second))
    if not a.any() or not b.any():
        return 0.0
    return float(np.sqrt(max(0.0, 1.0 - np.sqrt(a / a.sum() * (b / b.sum())).sum())))


def apart(first: Extent, second: Extent) -> float:
    """How far two boxes are from being at one place: below 1 they are."""
    gap = np.linalg.norm(np.subtract(first.center, second.center))
    size = max(np.max(first.size), np.max(second.size))
    return float(gap / (RECOGNITION.slack + RECOGNITION.share * size))


def recognised(box: Extent, looks: bytes, findings: Sequence[Finding]) -> Finding | None:
    """The finding that this is, None where it is another one. Of several at the place that which is nearest and looks most alike."""
    near = [
        (apart(box, finding) + unlike(looks, finding.looks), finding) for finding in findings if apart(box, finding) < 1
    ]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def has_changed(box: Extent, looks: bytes, finding: Finding) -> bool:
    """Whether a finding is not as it was: larger or smaller, or of other colours."""
    extents = np.max(box.size), np.max(finding.size)
    grown = max(extents) / max(min(extents), 1e-3)
    return bool(grown > RECOGNITION.grown or unlike(looks, finding.looks) > RECOGNITION.unlike)
