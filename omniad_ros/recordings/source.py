"""What is recorded, whatever its form: the frames of a patrol one after the other, or the normal images that become a survey.

The readers beside this module (`folder`, `transforms`, `video`, `bag`) each make a `SurveySource` and, for patrols, a
`FrameSource`; what comes live over ROS becomes the same `Frame`. `survey.read_survey` and `survey.open_frames` tell the form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose

SECOND = 1_000_000_000
SAME_SHAPE = 0.02
"""Share by which the ratios of two images' sides may differ and still be those of one camera, for images are rounded to pixels."""
UNRELATED = 3600 * SECOND
"""Between images in no order of time: no pose is a hint for the next one then."""


@dataclass(frozen=True)
class Frame:
    """One image under inspection, as it was taken.

    stamp: nanoseconds; name: unique in its recording, fit for a file; image: uint8 RGB (H, W, 3); camera: of this image, with its
    distortion; base_from_camera: the optical frame on the robot, the identity where poses are the camera's own; eye: which of the
    robot's cameras took it, empty where it has one.
    """

    stamp: int
    name: str
    image: np.ndarray = field(repr=False, compare=False)
    camera: Camera
    base_from_camera: Pose
    eye: str = ""


@dataclass(frozen=True)
class FrameSource:
    """A recorded patrol.

    camera: of its images; camera_from: where the intrinsics are known from, "file" (given with the images), "exif" (nominal) or
    "guess"; odometry: (stamp in nanoseconds, odom_from_base) by stamp; count: about how many frames there are; timed: the stamps are
    times of one drive, not the mere numbers of pictures; open_frames: starts an iteration over the frames, by stamp.
    """

    path: Path
    kind: str
    camera: Camera
    camera_from: str
    odometry: tuple[tuple[int, Pose], ...]
    count: int
    timed: bool
    open_frames: Callable[[], Iterator[Frame]] = field(compare=False)

    def taken_by(self, camera: Camera) -> FrameSource:
        """The same frames, with this camera (the site's, without distortion) where nothing was given with the images.

        Raises OmniadError where their sides have another ratio: it cannot be that camera.
        """
        own = self.camera
        if self.camera_from == "file":
            return self
        if abs(own.width * camera.height / (own.height * camera.width) - 1) > SAME_SHAPE:
            raise OmniadError(
                f"the images are {own.width}x{own.height} and the site's camera has {camera.width}x{camera.height}: another camera "
                "must be given, by a transforms.json or a camera_info"
            )
        taken = camera.resized(own.width, own.height)
        return replace(
            self,
            camera=taken,
            camera_from="file",
            open_frames=lambda: (replace(f, camera=taken) for f in self.open_frames()),
        )

    def at_most(self, frames_a_second: float) -> FrameSource:
        """The same patrol with so many frames a second of recorded time at most; all of them for 0."""
        if not frames_a_second:
            return self

        def thinned() -> Iterator[Frame]:
            last = -math.inf
            for frame in self.open_frames():
                if frame.stamp - last >= SECOND / frames_a_second:
                    last = frame.stamp
                    yield frame

        return replace(self, open_frames=thinned)


@dataclass(frozen=True)
class SurveySource:
    """A survey that was looked through and found usable.

    camera: of the images as they are on disk, with their distortion; camera_from: as of `FrameSource`; names: one a frame, unique;
    poses: ``map_from_camera``, or None where the source has none; files: what the survey is made of, for `fingerprint`; open_images:
    starts an iteration over the frames' images (uint8 RGB H x W x 3); originals: the image file of each frame, where it needs no
    conversion; upright: whether images were turned by their orientation mark.
    """

    path: Path
    kind: str
    camera: Camera
    camera_from: str
    names: tuple[str, ...]
    poses: tuple[Pose | None, ...]
    files: tuple[Path, ...]
    open_images: Callable[[], Iterator[np.ndarray]] = field(compare=False)
    originals: tuple[Path | None, ...] = ()
    upright: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def patrol(self) -> FrameSource:
        """The same images as a patrol: their poses, where they have some, are its odometry."""
        posed = tuple((index * SECOND, pose) for index, pose in enumerate(self.poses) if pose is not None)
        timed = self.kind == "video"
        step = SECOND if posed or timed else UNRELATED
        names = [Path(name).stem for name in self.names]
        if len(set(names)) < len(names):  # a.png beside a.jpg
            names = [Path(name).name.replace(".", "_") for name in self.names]

        def frames() -> Iterator[Frame]:
            for index, (name, image) in enumerate(zip(names, self.open_images())):
                yield Frame(index * step, name, image, self.camera, Pose.identity())

        return FrameSource(self.path, self.kind, self.camera, self.camera_from, posed, len(self), timed, frames)


class UniqueNames:
    """File names for frames by their stamps: equal stamps must not overwrite each other."""

    def __init__(self):
        self._given: dict[str, itertools.count] = {}

    def __call__(self, stamp: int) -> str:
        name = f"{stamp:019d}"
        number = next(self._given.setdefault(name, itertools.count()))
        return f"{name}_{number}" if number else name
