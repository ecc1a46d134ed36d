"""The only place where a frame's reference view is made, whoever asks: the node nerf_renderer, the inspector, evaluation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.files import read_json
from omniad_ros.core.geometry import Camera, Pose
from omniad_ros.reference.field import Field
from omniad_ros.reference.full_size import FullSize
from omniad_ros.reference.photographs import PHOTOGRAPHS, Photographs
from omniad_ros.reference.view import ReferenceView
from omniad_ros.site import Site

STILL_PIXELS = 0.2
"""A camera that moved the picture by less stands still."""


class ReferenceRenderer:
    """Renders the field and redraws it from the photographs, where the site has any.

    While the camera stands still, as a robot does much of its time, the last view is given again. For one thread.
    """

    def __init__(self, field: Field, photographs: Photographs | None, full_size: FullSize | None = None):
        self.field, self.photographs, self.full_size = field, photographs, full_size
        self._last: tuple[tuple[Camera, Camera | None], Pose, ReferenceView] | None = None

    @staticmethod
    def of_site(site: Site, detector_dir: Path | None = None) -> ReferenceRenderer:
        """detector_dir: of the detector whose photographs are drawn from, where it is not the site's own.

        Raises OmniadError where the field or the photographs cannot be read.
        """
        path = (detector_dir or site.detector_dir) / PHOTOGRAPHS
        field = load_field(site.radiance_dir)
        if not path.is_file():
            return ReferenceRenderer(field, None)
        photographs, full_size = Photographs.load(path), FullSize.of_site(site)
        if full_size is not None and photographs.sources.max() >= len(full_size.mapped):
            raise OmniadError(f"{path} is damaged: it names survey images that are not mapped; build the site again")
        return ReferenceRenderer(field, photographs, full_size)

    def render(self, camera: Camera, pose: Pose, detail: Camera | None = None) -> ReferenceView:
        """What the place should look like to ``camera`` (without distortion) at ``pose``, at the camera's size; and, where the
        survey's photographs are large enough, to ``detail``, the same camera at the size of a second look."""
        last, cameras = self._last, (camera, detail)
        moves = detail or camera
        if last is None or last[0] != cameras or _moved_pixels(moves, *last[1:], pose) > STILL_PIXELS:
            last = self._last = cameras, pose, self._draw(camera, pose, detail)
        return last[2]

    def _draw(self, camera: Camera, pose: Pose, detail: Camera | None) -> ReferenceView:
        rendering = self.field.render(camera, pose)
        if self.photographs is None:
            return ReferenceView(rendering.image, rendering.depth)
        return self.photographs.redraw(rendering, camera, pose, detail, self.full_size)


class _Kind(msgspec.Struct):
    """What tells fields apart; the rest is for those who read them."""

    method: str


def load_field(radiance_dir: Path | str) -> Field:
    """The field in a site's radiance directory. Raises OmniadError where there is none that can be read."""
    radiance_dir = Path(radiance_dir)
    if read_json(radiance_dir / "field.json", _Kind).method == "grid-field":
        from omniad_ros.reference.grid_field import GridField

        return GridField.load(radiance_dir)
    from omniad_ros.reference.nerfstudio_field import NerfstudioField

    return NerfstudioField.load(radiance_dir)


def _moved_pixels(camera: Camera, before: Pose, view: ReferenceView, now: Pose) -> float:
    """By how many pixels, at most, the picture moves between two poses; infinite where no depth is known."""
    step = before.inverse() @ now
    angle, shift = np.linalg.norm(Rotation.from_matrix(step.rotation).as_rotvec()), np.linalg.norm(step.translation)
    depth = view.depth[np.isfinite(view.depth)]
    if shift > 0 and not len(depth):
        return np.inf
    return float(camera.fx * (angle + (shift / np.percentile(depth, 1) if shift > 0 else 0.0)))
