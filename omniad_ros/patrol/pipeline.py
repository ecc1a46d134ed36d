"""The pipeline, free of ROS: frame → localize → reference view → detect → weigh with earlier frames → track.

`Inspector` is used by the node, by `omniad inspect` and by `omniad evaluate`, so that all three see the same heatmaps.
Where a part fails it says so in `Inspection.state` and gives what is still sound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import heat_colors, resized, resized_map
from omniad_ros.detection import ComparedFrame, Detection, Detector, DetectorOptions, find_regions
from omniad_ros.detection.matching import blur_extent
from omniad_ros.mapping import Localization, Localizer
from omniad_ros.patrol.evidence import EvidenceVolume
from omniad_ros.patrol.lens_check import LensCheck
from omniad_ros.patrol.plausibility import Plausibility, SeenFrame
from omniad_ros.patrol.tracks import Track, Tracker
from omniad_ros.reference import ReferenceRenderer, ReferenceView
from omniad_ros.site import DETAIL_SIDE, Site, SparsePoints

NORMAL, SETTLED, UNCOVERED, ANOMALOUS = 0, 64, 128, 255
"""Values of `Inspection.mask`."""

SHARP_ENOUGH = 0.75
"""Share of a thing's pixels over which a frame may be blurred for the thing to be found."""

Render = Callable[[Camera, Pose, Camera | None], ReferenceView | None]
"""Makes the reference view of a pose for a camera at working size, and for the camera of a second look where one is given; or gives
None where it could not in time."""

Settle = Callable[[Camera, Pose, np.ndarray], np.ndarray | None]
"""Says of a view's pixels, by the reference's depth (h, w), up to which probability they raise nothing: float32 (h, w), infinite where
somebody has settled that whatever is there is no anomaly; None where nothing is settled in the view."""


@dataclass(frozen=True)
class InspectionOptions:
    """How frames are inspected.

    longest_side: pixels of the longer side at which a frame is compared, None for the site's working size (the heatmap is then
    scaled to the frame); threshold: probability from which a pixel is anomalous, None for the site's calibrated one;
    evidence: weigh each frame with what earlier ones said of the same place (see `omniad_ros.patrol.evidence`), or judge it
    alone; tracking: confirm detections over frames; lost_after: frames without a refined pose after which the state is
    `lost` instead of `degraded`; detail_side: pixels of the longer side at which a frame is looked at again, where it and the survey
    are as large, 0 for never; whole_frame: look again everywhere, rather than where it pays; smallest_thing: pixels across, of the
    second look, under which a region is left out, None for the detector's; smallest_extent: the same in metres, of a region's
    longest side in the map; regions without a place are kept.
    """

    longest_side: int | None = None
    threshold: float | None = None
    evidence: bool = True
    tracking: bool = True
    lost_after: int = 3
    detail_side: int = DETAIL_SIDE
    whole_frame: bool = False
    smallest_thing: float | None = None
    smallest_extent: float = 0.0


@dataclass(frozen=True)
class Inspection:
    """What was found in one frame.

    pose: the refined ``map_from_camera``, or the prior where refining failed (then `localization.pose` is None);
    reference: the view that the frame was compared with, at working size, None where there is none; heatmap: float32 (H, W) in
    [0, 1]; independent: the same from this frame alone, without what earlier frames said; raw: that without what people said, too; mask: uint8 (H, W), 255 anomalous, 128
    not covered by the survey, 64 accepted or ignored by somebody's verdict, 0 normal; detections: of this frame, in its pixels; tracks: all known so far; state: `ok`, `degraded`
    (no reference view or no refined pose: less is known; or a frame that is not believed, of which nothing is said) or `lost` (nothing is said of the place); message: why, or what small
    things an `ok` frame is too blurred for, else empty; ms: milliseconds a stage.
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
    raw: np.ndarray | None = None


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
        self.plausibility, self.lens = Plausibility(site, self.localizer), LensCheck()
        self.settle: Settle | None = None
        """May be replaced at any time, from any thread."""
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

    def detail_camera(self, camera: Camera) -> Camera | None:
        """In which a frame of a rectified camera is looked at again; None where it is not."""
        side = self.options.detail_side
        return self.site.detail_camera(camera, side) if side and self.detector.scores.detail is not None else None

    def warm_up(self, image: np.ndarray, camera: Camera, pose: Pose) -> None:
        """Do a frame's work on a survey image and forget it, so that the first frame does not wait for compilers and caches."""
        self.localizer.localize(image, camera, pose)
        small = self.working_camera(camera)
        frame = resized(image, small.width, small.height)
        if self.renderer is not None:
            reference = self.renderer.render(small, pose, self.detail_camera(camera))
        else:  # another process is asked when there is something to ask for
            reference = ReferenceView(frame, np.ones(frame.shape[:2], np.float32))
        closer = frame if reference.detail is None else resized(image, *reference.detail.shape[1::-1])
        heatmap = self.detector.heatmap(closer, reference)
        if self.evidence is not None:
            self.evidence.fuse(_highest(heatmap, small), self.threshold, reference.depth, small, pose)
            self.evidence.clear()

    def reset(self) -> None:
        """Forget all tracks and evidence and how often localization failed."""
        self.tracker = Tracker()
        if self.evidence is not None:
            self.evidence.clear()
        self.lens.reset()
        self.frames_without_pose = 0

    def inspect(
        self,
        image: np.ndarray,
        camera: Camera,
        prior: Pose | None,
        stamp: float | None = None,
        alone: bool = False,
        doubt: Callable[[Pose], str] = lambda pose: "",
    ) -> Inspection:
        """Inspect one rectified frame.

        image: uint8 RGB (H, W, 3), as large as ``camera`` says; prior: where odometry says the camera is, None for
        nowhere; stamp: seconds, needed for tracks (time since start where None); alone: neither weigh the frame with
        earlier ones nor let it count for later ones or for tracks; doubt: says of a refined pose why it cannot be, empty where it can.
        A frame that is doubted is `degraded`, and nothing is said of the place.
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
            return self.silent(image, pose, localization, "lost", "the frame could not be localized in the map", lap.ms)
        if localization.pose is not None and (why := doubt(localization.pose)):
            return self._doubted(image, prior, why, lap.ms)

        small_camera = self.site.working_camera(camera, options.longest_side)
        small = resized(image, small_camera.width, small_camera.height)
        detail_camera = self.detail_camera(camera)
        reference = self.render(small_camera, pose, detail_camera) if localization.pose is not None else None
        lap("render")
        twice = reference is not None and reference.detail is not None and detail_camera is not None
        looked, seen_by = (
            (resized(image, *reference.detail.shape[1::-1]), detail_camera) if twice else (small, small_camera)
        )
        heatmap = raw = self.detector.heatmap(looked, reference, options.whole_frame)
        heatmap, settled = self._settled(heatmap, reference, small_camera, pose)
        independent = heatmap
        detections: list[Detection] = []
        message = ""
        if reference is not None:
            # by the calibrated threshold: another one is the user's wish to see more or less
            calibrated = self.detector.threshold
            seen = SeenFrame(small, camera, localization, reference, _highest(heatmap, small_camera), calibrated)
            marked = None
            if self.evidence is not None:
                marked = partial(self.evidence.marked, reference.depth, small_camera, pose)
            if why := self.plausibility.doubt(seen, marked):
                lap("detect")
                return self._doubted(image, prior, why, lap.ms)
            if self.evidence is not None and not alone:
                on_lens = self.lens(seen.anomalous, reference.depth, small_camera, pose)
                if on_lens.any():
                    message = f"something is on the lens: {100 * on_lens.mean():.0f} % of the picture stay while the place moves"
                    reference = reference.without(on_lens)
                    independent = heatmap = np.where(
                        resized_map(on_lens, *heatmap.shape[1::-1]), np.float32(0), heatmap
                    )
                heatmap = self._weighed(heatmap, threshold, reference, small_camera, pose)
            compared = ComparedFrame(looked, reference.in_detail() if twice else reference, seen_by, pose)
            least = self._judging(options).smallest_area(*heatmap.shape, twice)
            found = find_regions(heatmap, compared, threshold=threshold, smallest=least / heatmap.size)
            detections = [d for d in found if d.size is None or d.size.max() >= options.smallest_extent]
        lap("detect")
        if options.tracking and reference is not None and not alone:
            snapshot = (small, reference.image, _highest(heatmap, small_camera))
            own = [_to_frame(detection, seen_by, small_camera) for detection in detections]
            self.tracker.update(own, small_camera, pose, reference.depth, stamp, snapshot, threshold)
        lap("track")

        height, width = heatmap.shape
        covered = np.ones(heatmap.shape, bool) if reference is None else resized_map(reference.covered, width, height)
        mask = np.where(covered, np.where(heatmap >= threshold, ANOMALOUS, NORMAL), UNCOVERED).astype(np.uint8)
        mask[settled] = SETTLED
        if localization.pose is None:
            message = "no refined pose: the pose is odometry's, the heatmap is the distillation's alone"
        elif reference is None:
            message = "no reference view in time: the heatmap is the distillation's alone"
        state = "degraded" if message else "ok"
        if twice and not message:
            message = self._too_blurred(small, reference, looked.shape[1] / small.shape[1], options)
        size = camera.width, camera.height
        alone_large = resized(independent, *size)
        return Inspection(
            pose, localization, reference, resized(heatmap, *size), alone_large, resized_map(mask, *size),
            [_to_frame(detection, seen_by, camera) for detection in detections], self.tracker.tracks,
            state, message, {**lap.ms, "total": sum(lap.ms.values())},
            alone_large if raw is independent else resized(raw, *size),
        )  # fmt: skip

    def _settled(
        self, heatmap: np.ndarray, reference: ReferenceView | None, camera: Camera, pose: Pose
    ) -> tuple[np.ndarray, np.ndarray]:
        """The heatmap (H, W) without what is settled, and bool (H, W) where that is whatever is there."""
        levels = None if reference is None or self.settle is None else self.settle(camera, pose, reference.depth)
        if levels is None:
            return heatmap, np.zeros(heatmap.shape, bool)
        levels = resized_map(levels, *heatmap.shape[1::-1])
        return np.where(heatmap <= levels, np.float32(0), heatmap), np.isinf(levels)

    def _weighed(
        self, heatmap: np.ndarray, threshold: float, reference: ReferenceView, camera: Camera, pose: Pose
    ) -> np.ndarray:
        """The heatmap (H, W) without what earlier frames refute, which is kept at working size."""
        coarse = _highest(heatmap, camera)
        fused = self.evidence.fuse(coarse, threshold, reference.depth, camera, pose)
        if coarse is heatmap:
            return fused
        share = resized_map(fused / np.maximum(coarse, 1e-6), *heatmap.shape[1::-1])
        return np.clip(heatmap * share, 0, 1).astype(np.float32)

    def _too_blurred(
        self, frame: np.ndarray, reference: ReferenceView, larger: float, options: InspectionOptions
    ) -> str:
        """What is to be said of a frame, here at working size, that is too blurred for the smallest things of a second look, which
        is so many times ``larger``; empty where it is sharp enough."""
        blur = larger * blur_extent(frame, reference)
        if blur <= SHARP_ENOUGH * self._judging(options).smallest_thing:
            return ""
        return (
            f"blurred over about {blur:.0f} pixels: things of less than {blur / SHARP_ENOUGH:.0f} pixels may be missed"
        )

    def _judging(self, options: InspectionOptions) -> DetectorOptions:
        """The detector's options, but for what a frame's say otherwise."""
        own, smallest = self.detector.options, options.smallest_thing
        return own if smallest is None else replace(own, smallest_thing=smallest)

    def _doubted(self, image: np.ndarray, prior: Pose | None, why: str, ms: dict[str, float]) -> Inspection:
        return self.silent(image, prior, Localization(None, None, 0, "lost"), "degraded", why, ms)

    def silent(
        self,
        image: np.ndarray,
        pose: Pose | None,
        localization: Localization,
        state: str,
        message: str,
        ms: dict[str, float],
    ) -> Inspection:
        """What is said of a frame of which nothing can be said."""
        ms = dict.fromkeys(("localize", "render", "detect", "track"), 0.0) | ms
        nothing = np.zeros(image.shape[:2], np.float32)
        return Inspection(
            pose, localization, None, nothing, nothing, np.full(image.shape[:2], UNCOVERED, np.uint8), [],
            self.tracker.tracks, state, message, {**ms, "total": sum(ms.values())},
        )  # fmt: skip


def _highest(heatmap: np.ndarray, camera: Camera) -> np.ndarray:
    """The heatmap at the size of a smaller camera, each pixel the highest of those that it stands for; itself where it has that size."""
    height, width = heatmap.shape
    if (width, height) == (camera.width, camera.height):
        return heatmap
    reach = np.ones((-(-height // camera.height), -(-width // camera.width)), np.uint8)
    return resized_map(cv2.dilate(heatmap, reach), camera.width, camera.height)


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
