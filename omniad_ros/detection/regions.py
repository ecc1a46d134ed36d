"""From a heatmap to detections: connected regions with a score, a kind and, through the reference depth, a place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection.view import DetectorOptions, resized, resized_depth

GAP = 0.04
"""Parts of an anomaly no farther apart than this share of the frame's longer side are one region."""


@dataclass(frozen=True)
class Detection:
    """An anomalous region of one frame.

    box: (x0, y0, x1, y1) pixels, the last two exclusive; area: pixels; score: mean heatmap inside, in [0, 1]; kind: "missing",
    "added" or "changed"; center, size: (3,) metres in the map, of the region's surface in the reference view, or None where
    the survey saw no depth.
    """

    box: tuple[int, int, int, int]
    area: int
    score: float
    kind: str
    center: np.ndarray | None
    size: np.ndarray | None


def find_regions(
    heatmap: np.ndarray,
    threshold: float,
    reference: np.ndarray | None,
    image: np.ndarray,
    depth: np.ndarray | None,
    camera: Camera,
    pose: Pose | None,
    smallest: float = DetectorOptions.smallest_region,
) -> list[Detection]:
    """The regions of a heatmap (H, W) above ``threshold``, strongest first.

    reference (h, w, 3) and depth (h, w) may be smaller than the frame, or None; camera is the frame's, pose its
    ``map_from_camera``; regions under ``smallest`` (share of the frame's pixels) are left out.
    """
    height, width = heatmap.shape
    anomalous = (heatmap > threshold).astype(np.uint8)
    joined = cv2.morphologyEx(anomalous, cv2.MORPH_CLOSE, _disc(GAP * max(height, width)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    if count == 1:
        return []
    reference = None if reference is None else resized(reference, (width, height))
    depth = None if depth is None else resized_depth(depth, (width, height))
    edges = None if reference is None else _edges(image, reference)
    found = []
    for index in range(1, count):
        x, y, w, h = (int(v) for v in stats[index][:4])
        pad = 3 + max(w, h) // 4
        window = np.s_[max(0, y - pad) : y + h + pad, max(0, x - pad) : x + w + pad]
        mask = (labels[window] == index) & (anomalous[window] > 0)
        area = int(np.count_nonzero(mask))
        if area < max(1, smallest * heatmap.size):
            continue
        center, size = (None, None) if depth is None or pose is None else _place(mask, depth, window, camera, pose)
        kind = (
            "changed"
            if edges is None
            else _kind(mask, *(e[window] for e in edges), None if depth is None else depth[window])
        )
        found.append(Detection((x, y, x + w, y + h), area, float(heatmap[window][mask].mean()), kind, center, size))
    return sorted(found, key=lambda d: d.score * np.sqrt(d.area), reverse=True)


def _disc(diameter: float) -> np.ndarray:
    side = 2 * round(diameter / 2) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _edges(image: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge strength of frame and reference, the reference's raised to the frame's overall sharpness."""

    def strength(picture: np.ndarray) -> np.ndarray:
        grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.2)
        return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))

    a, b = strength(image), strength(reference)
    return a, b * (a.mean() + 1e-3) / (b.mean() + 1e-3)


def _kind(mask: np.ndarray, frame_edges: np.ndarray, reference_edges: np.ndarray, depth: np.ndarray | None) -> str:
    """Whose outline runs along the region's border: the frame's (added), the reference's (missing) or both (changed).

    A region that stands before what is around it in the reference's depth is an object there, and so missing or changed.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    small = mask.astype(np.uint8)
    border = (cv2.dilate(small, kernel) - cv2.erode(small, kernel)) > 0
    floor = 4.0
    ratio = np.log((frame_edges[border].mean() + floor) / (reference_edges[border].mean() + floor))
    if depth is not None:
        around = (cv2.dilate(small, kernel, iterations=3) > 0) & ~(cv2.dilate(small, kernel) > 0)
        inside, outside = depth[mask], depth[around]
        if np.isfinite(inside).sum() > 5 and np.isfinite(outside).sum() > 5:
            ahead = 1 - np.nanmedian(inside) / np.nanmedian(outside)
            ratio -= np.clip(4 * ahead, -0.3, 0.3)
    return "added" if ratio > 0.35 else "missing" if ratio < -0.35 else "changed"


def _place(
    mask: np.ndarray, depth: np.ndarray, window: tuple[slice, slice], camera: Camera, pose: Pose
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Middle and extent (metres, map frame) of the reference surface inside the mask, without its depth's outliers."""
    values = depth[window]
    valid = mask & np.isfinite(values)
    if valid.sum() < 5:
        return None, None
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    valid = valid & core if (valid & core).sum() >= 5 else valid
    low, high = np.percentile(values[valid], (10, 90))
    valid &= (values >= low - 1e-6) & (values <= high + 1e-6)
    fitted = camera if (camera.width, camera.height) == depth.shape[::-1] else camera.resized(*depth.shape[::-1])
    rows, columns = np.nonzero(valid)
    z = values[valid].astype(np.float64)
    x = (columns + window[1].start + 0.5 - fitted.cx) / fitted.fx * z
    y = (rows + window[0].start + 0.5 - fitted.cy) / fitted.fy * z
    points = pose.apply(np.stack([x, y, z], axis=1))
    low, high = np.percentile(points, (5, 95), axis=0)
    return np.median(points, axis=0), np.maximum(high - low, 1e-3)
