"""A dataset's test images as the session of a patrol takes them, and their masks as it sees them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose, Rectifier
from omniad_ros.core.images import check_picture, read_picture, resized
from omniad_ros.evaluation.layouts import Dataset, TestFrame, read_mask
from omniad_ros.recordings import Frame, FrameSource, SurveySource
from omniad_ros.recordings.source import SAME_SHAPE, UNRELATED
from omniad_ros.site import LARGEST_SIDE

INVERTED = 0.5
"""Share of an image above which a mask is doubted: an anomaly that large is none of a place."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """A test frame as it is scored, no larger than `LARGEST_SIDE`: image uint8 (H, W, 3), mask bool (H, W), heatmap float32 (H, W)."""

    image: np.ndarray
    mask: np.ndarray
    heatmap: np.ndarray


class TestFrames:
    """Test images of the camera that took the survey: as the survey's source gives it, else the map's."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, dataset: Dataset, mapped: Camera, survey: SurveySource | None):
        self.dataset = dataset
        given = survey is not None and survey.camera_from == "file"
        self.camera = survey.camera if given else mapped
        self.upright = survey is None or survey.upright
        self._rectifiers: dict[Camera, Rectifier] = {}

    def source(self) -> FrameSource:
        """The images in the dataset's order, without poses: each is to be found from the map alone."""
        count = len(self.dataset.frames)
        return FrameSource(self.dataset.root, "dataset", self.camera, "file", (), count, False, self._frames)

    def _frames(self) -> Iterator[Frame]:
        for index, frame in enumerate(self.dataset.frames):
            image = read_picture(frame.image, self.upright)
            height, width = image.shape[:2]
            own = self.camera
            if not same_shape((width, height), (own.width, own.height)):
                said = f"that is not the shape of the survey's {own.width}x{own.height}"
                raise OmniadError(f"{frame.image} is {width}x{height}; {said}")
            name = f"{frame.kind}_{frame.image.stem}"
            yield Frame(index * UNRELATED, name, image, own.resized(width, height), Pose.identity())

    def seen(self, frame: TestFrame, taken: Frame, image: np.ndarray, heatmap: np.ndarray) -> Seen:
        """Image and heatmap (H, W) of a frame that was inspected, beside its mask without the lens's distortion."""
        height, width = heatmap.shape
        mask = read_mask(frame.mask, width, height)
        if taken.camera not in self._rectifiers:
            self._rectifiers[taken.camera] = Rectifier(taken.camera)
        rectify = self._rectifiers[taken.camera]
        if rectify.maps is not None:
            mask = rectify(mask.astype(np.uint8) * 255) > 127
        small = rectify.camera.fitted(LARGEST_SIDE)
        size = small.width, small.height
        if size == (width, height):
            return Seen(image, mask, heatmap)
        return Seen(resized(image, *size), resized(mask.astype(np.uint8) * 255, *size) > 127, resized(heatmap, *size))


def check_frames(dataset: Dataset, survey: SurveySource | None) -> None:
    """Raise OmniadError where a test image or a mask cannot be used, before hours are spent on the site; warn of odd masks."""
    odd: dict[str, list[str]] = {"empty": [], "inverted": []}
    for frame in dataset.frames:
        width, height, _ = check_picture(frame.image, survey is None or survey.upright)
        camera = survey.camera if survey else None
        if camera and not same_shape((width, height), (camera.width, camera.height)):
            said = f"that is not the shape of the survey's {camera.width}x{camera.height}"
            raise OmniadError(f"{frame.image} is {width}x{height}; {said}")
        if frame.mask is not None:
            w, h, _ = check_picture(frame.mask, upright=False)
            if not same_shape((w, h), (width, height)):
                said = f"that is not the shape of its image, {width}x{height}"
                raise OmniadError(f"{frame.mask} is {w}x{h}; {said}")
            share = float(read_mask(frame.mask, w, h).mean())
            if share == 0 or share > INVERTED:
                odd["inverted" if share else "empty"].append(str(frame.mask))
    if odd["empty"]:
        said = "%d masks of anomalous images are empty: their images count as anomalous, all their pixels as normal (the first is %s)"
        logger.warning(said, len(odd["empty"]), odd["empty"][0])
    if odd["inverted"]:
        said = "%d masks cover more than half of their image: are they inverted? They are taken as they are, white for anomalous (the first is %s)"
        logger.warning(said, len(odd["inverted"]), odd["inverted"][0])


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two images (width, height) may be of one camera, at different sizes."""
    return abs(first[0] * second[1] / (first[1] * second[0]) - 1) <= SAME_SHAPE
