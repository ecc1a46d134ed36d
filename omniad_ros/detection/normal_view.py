"""What a detector learns from: normal images, each beside what the field makes of its pose."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.core.images import resized
from omniad_ros.reference.full_size import FullSize
from omniad_ros.reference.view import ReferenceView


@dataclass(frozen=True, eq=False)
class NormalView:
    """A normal image, uint8 RGB (H, W, 3), beside its reference view of the same field of view; pose: ``map_from_camera``,
    needed where the reference is to be redrawn from the survey's photographs; source: which of the site's mapped images it is, -1
    where that is not known; close: the image at the size of a second look, where the reference has a detail; normals: (H, W, 3)
    float16 of its surfaces in the camera's frame, of the size of ``close`` or else of ``image``, 0 where they are not known, None
    where nobody has asked for them."""

    image: np.ndarray
    reference: ReferenceView
    pose: Pose | None = None
    source: int = -1
    close: np.ndarray | None = None
    normals: np.ndarray | None = None

    def resized(self, width: int, height: int) -> NormalView:
        """The same view with image and reference at another size."""
        return replace(self, image=resized(self.image, width, height), reference=self.reference.resized(width, height))

    def in_detail(self) -> NormalView:
        """The same view as a second look has it; the view itself where there is none."""
        if self.close is None:
            return self
        return NormalView(self.close, self.reference.in_detail(), self.pose, self.source, None, self.normals)

    def compared(self) -> tuple[np.ndarray, np.ndarray]:
        """Frame and reference of one size, (H, W, 3) float32 in [0, 1]; where nothing is covered the reference shows the frame."""
        frame, reference = self.image.astype(np.float32) / 255, self.reference.image.astype(np.float32) / 255
        return frame, np.where(self.reference.covered[..., None], reference, frame)


@dataclass(frozen=True, eq=False)
class NormalViews:
    """The normal views of a site.

    trained: survey images that the field was trained on (their renderings look better than any from an unseen pose);
    heldout: such that it never saw, beside honest renderings; novel: renderings uint8 (h, w, 3) of the normal place from
    further poses (INV), for the student alone; camera: of all views, which then know their poses, where references are to
    be redrawn from the survey's photographs, each view's from the others; full_size: these photographs where they are large
    enough for a second look.
    """

    trained: list[NormalView]
    heldout: list[NormalView]
    novel: list[np.ndarray] = field(default_factory=list)
    camera: Camera | None = None
    full_size: FullSize | None = None

    @property
    def survey(self) -> list[NormalView]:
        """All survey images: those that the field was trained on, then the held-out ones."""
        return self.trained + self.heldout

    def with_survey(self, views: list[NormalView]) -> NormalViews:
        """The same with other ``views`` in the order of `survey`."""
        count = len(self.trained)
        return replace(self, trained=views[:count], heldout=views[count:])

    def resized(self, width: int, height: int) -> NormalViews:
        """The same, everything at another size."""
        return NormalViews(
            [v.resized(width, height) for v in self.trained],
            [v.resized(width, height) for v in self.heldout],
            [resized(n, width, height) for n in self.novel],
            self.camera and self.camera.resized(width, height),
            self.full_size,
        )


def check_views(views: list[NormalView], what: str) -> None:
    """Raises OmniadError where an image or a reference of ``views`` is not what `NormalView` says."""
    for view in views:
        check_image(view.image, f"{what} image")
        check_reference(view.reference, f"{what} reference")


def check_image(image: np.ndarray, what: str) -> None:
    """Raises OmniadError where ``image`` is not uint8 RGB (H, W, 3) of at least 32 pixels a side."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise OmniadError(f"the {what} must be an RGB image of 8 bits a channel (H, W, 3)")
    if min(image.shape[:2]) < 32:
        raise OmniadError(f"the {what} must have at least 32 pixels a side")


def check_reference(reference: ReferenceView, what: str) -> None:
    """Raises OmniadError where the parts of a reference view do not belong together."""
    check_image(reference.image, what)
    for name in ("depth", "support", "false_alarm"):
        values = getattr(reference, name)
        if values is not None and values.shape != reference.image.shape[:2]:
            raise OmniadError(f"the {what}'s {name.replace('_', ' ')} must have its image's size, one channel")
