"""The reference view: what the place should look like to a frame, which is all that the frame is compared with.

Only numpy and OpenCV are needed here, so that whoever is handed a view need not know how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from omniad_ros.core.images import resized, resized_map

FALSE_ALARM_FLOOR, FALSE_ALARM_STEPS = -6.0, 16
"""Logit of the comparison from which what it raises in a normal photograph is noted, and steps a unit in which it is kept, so
that one byte reaches to about +10."""


@dataclass(frozen=True)
class TrustOptions:
    """Where a reference view may be trusted.

    coverage_gap, support_gap: pixels at working size up to which a gap does not count in what is covered, and in what
    photographs bear out (along silhouettes a depth belongs to neither side, though the survey saw both); least_support:
    photographs that must agree, for a single one may agree with a floater by chance; most_false_alarm: logits, of
    `ReferenceView.false_alarm_logits`, from which the photographs contradict each other so much that nothing is known of the place.
    The gaps and the last were measured (docs/detection.md).
    """

    coverage_gap: int = 15
    support_gap: int = 9
    least_support: int = 2
    most_false_alarm: float = 5.0


TRUST = TrustOptions()


@dataclass(frozen=True, eq=False)
class ReferenceView:
    """What the place should look like to a frame: the field's view redrawn from the survey's photographs.

    image: uint8 RGB (h, w, 3), the field's colours where no photograph helps; depth: float32 (h, w), metres along the optical
    axis, NaN where the survey saw nothing; support: uint8 (h, w), how many photographs agree, None where it was not redrawn;
    false_alarm: uint8 (h, w), by how many steps (FALSE_ALARM_STEPS a logit, from FALSE_ALARM_FLOOR on) the comparison wrongly
    rose there in normal photographs, None where it was not redrawn; detail: uint8 RGB (H, W, 3), the same view at the size of a
    second look, drawn from the photographs at their full size, None where there is none.
    """

    image: np.ndarray
    depth: np.ndarray
    support: np.ndarray | None = None
    false_alarm: np.ndarray | None = None
    detail: np.ndarray | None = None

    @property
    def covered(self) -> np.ndarray:
        """bool (h, w): where the survey saw the place, so that it can be believed what it looked like: the depth is known and, where
        the view was redrawn, a photograph shows it and the photographs do not contradict each other; but for small gaps.

        What stands in front of a silhouette, where the depth is unknown, would otherwise be cut in pieces.
        """
        known = np.isfinite(self.depth)
        if self.support is not None:
            known &= self.support > 0
        if self.false_alarm is not None:
            known &= self.false_alarm_logits < TRUST.most_false_alarm
        return _without_gaps(known, TRUST.coverage_gap)

    @property
    def doubtful(self) -> np.ndarray:
        """bool (h, w): where hardly more than the field says what is normal, but for small gaps; nowhere where the view was
        not redrawn."""
        if self.support is None:
            return np.zeros(self.depth.shape, bool)
        return ~_without_gaps(self.support >= TRUST.least_support, TRUST.support_gap)

    @property
    def false_alarm_logits(self) -> np.ndarray:
        """float32 (h, w): ``false_alarm`` in logits, 0 where nothing was noted."""
        if self.false_alarm is None:
            return np.zeros(self.depth.shape, np.float32)
        return self.false_alarm.astype(np.float32) / FALSE_ALARM_STEPS

    def resized(self, width: int, height: int) -> ReferenceView:
        """The same view at another size; the maps are not blended, and the detail stays as it is."""
        maps = (None if m is None else resized_map(m, width, height) for m in (self.support, self.false_alarm))
        size = width, height
        return ReferenceView(resized(self.image, *size), resized_map(self.depth, *size), *maps, self.detail)

    def without(self, where: np.ndarray) -> ReferenceView:
        """The same view as if the survey had not seen the pixels ``where``, bool (h, w)."""
        support = None if self.support is None else np.where(where, np.uint8(0), self.support)
        return replace(self, depth=np.where(where, np.float32(np.nan), self.depth), support=support)

    def in_detail(self) -> ReferenceView:
        """The same view at its detail's size, with the detail as its image; the view itself where it has none."""
        if self.detail is None:
            return self
        return replace(self.resized(*self.detail.shape[1::-1]), image=self.detail)


def _without_gaps(where: np.ndarray, gap: int) -> np.ndarray:
    padded = np.pad(where.astype(np.uint8), gap, mode="edge")
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    return closed[gap:-gap, gap:-gap] > 0
