"""The survey's own photographs, brought to the pose of a frame: a reference view that is sharper than the field's.

A radiance field of minutes is blurred where the survey's photographs are not, but its depth is good. So the photographs
that looked at the place from nearby are carried over through that depth (image-based rendering, weighed by angle as in
Buehler et al., "Unstructured Lumigraph Rendering", SIGGRAPH 2001). A photograph counts only where its own depth agrees;
how many of them do says how far a reference view can be trusted. Where the field has something near the camera that hardly
a photograph saw (a floater, haze), the photographs' own depths say what lies behind it. What the comparison wrongly raised
in a photograph when it was held against the others (a thin leg that the field has in two places, a highlight) is carried
over too: the same is normal in the next frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import save_file

from omniad_ros.core.arrays import Expected, read_arrays
from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Box, Camera, Pose
from omniad_ros.core.images import resized, resized_map
from omniad_ros.reference.field import Field, Rendering
from omniad_ros.reference.full_size import FullSize
from omniad_ros.reference.redrawing import Sight, Source, Sums, Warp, agreed_depth, blend, carry_depth, draw, weigh
from omniad_ros.reference.view import FALSE_ALARM_FLOOR, FALSE_ALARM_STEPS, ReferenceView
from omniad_ros.reference.visibility import VISIBILITY
from omniad_ros.site import Site

PHOTOGRAPHS = "views.safetensors"
"""The file of a site's detector in which its photographs are."""


_VIEW = "views", "rows", "columns"
_FILE = {
    "images": Expected("u1", (*_VIEW, 3)), "depths": Expected("f2", _VIEW, gaps=True), "poses": Expected("f4", ("views", 3, 4)),
    "camera": Expected("f8", (6,)), "alarms": Expected("u1", _VIEW, optional=True), "sources": Expected("i4", ("views",), optional=True),
}  # fmt: skip
"""What `Photographs.save` writes."""


@dataclass(frozen=True)
class RedrawOptions:
    """How a reference view is redrawn.

    kept: photographs that a site keeps, of longer surveys every n-th; most: as many with those of later patrols; asked: photographs that are asked for the depth of what
    they see; drawn: of these, how many are drawn from (six measured better than three, docs/design-notes.md); sample: every
    how manyth covered pixel chooses them; least_angle: radians below which one angle is as good as another; second: what the
    second best photograph of a pixel is worth; most_gain: factor by which exposures may differ; spread: pixels across that
    a false alarm is widened to, for the same fault lies a little beside where another photograph had it; one_surface: share of
    the depth within which neighbouring depths are interpolated.
    """

    kept: int = 240
    most: int = 300
    asked: int = 8
    drawn: int = 6
    sample: int = 211
    least_angle: float = 0.05
    second: float = 0.5
    most_gain: float = 2.0
    spread: int = 5
    one_surface: float = 0.02


OPTIONS = RedrawOptions()
CHANGED = 0.04
"""Share of the depth by which two of one pixel, at half size, may differ where the same is seen."""
BEHIND = 1.05
"""Times a depth up to which a ray is followed: that of a surface is not exact."""


def has_photographs(site: Site) -> bool:
    """Whether reference views of this site are redrawn, and so have support and false alarms."""
    return (site.detector_dir / PHOTOGRAPHS).is_file()


def chosen(count: int, most: int = OPTIONS.kept) -> np.ndarray:
    """Indices of at most ``most`` of ``count``, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs of the normal place: images uint8 (N, H, W, 3), depths float16 (N, H, W) metres with NaN, poses (N, 3, 4)
    as ``map_from_camera``, all of one camera; false_alarms: uint8 (N, H, W), of each as `ReferenceView.false_alarm`; sources:
    int32 (N,), which of the site's mapped images each is, -1 where that is not known."""

    images: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    camera: Camera
    false_alarms: np.ndarray
    sources: np.ndarray

    @staticmethod
    def of(
        images: list[np.ndarray],
        depths: list[np.ndarray],
        poses: list[Pose],
        camera: Camera,
        sources: list[int] | None = None,
    ) -> Photographs:
        """At most `RedrawOptions.kept` of these views, evenly chosen; all of the camera's size."""
        kept = chosen(len(images))
        matrices = np.stack([np.column_stack([poses[i].rotation, poses[i].translation]) for i in kept])
        kept_depths = np.stack([depths[i] for i in kept]).astype(np.float16)
        nothing = np.zeros(kept_depths.shape, np.uint8)
        known = np.full(len(images), -1) if sources is None else np.asarray(sources)
        kept_images = np.stack([images[i] for i in kept])
        return Photographs(
            kept_images, kept_depths, matrices.astype(np.float32), camera, nothing, known[kept].astype(np.int32)
        )

    def with_false_alarms(self, logits: list[np.ndarray]) -> Photographs:
        """The same with what the comparison said of each photograph beside what the others draw in its place: (H, W) each."""
        return replace(self, false_alarms=np.stack([false_alarm_steps(x) for x in logits]))

    def forgetting(self, boxes: Sequence[Box], field: Field) -> Photographs:
        """The same, but nothing is known any more of what they show within boxes of the map, and of what they show through them where the
        ``field``, of the place as it is now, has something else there."""
        depths, rays = self.depths.copy(), self.camera.directions()
        half = self.camera.resized(max(1, self.camera.width // 2), max(1, self.camera.height // 2))
        for depth, matrix in zip(depths, self.poses.astype(float), strict=True):
            pose = Pose(matrix[:, :3], matrix[:, 3])
            met = shows(boxes, pose, rays, depth)
            if not met.any():
                continue
            points = pose.apply(rays[met] * depth[met, None].astype(float))
            now = resized_map(field.render(half, pose).depth, *depth.shape[::-1])[met]
            with np.errstate(invalid="ignore"):
                same = np.abs(now - depth[met]) < CHANGED * depth[met]
            inside = np.any([box.holds(points) for box in boxes], axis=0)
            depth[met] = np.where(same & ~inside, depth[met], np.float16(np.nan))
        return replace(self, depths=depths)

    def renumbered(self, numbers: np.ndarray) -> Photographs:
        """The same where the site's mapped images have other ``numbers`` (M,), -1 for those that are no longer mapped, which are left
        out."""
        sources = np.where(self.sources < 0, -1, numbers[self.sources]).astype(np.int32)
        kept = (self.sources < 0) | (sources >= 0)
        names = ("images", "depths", "poses", "false_alarms")
        return replace(self, sources=sources[kept], **{name: getattr(self, name)[kept] for name in names})

    def joined(self, newer: Photographs) -> Photographs:
        """These and newer ones of the same camera. Of more than `RedrawOptions.most` those give way that a newer one is nearest to."""
        spare, kept = len(self.poses) + len(newer.poses) - OPTIONS.most, np.arange(len(self.poses))
        if spare > 0:
            reach = np.linalg.norm(np.ptp(self.poses[:, :, 3], axis=0))
            own, others = (
                np.concatenate([p.poses[:, :, 3] / max(reach, 1e-6), p.poses[:, :, 2]], 1) for p in (self, newer)
            )
            gap = np.linalg.norm(own[:, None] - others[None], axis=2).min(1)
            kept = np.sort(np.argsort(gap)[min(spare, len(own)) :])
        names = ("images", "depths", "poses", "false_alarms", "sources")
        both = {n: np.concatenate([getattr(self, n)[kept], getattr(newer, n)]) for n in names}
        return replace(self, **both)

    def without(self, pose: Pose, nearest: int = 0) -> Photographs:
        """The photographs but the one at ``pose`` and its ``nearest`` neighbours: what an unseen frame would have had."""
        gap = np.linalg.norm(self.poses[:, :, 3] - pose.translation, axis=1) + np.abs(
            self.poses[:, :, :3] - pose.rotation
        ).sum((1, 2))
        far = np.sort(np.argsort(gap)[nearest + int(gap.min() < 1e-4) :])
        names = ("images", "depths", "poses", "false_alarms", "sources")
        return replace(self, **{name: getattr(self, name)[far] for name in names})

    def redraw(
        self,
        rendering: Rendering,
        camera: Camera,
        pose: Pose,
        detail: Camera | None = None,
        full_size: FullSize | None = None,
    ) -> ReferenceView:
        """The field's ``rendering`` for ``camera`` at ``pose``, redrawn from the photographs.

        detail: the camera at the size of a second look, for which the view is drawn too, from the photographs in ``full_size``.
        """
        depth = rendering.depth
        known = np.isfinite(depth)
        rays = _rays(camera, pose)
        step = OPTIONS.sample
        sample = (rays[known][::step] * depth[known][::step, None]) + pose.translation.astype(np.float32)
        asked = self._best(sample, pose)
        sight = Sight(self._corrected(depth, asked, camera, pose), rays)
        drawn = asked[: OPTIONS.drawn]
        sums = self._blended(rendering.image, sight, drawn, pose, None)
        image = rendering.image.copy()
        draw(sums, image)
        close = None
        if detail is not None and full_size is not None and (self.sources[drawn] >= 0).all():
            close = np.array(resized(rendering.image, detail.width, detail.height), order="C")
            near = Sight(finer_depth(sight.depth, detail), _rays(detail, pose))
            draw(self._blended(close, near, drawn, pose, full_size), close)
        return ReferenceView(image, sight.depth, sums.count, sums.false_alarm, close)

    def _blended(
        self, rendered: np.ndarray, sight: Sight, drawn: list[int], pose: Pose, full_size: FullSize | None
    ) -> Sums:
        """What the photographs ``drawn`` add up to in a view (h, w) that the field ``rendered``; of full size where that is given."""
        height, width = sight.depth.shape
        sums = Sums.zero(height, width)
        own, pixels = np.empty((height, width), np.float32), np.empty((2, height, width), np.float32)
        for index in drawn:
            shift = pose.translation.astype(np.float32) - self.poses[index, :, 3]
            depths = self.depths[index].astype(np.float32)
            source = Source(self.camera.intrinsics, self.poses[index, :, :3], shift, depths)
            weigh(sight, source, VISIBILITY.photographs, pixels, own)
            raised = cv2.remap(self.false_alarms[index], *pixels, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            image = self.images[index]
            if full_size is not None:
                image = full_size.image(int(self.sources[index]))
                for axis, (large, small) in enumerate(zip(image.shape[1::-1], self.images.shape[2:0:-1], strict=True)):
                    pixels[axis] = (pixels[axis] + 0.5) * np.float32(large / small) - np.float32(0.5)
            seen = cv2.remap(image, *pixels, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            blend(rendered, seen, raised, own, OPTIONS.most_gain, sums)
        return sums

    def _corrected(self, depth: np.ndarray, asked: list[int], camera: Camera, pose: Pose) -> np.ndarray:
        """The depth (h, w), but what two of the photographs ``asked`` agree on where two see past it and fewer than two see it."""
        if len(asked) < 2:
            return depth
        depths = self.depths[asked].astype(np.float32)
        turns = np.stack([pose.rotation.T @ self.poses[i, :, :3] for i in asked])
        shifts = np.stack([pose.rotation.T @ (self.poses[i, :, 3] - pose.translation) for i in asked])
        warp = Warp(self.camera.intrinsics, camera.intrinsics, turns, shifts)
        carried = np.empty((len(asked), *depth.shape), np.float32)
        for index, (own, out) in enumerate(zip(depths, carried, strict=True)):
            carry_depth(own, warp, index, out)
        return agreed_depth(depth.astype(np.float32), carried, depths, warp, VISIBILITY.photographs)

    def _best(self, points: np.ndarray, pose: Pose) -> list[int]:
        """Which photographs together look best at the points (P, 3): one by one, each adding most to the best two of each point."""
        if len(points) == 0:
            return []
        towards = points - pose.translation.astype(np.float32)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True) + 1e-9
        away = points[None] - self.poses[:, None, :, 3]
        local = np.einsum("npi,nij->npj", away, self.poses[:, :, :3])
        z = np.maximum(local[..., 2], 1e-2)
        fx, fy, cx, cy = self.camera.intrinsics
        u, v = local[..., 0] / z * fx + cx, local[..., 1] / z * fy + cy
        inside = (local[..., 2] > 0) & (u > 0) & (u < self.camera.width) & (v > 0) & (v < self.camera.height)
        cosine = np.einsum("npi,pi->np", away, towards) / (np.linalg.norm(away, axis=-1) + 1e-9)
        angle = np.arccos(np.clip(cosine, -1, 1))
        value = np.where(inside, 1 / (OPTIONS.least_angle + angle), 0)
        first, second, taken = np.zeros(len(points)), np.zeros(len(points)), []
        for _ in range(min(OPTIONS.asked, len(value))):
            best, rest = np.maximum(first, value), np.maximum(second, np.minimum(first, value))
            gain = (best + OPTIONS.second * rest).sum(1)
            gain[taken] = -1
            index = int(gain.argmax())
            first, second = best[index], rest[index]
            taken.append(index)
        return taken

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        camera = np.array([self.camera.width, self.camera.height, *self.camera.intrinsics])
        arrays = {"images": self.images, "depths": self.depths, "poses": self.poses, "alarms": self.false_alarms}
        save_file({**arrays, "camera": camera, "sources": self.sources}, path)

    @staticmethod
    def load(path: Path) -> Photographs:
        """Raises OmniadError where the file is not what `save` writes."""
        data = read_arrays(path, _FILE)
        count, height, width = data["depths"].shape
        false_alarms = data.get("alarms", np.zeros(data["depths"].shape, np.uint8))  # sites of 0.1.0 have none
        sources = data.get("sources", np.full(count, -1, np.int32))
        try:
            camera = Camera(int(data["camera"][0]), int(data["camera"][1]), *data["camera"][2:].tolist())
            if (camera.width, camera.height) != (width, height) or not count:
                raise ValueError("the photographs are not of its camera's size")
            for pose in data["poses"]:
                Pose.from_matrix(pose)
        except ValueError as error:
            raise OmniadError(f"{path} is damaged: {error}; build the site again") from None
        return Photographs(data["images"], data["depths"], data["poses"], camera, false_alarms, sources)


def false_alarm_steps(logits: np.ndarray) -> np.ndarray:
    """What the comparison said (H, W) of a normal photograph, as `ReferenceView.false_alarm` has it."""
    steps = np.clip((logits - FALSE_ALARM_FLOOR) * FALSE_ALARM_STEPS, 0, 255).astype(np.uint8)
    return cv2.dilate(steps, np.ones((OPTIONS.spread, OPTIONS.spread), np.uint8))


def shows(boxes: Sequence[Box], pose: Pose, rays: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """bool (H, W): which pixels of a view show something of the boxes, or look through them. rays: `Camera.directions`; depth: (H, W)
    metres along the optical axis, NaN where nothing is known, and the rays go on without end."""
    directions = rays @ pose.rotation.T
    far = np.where(np.isfinite(depth), BEHIND * depth.astype(np.float32), np.inf)
    met = np.zeros(depth.shape, bool)
    for box in boxes:
        start, end = box.span(pose.translation, directions)
        met |= np.minimum(end, far) > start
    return met


def _rays(camera: Camera, pose: Pose) -> np.ndarray:
    """(h, w, 3) float32 through the pixels of a camera at ``pose``, in the map's axes; 1 along the optical axis."""
    return camera.directions().astype(np.float32) @ pose.rotation.T.astype(np.float32)


def finer_depth(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """A depth map (h, w) at the size of a larger ``camera``: smooth on a surface, and never between two."""
    nearest = resized_map(depth, camera.width, camera.height)
    smooth = resized(depth, camera.width, camera.height)
    with np.errstate(invalid="ignore"):
        same = np.abs(smooth - nearest) < OPTIONS.one_surface * nearest
    return np.where(same, smooth, nearest)
