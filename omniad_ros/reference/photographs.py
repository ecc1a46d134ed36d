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

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numba import njit
from safetensors.numpy import load_file, save_file

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Pose

SOURCES = 6
"""Photographs that are carried over for one reference view."""
ASKED = 8
"""Photographs that are asked for the depth of what they see."""
MOST_KEPT = 240
"""Photographs that a site keeps for this; of longer surveys every n-th."""
AGREE = 0.02
"""How far two depths of one place may differ, relative to the depth."""
QUIET, ALARM_STEPS = -6.0, 16
"""Logit of the comparison from which a normal photograph's score is remembered, and steps a unit in which it is kept."""


compiled = njit(nogil=True, cache=True, error_model="numpy")


class Recalled(NamedTuple):
    """A reference view redrawn from photographs.

    image: uint8 (h, w, 3), the field's colours where no photograph helps; support: uint8 (h, w), how many photographs agree on
    each pixel, None where none were asked; alarm: float32 (h, w), by how much the comparison's logit rose above QUIET there
    although all was normal, or None; depth: float32 (h, w), the field's or, where no two photographs agree with it but with
    each other, theirs, None where the reference was not redrawn.
    """

    image: np.ndarray
    support: np.ndarray | None = None
    alarm: np.ndarray | None = None
    depth: np.ndarray | None = None


def chosen(count: int, most: int = MOST_KEPT) -> np.ndarray:
    """Indices of at most ``most`` of ``count``, evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


@dataclass(frozen=True)
class SurveyViews:
    """Photographs of the normal place: images uint8 (N, H, W, 3), depths float16 (N, H, W) metres with NaN, poses (N, 3, 4)
    as ``map_from_camera``, all of one camera; alarms: uint8 (N, H, W), what the comparison wrongly raised in each."""

    images: np.ndarray
    depths: np.ndarray
    poses: np.ndarray
    camera: Camera
    alarms: np.ndarray

    @staticmethod
    def of(images: list[np.ndarray], depths: list[np.ndarray], poses: list[Pose], camera: Camera) -> SurveyViews:
        """At most MOST_KEPT of these views, evenly chosen; all of the camera's size."""
        kept = chosen(len(images))
        matrices = np.stack([np.column_stack([poses[i].rotation, poses[i].translation]) for i in kept])
        depths_kept = np.stack([depths[i] for i in kept]).astype(np.float16)
        alarms = np.zeros(depths_kept.shape, np.uint8)
        return SurveyViews(
            np.stack([images[i] for i in kept]), depths_kept, matrices.astype(np.float32), camera, alarms
        )

    def alarmed(self, logits: list[np.ndarray]) -> SurveyViews:
        """The same with what the comparison said of each photograph beside what the others draw in its place: (H, W) each."""
        steps = [np.clip((x - QUIET) * ALARM_STEPS, 0, 255).astype(np.uint8) for x in logits]
        # the same fault lies a little beside where another photograph had it
        return replace(self, alarms=np.stack([cv2.dilate(x, np.ones((5, 5), np.uint8)) for x in steps]))

    def without(self, pose: Pose, nearest: int = 0) -> SurveyViews:
        """The views but the one at ``pose`` and its ``nearest`` neighbours: what an unseen frame would have had."""
        gap = np.linalg.norm(self.poses[:, :, 3] - pose.translation, axis=1) + np.abs(
            self.poses[:, :, :3] - pose.rotation
        ).sum((1, 2))
        far = np.sort(np.argsort(gap)[nearest + int(gap.min() < 1e-4) :])
        return SurveyViews(self.images[far], self.depths[far], self.poses[far], self.camera, self.alarms[far])

    def recall(self, reference: np.ndarray, depth: np.ndarray, camera: Camera, pose: Pose) -> Recalled:
        """The reference view redrawn from the photographs.

        reference: uint8 (h, w, 3) as the field renders it; depth: float32 (h, w), NaN where not covered; camera: of this size.
        """
        height, width = depth.shape
        known = np.isfinite(depth)
        rays = camera.directions().reshape(height, width, 3).astype(np.float32) @ pose.rotation.T.astype(np.float32)
        sample = (rays[known][::211] * depth[known][::211, None]) + pose.translation.astype(np.float32)
        nearest = self._nearest(sample, pose)
        depth = self._corrected(depth, nearest, camera, pose)
        colour, weight = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
        count, alarm = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        own, pixels = np.empty_like(weight), np.empty((2, height, width), np.float32)
        for index in nearest[:SOURCES]:
            turn, shift = self.poses[index, :, :3], pose.translation.astype(np.float32) - self.poses[index, :, 3]
            weigh(
                depth,
                rays,
                shift,
                turn,
                self.camera.intrinsics,
                self.depths[index].astype(np.float32),
                AGREE,
                pixels,
                own,
            )
            seen = cv2.remap(self.images[index], *pixels, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            raised = cv2.remap(self.alarms[index], *pixels, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            blend(reference, seen, raised, own, colour, weight, count, alarm)
        drawn = reference.copy()
        draw(colour, weight, drawn)
        return Recalled(drawn, count, alarm.astype(np.float32) / ALARM_STEPS, depth)

    def _corrected(self, depth: np.ndarray, asked: list[int], camera: Camera, pose: Pose) -> np.ndarray:
        """The depth (h, w), but what two of the photographs ``asked`` agree on where two see past it and fewer than two see it."""
        if len(asked) < 2:
            return depth
        source, target = self.camera.intrinsics, camera.intrinsics
        depths = self.depths[asked].astype(np.float32)
        turns = np.stack([pose.rotation.T @ self.poses[i, :, :3] for i in asked])
        shifts = np.stack([pose.rotation.T @ (self.poses[i, :, 3] - pose.translation) for i in asked])
        carried = np.empty((len(asked), *depth.shape), np.float32)
        for own, turn, shift, out in zip(depths, turns, shifts, carried, strict=True):
            carry_depth(own, source, turn, shift, target, out)
        return agreed_depth(depth.astype(np.float32), carried, depths, source, turns, shifts, target, AGREE)

    def _nearest(self, points: np.ndarray, pose: Pose) -> list[int]:
        """Which photographs together look best at the points (P, 3): one by one, each adding most to the best two of each point."""
        if len(points) == 0:
            return []
        towards = points - pose.translation.astype(np.float32)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True) + 1e-9
        away = points[None] - self.poses[:, None, :, 3]
        local = np.einsum("npi,nij->npj", away, self.poses[:, :, :3])
        z = np.maximum(local[..., 2], 1e-2)
        u, v = (
            local[..., i] / z * f + c
            for i, f, c in ((0, self.camera.fx, self.camera.cx), (1, self.camera.fy, self.camera.cy))
        )
        inside = (local[..., 2] > 0) & (u > 0) & (u < self.camera.width) & (v > 0) & (v < self.camera.height)
        angle = np.arccos(
            np.clip(np.einsum("npi,pi->np", away, towards) / (np.linalg.norm(away, axis=-1) + 1e-9), -1, 1)
        )
        value = np.where(inside, 1 / (0.05 + angle), 0)
        first, second, taken = np.zeros(len(points)), np.zeros(len(points)), []
        for _ in range(min(ASKED, len(value))):
            best, rest = np.maximum(first, value), np.maximum(second, np.minimum(first, value))
            gain = (best + 0.5 * rest).sum(1)
            gain[taken] = -1
            index = int(gain.argmax())
            first, second = best[index], rest[index]
            taken.append(index)
        return taken

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        camera = np.array(
            [self.camera.width, self.camera.height, self.camera.fx, self.camera.fy, self.camera.cx, self.camera.cy]
        )
        arrays = {"images": self.images, "depths": self.depths, "poses": self.poses, "alarms": self.alarms}
        save_file({**arrays, "camera": camera}, path)

    @staticmethod
    def load(path: Path) -> SurveyViews:
        """Raises OmniadError where the file is not what `save` writes."""
        try:
            data = load_file(path)
            width, height, *intrinsics = data["camera"].tolist()
            alarms = data.get("alarms", np.zeros(data["depths"].shape, np.uint8))  # sites of 0.1.0 have none
            camera = Camera(int(width), int(height), *intrinsics)
            return SurveyViews(data["images"], data["depths"], data["poses"], camera, alarms)
        except Exception as error:  # safetensors raises many kinds for a damaged file
            raise OmniadError(f"{path} is missing or damaged") from error


@compiled
def weigh(depth, rays, shift, turn, source, stored, tolerance, pixels, weight):
    """Where a photograph saw what a view shows, and how much it is to count there, by angle and distance; 0 where its depth differs.

    depth (h, w), rays (h, w, 3): the view's, NaN where unknown, in the map's axes; shift (3,): from the photograph to the view;
    turn (3, 3): map_from_photograph; source: (fx, fy, cx, cy); stored (H, W): the photograph's depth.
    Fills pixels (2, h, w), columns and rows with pixel centres at integers, and weight (h, w).
    """
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            pixels[0, i, j] = pixels[1, i, j] = -1.0
            weight[i, j] = 0.0
            d = depth[i, j]
            if not d > 0:
                continue
            ax, ay, az = rays[i, j, 0] * d, rays[i, j, 1] * d, rays[i, j, 2] * d
            bx, by, bz = ax + shift[0], ay + shift[1], az + shift[2]
            z = turn[0, 2] * bx + turn[1, 2] * by + turn[2, 2] * bz
            if z < 1e-2:
                continue
            u = (turn[0, 0] * bx + turn[1, 0] * by + turn[2, 0] * bz) / z * source[0] + source[2] - 0.5
            v = (turn[0, 1] * bx + turn[1, 1] * by + turn[2, 1] * bz) / z * source[1] + source[3] - 0.5
            pixels[0, i, j], pixels[1, i, j] = u, v
            row, column = math.floor(v + 0.5), math.floor(u + 0.5)
            if row < 0 or column < 0 or row >= stored.shape[0] or column >= stored.shape[1]:
                continue
            if not abs(stored[row, column] - z) < tolerance * z:
                continue
            distance, there = math.sqrt(ax * ax + ay * ay + az * az), math.sqrt(bx * bx + by * by + bz * bz)
            cosine = (ax * bx + ay * by + az * bz) / max(distance * there, 1e-9)
            coarser = max(there / max(distance, 1e-9), 1.0)
            weight[i, j] = 1.0 / (1e-3 + 2.0 * min(max(1.0 - cosine, 0.0), 2.0) * coarser * coarser)


@compiled
def blend(reference, seen, raised, own, colour, weight, count, alarm):
    """Add a photograph's colours ``seen`` (h, w, 3) and what was ``raised`` in it (h, w), where ``own`` (h, w) is above 0.

    The photographs' exposures may differ; the field's ``reference`` (h, w, 3) has one for all, which they are brought to.
    """
    gain = np.empty(3, np.float32)
    for c in range(3):
        mine, theirs, pixels = 0.0, 0.0, 1
        for i in range(own.shape[0]):
            for j in range(own.shape[1]):
                if own[i, j] > 0:
                    mine, theirs, pixels = mine + reference[i, j, c], theirs + seen[i, j, c], pixels + 1
        gain[c] = min(max((mine / pixels + 1) / (theirs / pixels + 1), 0.5), 2.0)
    for i in range(own.shape[0]):
        for j in range(own.shape[1]):
            if own[i, j] > 0:
                for c in range(3):
                    colour[i, j, c] += own[i, j] * gain[c] * seen[i, j, c]
                weight[i, j] += own[i, j]
                count[i, j] += 1
                alarm[i, j] = max(alarm[i, j], raised[i, j])


@compiled
def draw(colour, weight, out):
    """Put the mean colours (h, w, 3) into ``out`` uint8 (h, w, 3) where there is any weight (h, w)."""
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if weight[i, j] > 0:
                for c in range(3):
                    out[i, j, c] = np.uint8(min(max(colour[i, j, c] / weight[i, j] + np.float32(0.5), 0), 255))


@compiled
def carry_depth(depth, source, turn, shift, target, out):
    """Draw a depth map (H, W), NaN where unknown, as another camera sees it into ``out`` (h, w), infinite where nothing falls.

    source, target: (fx, fy, cx, cy); turn, shift: target_from_source.
    """
    out[:] = np.inf
    height, width = out.shape
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            d = depth[i, j]
            if not d > 0:
                continue
            x, y = (j + 0.5 - source[2]) / source[0] * d, (i + 0.5 - source[3]) / source[1] * d
            z = turn[2, 0] * x + turn[2, 1] * y + turn[2, 2] * d + shift[2]
            if z < 1e-2:
                continue
            u = (turn[0, 0] * x + turn[0, 1] * y + turn[0, 2] * d + shift[0]) / z * target[0] + target[2] - 0.5
            v = (turn[1, 0] * x + turn[1, 1] * y + turn[1, 2] * d + shift[1]) / z * target[1] + target[3] - 0.5
            if u < -1 or v < -1 or u >= width or v >= height:
                continue
            row, column = math.floor(v), math.floor(u)
            for k in range(max(row, 0), min(row + 2, height)):
                for m in range(max(column, 0), min(column + 2, width)):
                    out[k, m] = min(out[k, m], z)


@compiled
def agreed_depth(depth, carried, depths, source, turns, shifts, target, tolerance):
    """``depth`` (h, w), but the nearest on which two of ``carried`` (S, h, w) agree where it is unknown, or where two of ``depths``
    (S, H, W) see past it and fewer than two see it.

    source, target: (fx, fy, cx, cy); turns (S, 3, 3), shifts (S, 3): target_from_source.
    """
    result = depth.copy()
    count = carried.shape[0]
    for i in range(depth.shape[0]):
        for j in range(depth.shape[1]):
            d = depth[i, j]
            if d > 0:
                seen = 0
                for s in range(count):
                    seen += abs(carried[s, i, j] - d) < tolerance * d
                if seen >= 2:
                    continue
                x, y = (j + 0.5 - target[2]) / target[0] * d, (i + 0.5 - target[3]) / target[1] * d
                past = 0
                for s in range(count):
                    turn, a, b, c = turns[s], x - shifts[s, 0], y - shifts[s, 1], d - shifts[s, 2]
                    z = turn[0, 2] * a + turn[1, 2] * b + turn[2, 2] * c
                    if z < 1e-2:
                        continue
                    u = (turn[0, 0] * a + turn[1, 0] * b + turn[2, 0] * c) / z * source[0] + source[2]
                    v = (turn[0, 1] * a + turn[1, 1] * b + turn[2, 1] * c) / z * source[1] + source[3]
                    if 0 <= u < depths.shape[2] and 0 <= v < depths.shape[1]:
                        past += depths[s, int(v), int(u)] > (1 + tolerance) * z
                if past < 2:
                    continue
            best = np.inf
            for s in range(count):
                near = carried[s, i, j]
                if near >= best:
                    continue
                for t in range(count):
                    other = carried[t, i, j]
                    if t != s and near <= other <= near * (1 + tolerance):
                        best = near
                        break
            if best < np.inf:
                result[i, j] = best
    return result
