"""The pipeline, free of ROS: frame → localize → render the reference view → detect → weigh with earlier frames → track.

`Inspector` is used by the node, by `omniad inspect` and by `omniad evaluate`, so that all three see the same heatmaps.
Where a part fails it says so in `Inspection.state` and gives what is still sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.detection import Detection, Detector, find_regions
from omniad_ros.detection.view import coverage
from omniad_ros.mapping import Localization, Localizer
from omniad_ros.patrol.evidence import EvidenceVolume
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.reference import Rendering, load_field
from omniad_ros.site import Site, SparsePoints

NORMAL, UNCOVERED, ANOMALOUS = 0, 128, 255
"""Values of `Inspection.mask`."""

Renderer = Callable[[Camera, Pose], "Rendering | None"]
"""Renders the reference view of a pose, or gives None where it could not in time."""


@dataclass(frozen=True)
class InspectionOptions:
    """How frames are inspected.

    longest_side: pixels of the reference view's and the heatmap's longer side (the heatmap is then scaled to the
    frame); threshold: probability from which a pixel is anomalous, None for the site's calibrated one;
    evidence: weigh each frame with what earlier ones said of the same place (see `omniad_ros.patrol.evidence`), or judge it
    alone; tracking: confirm detections over frames; lost_after: frames without a refined pose after which the state is
    `lost` instead of `degraded`.
    """

    longest_side: int = 320
    threshold: float | None = None
    evidence: bool = True
    tracking: bool = True
    lost_after: int = 3


@dataclass(frozen=True)
class Inspection:
    """What was found in one frame.

    pose: the refined ``map_from_camera``, or the prior where refining failed (then `localization.pose` is None);
    rendering: the reference view at working resolution, None where there is none; heatmap: float32 (H, W) in
    [0, 1]; independent: the same from this frame alone, without what earlier frames said; mask: uint8 (H, W), 255 anomalous, 128 not covered by the survey, 0 normal; detections: of this frame,
    in its pixels; tracks: all known so far; state: `ok`, `degraded` (no reference view or no refined pose: less is
    known) or `lost` (nothing is said of the place); message: why, empty when `ok`; ms: milliseconds a stage.
    """

    pose: Pose | None
    localization: Localization
    rendering: Rendering | None
    heatmap: np.ndarray
    independent: np.ndarray
    mask: np.ndarray
    detections: list[Detection] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    state: str = "ok"
    message: str = ""
    ms: dict[str, float] = field(default_factory=dict)


class Inspector:
    """Inspects frames of one site, one after the other.

    ``render`` replaces the site's own field, for instance by a renderer in another process; it may return None.
    """

    def __init__(self, site: Site, render: Renderer | None = None, options: InspectionOptions | None = None):
        self.options = options or InspectionOptions()
        self.localizer = Localizer.load(site.map_dir)
        self.detector = Detector.load(site.detector_dir)
        self.render = render or load_field(site.radiance_dir).render
        self.threshold = self.detector.threshold if self.options.threshold is None else self.options.threshold
        self.evidence = EvidenceVolume.of_site(site.mapped, self.points) if self.options.evidence else None
        self.reset()

    @property
    def points(self) -> SparsePoints:
        """The sparse map."""
        return self.localizer.points

    def warm_up(self, image: np.ndarray, camera: Camera, pose: Pose) -> None:
        """Do a frame's work on a survey image and forget it, so that the first frame does not wait for compilers and caches."""
        self.localizer.localize(image, camera, pose)
        small = camera.fitted(self.options.longest_side)
        frame, depth = resize(image, small), np.ones((small.height, small.width), np.float32)
        heatmap = self.detector.heatmap(frame, self.detector.redrawn(frame, depth, small, pose), depth)
        if self.evidence is not None:
            self.evidence.fuse(heatmap, self.threshold, depth, small, pose)
            self.evidence.clear()

    def reset(self) -> None:
        """Forget all tracks and evidence and how often localization failed."""
        self.tracker = Tracker()
        if self.evidence is not None:
            self.evidence.clear()
        self.frames_without_pose = 0

    def inspect(self, image: np.ndarray, camera: Camera, prior: Pose | None, stamp: float | None = None) -> Inspection:
        """Inspect one rectified frame.

        image: uint8 RGB (H, W, 3), as large as ``camera`` says; prior: where odometry says the camera is, None for
        nowhere; stamp: seconds, needed for tracks (time since start where None).
        """
        stamp = time.monotonic() if stamp is None else stamp
        ms: dict[str, float] = {}
        started = time.perf_counter()

        def lap(stage: str) -> None:
            ms[stage] = 1e3 * (time.perf_counter() - started) - sum(ms.values())

        localization = self.localizer.localize(image, camera, prior)
        lap("localize")
        self.frames_without_pose = 0 if localization.pose is not None else self.frames_without_pose + 1
        pose = prior if localization.pose is None else localization.pose
        if pose is None or self.frames_without_pose > self.options.lost_after:
            return self._lost(image, pose, localization, ms)

        small_camera = camera.fitted(self.options.longest_side)
        small = resize(image, small_camera)
        rendering = self.render(small_camera, pose) if localization.pose is not None else None
        lap("render")
        if rendering is None:
            heatmap = self.detector.heatmap(small)
        else:
            recalled = self.detector.redrawn(rendering.image, rendering.depth, small_camera, pose)
            depth = rendering.depth if recalled.depth is None else recalled.depth
            rendering = replace(rendering, image=recalled.image, depth=depth)
            heatmap = self.detector.heatmap(small, recalled, rendering.depth)
        independent, detections = heatmap, []
        if rendering is not None:
            if self.evidence is not None:
                heatmap = self.evidence.fuse(heatmap, self.threshold, rendering.depth, small_camera, pose)
            detections = find_regions(
                heatmap, self.threshold, rendering.image, small, rendering.depth, small_camera, pose
            )
        lap("detect")
        if self.options.tracking and rendering is not None:
            snapshot = (small, rendering.image, heatmap)
            self.tracker.update(detections, small_camera, pose, rendering.depth, stamp, snapshot, self.threshold)
        lap("track")

        covered = coverage(rendering.depth) if rendering is not None else np.ones(heatmap.shape, bool)
        mask = np.where(covered, np.where(heatmap >= self.threshold, ANOMALOUS, NORMAL), UNCOVERED).astype(np.uint8)
        message = ""
        if localization.pose is None:
            message = "no refined pose: the pose is odometry's, the heatmap is the distillation's alone"
        elif rendering is None:
            message = "no reference view in time: the heatmap is the distillation's alone"
        ms["total"] = sum(ms.values())
        return Inspection(
            pose, localization, rendering, resize(heatmap, camera), resize(independent, camera),
            resize(mask, camera, nearest=True),
            [_to_frame(detection, small_camera, camera) for detection in detections], self.tracker.tracks,
            "degraded" if message else "ok", message, ms,
        )  # fmt: skip

    def _lost(
        self, image: np.ndarray, pose: Pose | None, localization: Localization, ms: dict[str, float]
    ) -> Inspection:
        ms |= {"render": 0.0, "detect": 0.0, "track": 0.0, "total": sum(ms.values())}
        nothing = np.zeros(image.shape[:2], np.float32)
        return Inspection(
            pose, localization, None, nothing, nothing, np.full(image.shape[:2], UNCOVERED, np.uint8), [],
            self.tracker.tracks, "lost", "the frame could not be localized in the map", ms,
        )  # fmt: skip


def resize(image: np.ndarray, camera: Camera, nearest: bool = False) -> np.ndarray:
    """An image or map scaled to a camera's size, averaged where it shrinks."""
    import cv2

    height, width = image.shape[:2]
    if (width, height) == (camera.width, camera.height):
        return image
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if camera.width < width else cv2.INTER_LINEAR
    return cv2.resize(image, (camera.width, camera.height), interpolation=method)


def overlay(image: np.ndarray, inspection: Inspection) -> np.ndarray:
    """The frame with heatmap, outlines of anomalous regions and what is not covered shaded: uint8 RGB (H, W, 3)."""
    import cv2

    heat = cv2.applyColorMap((255 * inspection.heatmap).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = 0.6 * inspection.heatmap[..., None]
    picture = (image * (1 - weight) + heat * weight).astype(np.uint8)
    uncovered = inspection.mask == UNCOVERED
    picture[uncovered] = picture[uncovered] // 2 + 40
    contours, _ = cv2.findContours(
        (inspection.mask == ANOMALOUS).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    return cv2.drawContours(np.ascontiguousarray(picture), contours, -1, (255, 64, 64), max(1, image.shape[1] // 320))


def _to_frame(detection: Detection, small: Camera, camera: Camera) -> Detection:
    scale_x, scale_y = camera.width / small.width, camera.height / small.height
    x0, y0, x1, y1 = detection.box
    box = (round(x0 * scale_x), round(y0 * scale_y), round(x1 * scale_x), round(y1 * scale_y))
    return replace(detection, box=box, area=round(detection.area * scale_x * scale_y))
