"""Pixel and image metrics of heatmaps, in memory that does not grow with the number of frames.

Scores go into histograms whose bins are fine at both ends of [0, 1], where calibrated probabilities crowd; areas under
curves are then scikit-learn's, on the bins with their counts as weights. AUPRO (Bergmann et al., CVPR 2020) is our own,
for want of a library's that is bounded in memory.
"""

from __future__ import annotations

import numpy as np

_SHIFT = 12  # of float32's 23 mantissa bits 11 are kept: 0.05 % relative resolution
_HALF = int(np.float32(0.5).view(np.int32)) >> _SHIFT
BINS = 2 * _HALF + 1

AUPRO_LIMIT = 0.3
COMPACT = 0.006
"""Of the longer side: how far a heatmap is smoothed before its highest value is a frame's score."""
SIZES = {"under_100": 100, "under_300": 300, "under_1000": 1000, "larger": np.inf}
"""Classes of things by their pixels in the image, exclusive upper bounds: a bolt, a tool's handle, a tool, what fills a part of the view."""
FOUND = 1 / 3
"""Share of a thing's pixels that must be reported: a third shows where it is, and outlines are never exact."""
CRUMB = 10
"""Pixels: smaller components of a mask are crumbs where something stands before the thing, not things."""


def bin_of(heatmap: np.ndarray) -> np.ndarray:
    """int32 bin of each probability, increasing; relative resolution 0.05 % of p below one half and of 1 - p above."""
    p = np.clip(np.nan_to_num(np.asarray(heatmap, np.float32), nan=0.0), 0.0, 1.0)
    low = np.minimum(p, 1 - p).view(np.int32) >> _SHIFT
    return np.where(p < 0.5, low, 2 * _HALF - low)


class PixelMeter:
    """Collects heatmaps with their true masks; `result` gives the metrics of all of them together."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self.frames = self.regions = 0
        self._positive = np.zeros(BINS, np.int64)
        self._negative = np.zeros(BINS, np.int64)
        self._overlap = np.zeros(BINS)
        self._tp = self._fp = self._fn = 0

    def add(self, heatmap: np.ndarray, mask: np.ndarray) -> float | None:
        """heatmap: float (H, W) in [0, 1]; mask: (H, W), nonzero where anomalous.

        Returns the frame's own F1 at the threshold, None where nothing is anomalous.
        """
        import cv2

        mask = np.asarray(mask) > 0
        if heatmap.shape != mask.shape:
            raise ValueError(f"heatmap {heatmap.shape} and mask {mask.shape} differ in size")
        self.frames += 1
        bins = bin_of(heatmap)
        self._negative += np.bincount(bins[~mask], minlength=BINS)
        said = heatmap >= self.threshold
        tp, fp, fn = (int(np.count_nonzero(x)) for x in (said & mask, said & ~mask, ~said & mask))
        self._tp, self._fp, self._fn = self._tp + tp, self._fp + fp, self._fn + fn
        if not mask.any():
            return None
        self._positive += np.bincount(bins[mask], minlength=BINS)
        count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        inside = labels[mask]
        share = 1 / np.bincount(inside, minlength=count)[inside]  # every region weighs the same, whatever its size
        self._overlap += np.bincount(bins[mask], weights=share, minlength=BINS)
        self.regions += count - 1
        return 2 * tp / (2 * tp + fp + fn)

    def result(self) -> dict[str, float | None]:
        """``{"auroc", "aupro", "max_f1", "f1", "precision", "recall"}``; None where the frames do not determine one.

        precision is 1 by convention where nothing was reported.
        """
        if not self._positive.any() or not self._negative.any():
            return dict.fromkeys(("auroc", "aupro", "max_f1", "f1", "precision", "recall"))
        tp, fp, fn = self._tp, self._fp, self._fn
        return {
            "auroc": weighted_auroc(self._positive, self._negative),
            "aupro": self._aupro(),
            "max_f1": self._max_f1(),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "precision": tp / (tp + fp) if tp + fp else 1.0,
            "recall": tp / (tp + fn),
        }

    def _aupro(self) -> float:
        """Mean overlap of true regions over the false positive rate, from 0 to `AUPRO_LIMIT`, divided by that."""
        used = np.flatnonzero(self._negative + self._positive)[::-1]
        rate = np.concatenate([[0.0], np.cumsum(self._negative[used]) / self._negative.sum()])
        overlap = np.concatenate([[0.0], np.cumsum(self._overlap[used]) / self.regions])
        end = int(np.searchsorted(rate, AUPRO_LIMIT, side="right"))
        if end < len(rate):  # cut the segment that crosses the limit
            cut = np.interp(AUPRO_LIMIT, rate[end - 1 : end + 1], overlap[end - 1 : end + 1])
            rate, overlap = np.append(rate[:end], AUPRO_LIMIT), np.append(overlap[:end], cut)
        return float(np.trapz(overlap, rate) / AUPRO_LIMIT)

    def _max_f1(self) -> float:
        tp = np.cumsum(self._positive[::-1])
        fp = np.cumsum(self._negative[::-1])
        return float((2 * tp / (tp + fp + tp[-1])).max())


class ThingMeter:
    """Counts which things were found, by their size: a thing is an 8-connected component of a true mask."""

    def __init__(self, threshold: float):
        self.threshold = threshold
        self._things, self._found = np.zeros(len(SIZES), int), np.zeros(len(SIZES), int)

    def add(self, heatmap: np.ndarray, mask: np.ndarray) -> None:
        """heatmap: float (H, W) in [0, 1]; mask: (H, W), nonzero where anomalous, both at the image's size."""
        import cv2

        count, labels, stats, _ = cv2.connectedComponentsWithStats(
            (np.asarray(mask) > 0).astype(np.uint8), connectivity=8
        )
        pixels = stats[1:, cv2.CC_STAT_AREA]
        reported = np.bincount(labels[heatmap >= self.threshold], minlength=count)[1:]
        whole = pixels >= CRUMB
        size = np.searchsorted(list(SIZES.values()), pixels[whole], side="right")
        self._things += np.bincount(size, minlength=len(SIZES))
        self._found += np.bincount(size[(reported >= FOUND * pixels)[whole]], minlength=len(SIZES))

    def result(self) -> dict[str, dict]:
        """``{size: {"things", "recall"}}`` of each of `SIZES`; recall None where there are no such things."""
        return {
            name: {"things": int(things), "recall": round(float(found / things), 5) if things else None}
            for name, things, found in zip(SIZES, self._things, self._found)
        }


def weighted_auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve of two histograms over increasing scores."""
    from sklearn.metrics import roc_auc_score

    p, n = np.flatnonzero(positive), np.flatnonzero(negative)
    truth = np.concatenate([np.ones(len(p)), np.zeros(len(n))])
    return float(roc_auc_score(truth, np.concatenate([p, n]), sample_weight=np.concatenate([positive[p], negative[n]])))


def image_score(heatmap: np.ndarray) -> float:
    """How anomalous a whole frame is: the highest value of its smoothed heatmap, so that a compact region counts more than
    single pixels or a thin line along an edge."""
    import cv2

    values = np.asarray(heatmap, np.float32)
    return float(cv2.GaussianBlur(values, (0, 0), COMPACT * max(values.shape)).max())


def image_auroc(scores: list[float], anomalous: list[bool]) -> float | None:
    """Area under the ROC curve of frames; None where there are not both normal and anomalous ones."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(anomalous, scores)) if 0 < sum(anomalous) < len(anomalous) else None


def psnr(image: np.ndarray, reference: np.ndarray, where: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio (dB) of two uint8 images over the pixels ``where`` (H, W); None where there are none."""
    if not where.any():
        return None
    error = np.mean((image[where].astype(np.float64) - reference[where]) ** 2)
    return float(10 * np.log10(255.0**2 / max(error, 1e-12)))
