"""Can what a frame seems to show be true of the place? Before a place is called anomalous, its map, camera and detector are doubted.

A real change hides the map's points where it is, and nowhere else; it is seen by a camera of the intrinsics that were given, in the
colours of the survey, and takes up a part of the frame. What else makes a frame differ from its reference view is said by its cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera
from omniad_ros.mapping import Localization, Localizer, fit_intrinsics
from omniad_ros.reference import ReferenceView
from omniad_ros.site import Site

CELLS = np.array([8, 6])


@dataclass(frozen=True)
class PlausibilityOptions:
    """When a frame is not believed. Set on patrols of one simulated room and of others in its site (docs/nodes.md); shares are of what
    the survey covers of a frame.

    small: anomalous share up to which a frame is believed, whatever else; large: from which it is not, whatever else.
    foreign: share of the usual support, outside of what is anomalous, under which the place is another one, or the picture damaged.
    expected: points that a cell of an 8x6 grid is expected to show, at the usual support, for it to be judged; hidden: share of these,
    and alike_cells: correlation of its fine structure with the reference's, under which it is hidden; hidden_cells: share of the judged cells from which something hides the view, with_anomalies: from
    which it does where more than ``many`` is anomalous, and foreign_cells: from which there is hardly anything of the place; rest: share
    of the usual support in the other cells, from which these are believed though nothing is anomalous.
    off: of a focal length, or of the width for the optical centre, from which intrinsics are wrong; sure: standard deviations.
    alike: correlation of the frame's and the reference's fine structure under which the reference shows something else.
    swapped: correlation of red minus blue under which the two are swapped; colourful: its standard deviation, in grey levels, from
    which a picture has colours.
    """

    small: float = 0.05
    large: float = 1 / 3
    foreign: float = 0.35
    expected: float = 3.0
    hidden: float = 0.25
    alike_cells: float = 0.4
    hidden_cells: float = 0.4
    foreign_cells: float = 0.75
    rest: float = 0.7
    with_anomalies: float = 0.2
    many: float = 0.15
    off: float = 0.02
    sure: float = 10.0
    alike: float = 0.2
    swapped: float = -0.3
    colourful: float = 3.0


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """A frame and what was made of it. image: uint8 RGB (h, w, 3), reference: of the same size; heatmap: float32 (h, w), of this frame
    alone; camera: of the frame before it was brought to that size, in whose pixels the localization is.
    """

    image: np.ndarray
    camera: Camera
    localization: Localization
    reference: ReferenceView
    heatmap: np.ndarray
    threshold: float

    @cached_property
    def covered(self) -> np.ndarray:
        """bool (h, w): see `ReferenceView.covered`."""
        return self.reference.covered

    @cached_property
    def anomalous(self) -> np.ndarray:
        """bool (h, w)"""
        return self.covered & (self.heatmap >= self.threshold)

    @cached_property
    def fine_structures(self) -> tuple[np.ndarray, np.ndarray]:
        """float32 (h, w) each, of the frame and of the reference."""
        return _fine_structure(self.image), _fine_structure(self.reference.image)


class Plausibility:
    """Judges frames of one site."""

    def __init__(self, site: Site, localizer: Localizer, options: PlausibilityOptions | None = None):
        self.options = options or PlausibilityOptions()
        self.usual = localizer.usual_support(site.mapped.camera)

    def doubt(self, frame: SeenFrame, known: Callable[[], np.ndarray] | None = None) -> str:
        """Why a frame is not to be believed, as one phrase; empty where it is.

        known: gives bool (h, w), what earlier frames, from elsewhere, have shown to be anomalous, which is no reason for doubt; asked where
        there is one.
        """
        if wrong := self._wrong_intrinsics(frame.camera, frame.localization):
            return wrong
        why = self._unlike_the_place(frame, np.zeros_like(frame.anomalous))
        return self._unlike_the_place(frame, known() & frame.anomalous) if why and known is not None else why

    def _unlike_the_place(self, frame: SeenFrame, known: np.ndarray) -> str:
        """Why this is no picture of the place as it is; known: bool (h, w), what is anomalous and no reason for doubt."""
        options = self.options
        share = float((frame.anomalous & ~known).sum() / max(1, frame.covered.sum()))
        hidden, elsewhere, rest = self._hidden(frame, known)
        said = f"{100 * hidden:.0f} % of the view are hidden: something is on the lens or close before it, or the picture is torn"
        if share <= options.small:
            # from afar of where the survey was taken little is found anywhere, and that is no fault
            return said if hidden >= options.hidden_cells and rest >= options.rest else ""
        if hidden >= options.foreign_cells or (hidden >= options.hidden_cells and elsewhere < options.foreign):
            return (
                f"only {100 * self.usual * elsewhere:.0f} % of what the survey saw here is found, {100 * self.usual:.0f} % are usual: "
                "another place, or a damaged picture"
            )
        if hidden >= (options.with_anomalies if share > options.many else options.hidden_cells):
            return said
        if self._swapped(frame):
            return "red and blue are swapped: the image's encoding is not what the camera sends"
        if share > options.large and self._alike(frame) < options.alike:
            return "the reference view shows something else than the frame and the map: is the renderer sound?"
        if share > options.large:
            return f"{100 * share:.0f} % of the view seem anomalous: map, camera or detector are wrong sooner than the place"
        return ""

    def _wrong_intrinsics(self, camera: Camera, localization: Localization) -> str:
        support, options = localization.support, self.options
        there = np.isfinite(support.keypoints[:, 0])
        fit = fit_intrinsics(camera, localization.pose, support.keypoints[there], support.points[there])
        if fit is None:
            return ""
        fitted, sigma = fit
        given, better = np.array(camera.intrinsics), np.array(fitted.intrinsics)
        off = (better - given) / [camera.fx, camera.fy, camera.width, camera.width]
        sure = np.abs(better - given) > options.sure * np.maximum(sigma, 1e-9)
        if not (sure & (np.abs(off) > options.off)).any():
            return ""
        names = ("fx", "fy", "cx", "cy")
        worst = int(np.argmax(np.where(sure, np.abs(off), 0)))
        return (
            f"camera_info is not of this picture: {names[worst]} is {given[worst]:.0f}, but {better[worst]:.0f} fits the map; "
            "calibrate the camera, or name the right camera_info"
        )

    def _hidden(self, frame: SeenFrame, known: np.ndarray) -> tuple[float, float, float]:
        """Share of the judged cells that are hidden; and the support outside of what is anomalous, and in the other cells, as shares of
        the usual one."""
        options, support = self.options, frame.localization.support
        height, width = frame.heatmap.shape
        places = support.pixels / [frame.camera.width, frame.camera.height]
        column, row = np.minimum((places * [width, height]).astype(int), [width - 1, height - 1]).T
        depth = frame.reference.depth[row, column]
        with np.errstate(invalid="ignore"):
            visible = (support.depth > 0.9 * depth) & (support.depth < 1.05 * depth)
        cell = (places * CELLS).astype(int) @ [1, CELLS[0]]
        expected = self.usual * np.bincount(cell[visible], minlength=CELLS.prod())
        found = np.bincount(cell[visible & support.found], minlength=CELLS.prod())
        judged = (expected >= options.expected) & (_cell_means(known.astype(np.float32)) < 0.5)
        hidden = judged & (found < options.hidden * expected) & (self._alike_cells(frame) < options.alike_cells)
        marked = cv2.dilate(frame.anomalous.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        outside = visible & ~marked[row, column]
        elsewhere = float(support.found[outside].mean()) if outside.any() else 0.0
        others = judged & ~hidden
        rest = float(found[others].sum() / max(1e-6, expected[others].sum()))
        return float(hidden.sum() / max(1, judged.sum())), elsewhere / max(self.usual, 1e-6), rest

    def _swapped(self, frame: SeenFrame) -> bool:
        seen, normal = (_red_minus_blue(image)[frame.covered] for image in (frame.image, frame.reference.image))
        if min(seen.std(), normal.std()) < self.options.colourful:
            return False
        return float(np.corrcoef(seen, normal)[0, 1]) < self.options.swapped

    @staticmethod
    def _alike_cells(frame: SeenFrame) -> np.ndarray:
        """Correlation of the frame's and the reference's fine structure in each cell, (cells,)."""
        seen, normal = frame.fine_structures
        spread = np.sqrt(_cell_means(seen**2) * _cell_means(normal**2))
        return _cell_means(seen * normal) / np.maximum(spread, 1e-3)

    @staticmethod
    def _alike(frame: SeenFrame) -> float:
        seen, normal = (structure[frame.covered] for structure in frame.fine_structures)
        return float(np.corrcoef(seen, normal)[0, 1]) if min(seen.std(), normal.std()) > 0 else 0.0


def _red_minus_blue(image: np.ndarray) -> np.ndarray:
    return image[..., 0].astype(np.float32) - image[..., 2]


def _fine_structure(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), 4)


def _cell_means(values: np.ndarray) -> np.ndarray:
    """(cells,) means of float32 (h, w) in each cell of the grid."""
    return cv2.resize(values, CELLS.tolist(), interpolation=cv2.INTER_AREA).ravel()
