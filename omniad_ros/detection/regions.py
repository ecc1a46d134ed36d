"""From a heatmap to detections: connected regions with a score, a kind and, through the reference depth, a place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.view import ReferenceView


@dataclass(frozen=True)
class RegionOptions:
    """How regions are formed and named; the numbers were set by judgement and not tuned since.

    join: share of the frame's longer side up to which parts of an anomaly are one region (two sides of a thing of one colour
    with its ground).
    edge_blur: pixels of the Gaussian before edges are measured; edge_floor: grey levels a pixel, added to edge strengths so
    that flat places decide nothing; kind_margin: log-ratio of frame's to reference's edges from which a region is "added" or
    "missing"; ahead_weight, most_ahead: what a region that stands before its surroundings by a share of the depth adds to
    that log-ratio, and at most.
    least_depths: pixels of known depth without which a region has no place, or no kind by depth; depth_percentiles: of a region's
    depths that belong to its surface; extent_percentiles: of that surface's points that its box holds.
    """

    join: float = 0.04
    edge_blur: float = 1.2
    edge_floor: float = 4.0
    kind_margin: float = 0.35
    ahead_weight: float = 4.0
    most_ahead: float = 0.3
    least_depths: int = 5
    depth_percentiles: tuple[float, float] = (10, 90)
    extent_percentiles: tuple[float, float] = (5, 95)


REGIONS = RegionOptions()


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


@dataclass(frozen=True, eq=False)
class ComparedFrame:
    """A frame as it was compared: image uint8 RGB (H, W, 3), its reference view of any size or None, the camera of the image,
    and its pose, ``map_from_camera``, or None."""

    image: np.ndarray
    reference: ReferenceView | None
    camera: Camera
    pose: Pose | None


def find_regions(
    heatmap: np.ndarray, frame: ComparedFrame, *, threshold: float, smallest: float, options: RegionOptions = REGIONS
) -> list[Detection]:
    """The regions of a frame's heatmap (H, W) above ``threshold``, strongest first.

    smallest: share of the frame's pixels under which a region is left out, see `DetectorOptions.smallest_region`.
    """
    height, width = heatmap.shape
    anomalous = (heatmap > threshold).astype(np.uint8)
    joined = cv2.morphologyEx(anomalous, cv2.MORPH_CLOSE, _disc(options.join * max(height, width)))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    if count == 1:
        return []
    reference = None if frame.reference is None else frame.reference.resized(width, height)
    edges = None if reference is None else _edges(frame.image, reference.image, options)
    found = []
    for index in range(1, count):
        x, y, w, h = (int(v) for v in stats[index][:4])
        pad = 3 + max(w, h) // 4
        window = np.s_[max(0, y - pad) : y + h + pad, max(0, x - pad) : x + w + pad]
        mask = (labels[window] == index) & (anomalous[window] > 0)
        area = int(np.count_nonzero(mask))
        if area < max(1, smallest * heatmap.size):
            continue
        kind, center, size = "changed", None, None
        if reference is not None:
            kind = _kind(mask, *(e[window] for e in edges), reference.depth[window], options)
        if reference is not None and frame.pose is not None:
            camera = frame.camera.resized(width, height)
            points = _surface(mask, reference.depth, window, camera, options)
            center, size = _box(frame.pose.apply(points), options) if len(points) else (None, None)
        found.append(Detection((x, y, x + w, y + h), area, float(heatmap[window][mask].mean()), kind, center, size))
    return sorted(found, key=lambda d: d.score * np.sqrt(d.area), reverse=True)


def _disc(diameter: float) -> np.ndarray:
    side = 2 * round(diameter / 2) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))


def _edges(image: np.ndarray, reference: np.ndarray, options: RegionOptions) -> tuple[np.ndarray, np.ndarray]:
    """Edge strength of frame and reference, the reference's raised to the frame's overall sharpness."""

    def strength(picture: np.ndarray) -> np.ndarray:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        grey = cv2.GaussianBlur(grey, (0, 0), options.edge_blur)
        return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))

    a, b = strength(image), strength(reference)
    return a, b * (a.mean() + 1e-3) / (b.mean() + 1e-3)


def _kind(
    mask: np.ndarray, frame_edges: np.ndarray, reference_edges: np.ndarray, depth: np.ndarray, options: RegionOptions
) -> str:
    """Whose outline runs along the region's border: the frame's (added), the reference's (missing) or both (changed).

    A region that stands before what is around it in the reference's depth is an object there, and so missing or changed.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    small = mask.astype(np.uint8)
    border = (cv2.dilate(small, kernel) - cv2.erode(small, kernel)) > 0
    of_frame, of_reference = (e[border].mean() + options.edge_floor for e in (frame_edges, reference_edges))
    ratio = np.log(of_frame / of_reference)
    around = (cv2.dilate(small, kernel, iterations=3) > 0) & ~(cv2.dilate(small, kernel) > 0)
    inside, outside = depth[mask], depth[around]
    if min(np.isfinite(inside).sum(), np.isfinite(outside).sum()) > options.least_depths:
        ahead = 1 - np.nanmedian(inside) / np.nanmedian(outside)
        ratio -= np.clip(options.ahead_weight * ahead, -options.most_ahead, options.most_ahead)
    return "added" if ratio > options.kind_margin else "missing" if ratio < -options.kind_margin else "changed"


def _surface(
    mask: np.ndarray, depth: np.ndarray, window: tuple[slice, slice], camera: Camera, options: RegionOptions
) -> np.ndarray:
    """Points (N, 3) in the camera's frame of the reference surface inside the mask, without its depth's outliers; none where
    too little of it has a depth. mask: of the ``window`` in ``depth`` (H, W), which is of the camera's size."""
    values = depth[window]
    valid = mask & np.isfinite(values)
    if valid.sum() < options.least_depths:
        return np.empty((0, 3))
    core = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    valid = valid & core if (valid & core).sum() >= options.least_depths else valid
    low, high = np.percentile(values[valid], options.depth_percentiles)
    valid &= (values >= low - 1e-6) & (values <= high + 1e-6)
    rows, columns = np.nonzero(valid)
    z = values[valid].astype(np.float64)
    x = (columns + window[1].start + 0.5 - camera.cx) / camera.fx * z
    y = (rows + window[0].start + 0.5 - camera.cy) / camera.fy * z
    return np.stack([x, y, z], axis=1)


def _box(points: np.ndarray, options: RegionOptions) -> tuple[np.ndarray, np.ndarray]:
    """Middle and extent (3,) of points (N, 3)."""
    low, high = np.percentile(points, options.extent_percentiles, axis=0)
    return np.median(points, axis=0), np.maximum(high - low, 1e-3)
