"""The pipeline, free of ROS: frame → localize → reference view → detect → weigh with earlier frames → track.

`Inspector` is used by the node, by `omniad inspect` and by `omniad evaluate`, so that all three see the same heatmaps.
Where a part fails it says so in `Inspection.state` and gives what is still sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import heat_colors, resized, resized_map
from omniad_ros.detection import ComparedFrame, Detection, Detector, find_regions
from omniad_ros.mapping import Localization, Localizer
from omniad_ros.patrol.evidence import EvidenceVolume
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.reference import ReferenceRenderer, ReferenceView
from omniad_ros.site import Site, SparsePoints

NORMAL, UNCOVERED, ANOMALOUS = 0, 128, 255
"""Values of `Inspection.mask`."""

Render = Callable[[Camera, Pose], ReferenceView | None]
"""Makes the reference view of a pose, or gives None where it could not in time."""


@dataclass(frozen=True)
class InspectionOptions:
    """How frames are inspected.

    longest_side: pixels of the longer side at which a frame is compared, None for the site's working size (the heatmap is then
    scaled to the frame); threshold: probability from which a pixel is anomalous, None for the site's calibrated one;
    evidence: weigh each frame with what earlier ones said of the same place (see `omniad_ros.patrol.evidence`), or judge it
    alone; tracking: confirm detections over frames; lost_after: frames without a refined pose after which the state is
    `lost` instead of `degraded`.
    """

    longest_side: int | None = None
    threshold: float | None = None
    evidence: bool = True
    tracking: bool = True
    lost_after: int = 3


@dataclass(frozen=True)
class Inspection:
    """What was found in one frame.

    pose: the refined ``map_from_camera``, or the prior where refining failed (then `localization.pose` is None);
    reference: the view that the frame was compared with, at working size, None where there is none; heatmap: float32 (H, W) in
    [0, 1]; independent: the same from this frame alone, without what earlier frames said; mask: uint8 (H, W), 255 anomalous, 128
    not covered by the survey, 0 normal; detections: of this frame, in its pixels; tracks: all known so far; state: `ok`, `degraded`
    (no reference view or no refined pose: less is known) or `lost` (nothing is said of the place); message: why, empty when `ok`;
    ms: milliseconds a stage.
    """

    pose: Pose | None
    localization: Localization
    reference: ReferenceView | None
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

    render: makes reference views instead of the site's own renderer in this process, for instance one in another process; it may
    return None. ``options`` may be replaced as a whole at any time, from any thread: a frame is judged by those of its beginning.
    """

    def __init__(self, site: Site, render: Render | None = None, options: InspectionOptions | None = None):
        self.site, self.options = site, options or InspectionOptions()
        self.localizer = Localizer.load(site.map_dir)
        self.detector = Detector.load(site.detector_dir)
        self.renderer = ReferenceRenderer.of_site(site) if render is None else None
        """Of this process; None where another makes the views, so that the photographs are in memory once."""
        self.render = self.renderer.render if render is None else render
        self.evidence = EvidenceVolume.of_site(site.mapped, self.points) if self.options.evidence else None
        self.reset()

    @property
    def points(self) -> SparsePoints:
        """The sparse map."""
        return self.localizer.points

    @property
    def threshold(self) -> float:
        """Probability from which a pixel is anomalous."""
        return self._threshold(self.options)

    def _threshold(self, options: InspectionOptions) -> float:
        return self.detector.threshold if options.threshold is None else options.threshold

    def working_camera(self, camera: Camera) -> Camera:
        """In which a frame of a rectified camera is compared."""
        return self.site.working_camera(camera, self.options.longest_side)

    def warm_up(self, image: np.ndarray, camera: Camera, pose: Pose) -> None:
        """Do a frame's work on a survey image and forget it, so that the first frame does not wait for compilers and caches."""
        self.localizer.localize(image, camera, pose)
        small = self.working_camera(camera)
        frame = resized(image, small.width, small.height)
        if self.renderer is not None:
            reference = self.renderer.render(small, pose)
        else:  # another process is asked when there is something to ask for
            reference = ReferenceView(frame, np.ones(frame.shape[:2], np.float32))
        heatmap = self.detector.heatmap(frame, reference)
        if self.evidence is not None:
            self.evidence.fuse(heatmap, self.threshold, reference.depth, small, pose)
            self.evidence.clear()

    def reset(self) -> None:
        """Forget all tracks and evidence and how often localization failed."""
        self.tracker = Tracker()
        if self.evidence is not None:
            self.evidence.clear()
        self.frames_without_pose = 0

    def inspect(
        self, image: np.ndarray, camera: Camera, prior: Pose | None, stamp: float | None = None, alone: bool = False
    ) -> Inspection:
        """Inspect one rectified frame.

        image: uint8 RGB (H, W, 3), as large as ``camera`` says; prior: where odometry says the camera is, None for
        nowhere; stamp: seconds, needed for tracks (time since start where None); alone: neither weigh the frame with
        earlier ones nor let it count for later ones or for tracks.
        """
        options = self.options
        threshold = self._threshold(options)
        stamp = time.monotonic() if stamp is None else stamp
        lap = _Stopwatch()
        localization = self.localizer.localize(image, camera, prior)
        lap("localize")
        self.frames_without_pose = 0 if localization.pose is not None else self.frames_without_pose + 1
        pose = prior if localization.pose is None else localization.pose
        if pose is None or self.frames_without_pose > options.lost_after:
            return self._lost(image, pose, localization, lap.ms)

        small_camera = self.site.working_camera(camera, options.longest_side)
        small = resized(image, small_camera.width, small_camera.height)
        reference = self.render(small_camera, pose) if localization.pose is not None else None
        lap("render")
        independent = heatmap = self.detector.heatmap(small, reference)
        detections: list[Detection] = []
        if reference is not None:
            if self.evidence is not None and not alone:
                heatmap = self.evidence.fuse(heatmap, threshold, reference.depth, small_camera, pose)
            compared = ComparedFrame(small, reference, small_camera, pose)
            smallest = self.detector.options.smallest_region
            detections = find_regions(heatmap, compared, threshold=threshold, smallest=smallest)
        lap("detect")
        if options.tracking and reference is not None and not alone:
            snapshot = (small, reference.image, heatmap)
            self.tracker.update(detections, small_camera, pose, reference.depth, stamp, snapshot, threshold)
        lap("track")

        covered = np.ones(heatmap.shape, bool) if reference is None else reference.covered
        mask = np.where(covered, np.where(heatmap >= threshold, ANOMALOUS, NORMAL), UNCOVERED).astype(np.uint8)
        message = ""
        if localization.pose is None:
            message = "no refined pose: the pose is odometry's, the heatmap is the distillation's alone"
        elif reference is None:
            message = "no reference view in time: the heatmap is the distillation's alone"
        size = camera.width, camera.height
        return Inspection(
            pose, localization, reference, resized(heatmap, *size), resized(independent, *size), resized_map(mask, *size),
            [_to_frame(detection, small_camera, camera) for detection in detections], self.tracker.tracks,
            "degraded" if message else "ok", message, {**lap.ms, "total": sum(lap.ms.values())},
        )  # fmt: skip

    def _lost(
        self, image: np.ndarray, pose: Pose | None, localization: Localization, ms: dict[str, float]
    ) -> Inspection:
        ms = ms | {"render": 0.0, "detect": 0.0, "track": 0.0, "total": sum(ms.values())}
        nothing = np.zeros(image.shape[:2], np.float32)
        return Inspection(
            pose, localization, None, nothing, nothing, np.full(image.shape[:2], UNCOVERED, np.uint8), [],
            self.tracker.tracks, "lost", "the frame could not be localized in the map", ms,
        )  # fmt: skip


class _Stopwatch:
    """Milliseconds from one call to the next, by the name of what was done in between."""

    def __init__(self):
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.ms[stage], self._last = 1e3 * (now - self._last), now


def overlay(image: np.ndarray, inspection: Inspection) -> np.ndarray:
    """The frame with heatmap, outlines of anomalous regions and what is not covered shaded: uint8 RGB (H, W, 3)."""
    heat = heat_colors(inspection.heatmap)
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
