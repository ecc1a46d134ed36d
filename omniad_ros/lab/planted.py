"""Things that are planted at a place in 3D into photographs with known poses: boxes, ellipsoids, pictures and stains.

They are cast ray by ray in their own frame, shaded, given a soft contact shadow, and hidden where the place's depth says that
something stands before them. Nothing is learnt and no renderer is needed, so the photographs stay what they are elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera, Pose

SHAPES = ("box", "ellipsoid", "stain")
FINER = 3
"""Rays a pixel and direction: edges are as soft as a camera's."""
HIDDEN_BEHIND = 0.05
"""Share of the distance by which the place must be nearer than a thing to hide it: less is the depth's own error."""
AMBIENT = 0.55
"""Share of the light that reaches a surface whatever its direction."""
SHADOW, SHADOW_REACH = 0.55, 0.5
"""How much darker the surface is where a thing touches it, and up to where, in half sizes of the thing."""
MARGIN = 1.8
"""Half sizes around a thing that its shadow may reach."""


@dataclass(frozen=True)
class Thing:
    """A thing that touches a surface of the place. base: map_from_thing, its origin on the surface and z away from it; half:
    (3,) half sizes in metres; texture: uint8 RGB (S, S, 3); opacity: of a stain, float32 (S, S) in [0, 1]."""

    shape: str
    base: Pose
    half: np.ndarray
    texture: np.ndarray
    opacity: np.ndarray | None = None

    @property
    def middle(self) -> np.ndarray:
        """(3,) in the map."""
        height = 0.0 if self.shape == "stain" else self.half[2]
        return self.base.apply(np.array([0.0, 0.0, height]))

    def corners(self, margin: float = 1.0) -> np.ndarray:
        """(8, 3) in the map, of a box around it."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [0, 2])).reshape(3, -1).T * [margin, margin, 1]
        return self.base.apply(signs * self.half)


@dataclass(frozen=True)
class View:
    """One photograph: image uint8 RGB (H, W, 3); camera without distortion; pose: map_from_camera; depth: float32 (H, W), NaN
    where it is not known; softness: pixels of the Gaussian that makes a rendering as soft as this photograph."""

    image: np.ndarray
    camera: Camera
    pose: Pose
    depth: np.ndarray
    softness: float


@dataclass(frozen=True)
class _Hits:
    """Where rays meet a thing: depth (H, W), NaN where they miss; normal (H, W, 3) in its frame; u, v (H, W) in [0, 1]."""

    depth: np.ndarray
    normal: np.ndarray
    u: np.ndarray
    v: np.ndarray


def window(thing: Thing, view: View) -> tuple[slice, slice] | None:
    """Rows and columns of the picture that a thing and its shadow may touch; None where it is not in the picture."""
    corners = view.pose.inverse().apply(thing.corners(MARGIN))
    if corners[:, 2].min() <= 1e-3:
        return None
    pixels = view.camera.project(corners)
    low = np.maximum(np.floor(pixels.min(0)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 2, [view.camera.width, view.camera.height])
    return (slice(low[1], high[1]), slice(low[0], high[0])) if (low < high).all() else None


def surroundings(thing: Thing, view: View) -> float | None:
    """Mean brightness of the picture where a thing is to be, in [0, 255]; None where that is not in the picture."""
    found = window(thing, view)
    return None if found is None else float(view.image[found].mean())


def plant(thing: Thing, view: View, light: np.ndarray, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """The photograph with the thing in it, uint8 (H, W, 3), and its mask, bool (H, W), without its shadow.

    light: (3,) unit vector in the map towards the light; gain: how bright this photograph shows the place.
    """
    mask = np.zeros(view.image.shape[:2], bool)
    found = window(thing, view)
    if found is None:
        return view.image, mask
    rows, columns = found
    height, width = rows.stop - rows.start, columns.stop - columns.start
    turn = thing.base.rotation.T
    origin = turn @ (view.pose.translation - thing.base.translation)
    rays = _rays(view.camera, rows, columns) @ (turn @ view.pose.rotation).T
    depth = cv2.resize(view.depth[found], (width * FINER, height * FINER), interpolation=cv2.INTER_NEAREST)
    hits = _cast(thing, origin, rays)
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(hits.depth) & ~(hits.depth > depth * (1 + HIDDEN_BEHIND))
    color, opacity = _painted(thing, hits, turn @ light)
    opacity = np.where(seen, opacity, 0.0).astype(np.float32)
    shaded = view.image[found].astype(np.float32)
    if thing.shape != "stain":
        shaded = shaded * (1 - _averaged(_shadow(thing, origin, rays, depth, turn @ light)))[..., None]
    color = cv2.GaussianBlur(_averaged(color * opacity[..., None]), (0, 0), view.softness)
    covered = _averaged(opacity)
    soft = cv2.GaussianBlur(covered, (0, 0), view.softness)
    image = view.image.copy()
    image[found] = np.clip(np.round(shaded * (1 - soft[..., None]) + gain * color), 0, 255)
    mask[found] = covered > (0.25 if thing.shape == "stain" else 0.5)
    return image, mask


def _rays(camera: Camera, rows: slice, columns: slice) -> np.ndarray:
    """(H, W, 3) rays of a window in the camera's frame with z = 1, `FINER` a pixel in each direction."""
    u, v = ((np.arange((s.stop - s.start) * FINER) + 0.5) / FINER + s.start for s in (columns, rows))
    x, y = np.meshgrid((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
    return np.stack([x, y, np.ones_like(x)], -1)


def _averaged(values: np.ndarray) -> np.ndarray:
    """From `FINER` rays a pixel to pixels."""
    size = values.shape[1] // FINER, values.shape[0] // FINER
    return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _cast(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> _Hits:
    """Where rays from ``origin`` (3,) meet the thing, all in its frame."""
    if thing.shape == "stain":
        return _on_surface(thing, origin, rays)
    start = origin - [0, 0, thing.half[2]]
    return (_on_box if thing.shape == "box" else _on_ellipsoid)(thing, start, rays)


def _on_surface(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> _Hits:
    depth = _surface_depth(origin, rays)
    place = (origin + depth[..., None] * rays)[..., :2] / thing.half[:2]
    depth[np.abs(place).max(-1) > 1] = np.nan
    return _Hits(depth, np.broadcast_to([0.0, 0.0, 1.0], rays.shape), *np.moveaxis(place / 2 + 0.5, -1, 0))


def _surface_depth(origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Depth of the surface z = 0 along each ray, NaN where a ray does not come to it from its outside."""
    falling = np.where(rays[..., 2] < -1e-6, rays[..., 2], np.nan)
    return -origin[2] / falling if origin[2] > 0 else np.full(rays.shape[:2], np.nan)


def _on_box(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> _Hits:
    steep = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    planes = np.stack([(-thing.half - origin) / steep, (thing.half - origin) / steep])
    entry, leaving = planes.min(0), planes.max(0)
    axis, depth = entry.argmax(-1), entry.max(-1)
    depth = np.where((depth < leaving.min(-1)) & (depth > 0), depth, np.nan)
    place = (origin + depth[..., None] * rays) / thing.half / 2 + 0.5
    side = -np.sign(np.take_along_axis(rays, axis[..., None], -1))
    normal = side * (np.arange(3) == axis[..., None])
    u = np.where(axis == 0, place[..., 1], place[..., 0])
    v = np.where(axis == 2, place[..., 1], 1 - place[..., 2])
    return _Hits(depth, normal, u, v)


def _on_ellipsoid(thing: Thing, origin: np.ndarray, rays: np.ndarray) -> _Hits:
    start, along = origin / thing.half, rays / thing.half
    a, b, c = (along**2).sum(-1), (along * start).sum(-1), start @ start - 1
    with np.errstate(invalid="ignore"):
        depth = (-b - np.sqrt(b**2 - a * c)) / a
    depth = np.where(depth > 0, depth, np.nan)
    place = start + depth[..., None] * along
    normal = place / thing.half
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    u = np.arctan2(place[..., 1], place[..., 0]) / (2 * np.pi) + 0.5
    return _Hits(depth, normal, u, np.arccos(np.clip(place[..., 2], -1, 1)) / np.pi)


def _painted(thing: Thing, hits: _Hits, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour float32 (H, W, 3) in [0, 255] and opacity (H, W) of the hits."""
    size = len(thing.texture)
    u, v = (np.nan_to_num(x * size - 0.5).clip(0, size - 1).astype(np.float32) for x in (hits.u, hits.v))
    color = cv2.remap(thing.texture.astype(np.float32), u, v, cv2.INTER_LINEAR)
    shade = AMBIENT + (1 - AMBIENT) * np.nan_to_num(hits.normal @ light).clip(0)
    if thing.opacity is None:
        return color * shade[..., None].astype(np.float32), np.ones(u.shape, np.float32)
    return color, cv2.remap(thing.opacity, u, v, cv2.INTER_LINEAR)


def _shadow(thing: Thing, origin: np.ndarray, rays: np.ndarray, depth: np.ndarray, light: np.ndarray) -> np.ndarray:
    """How much a thing darkens the surface that it stands on, (H, W) in [0, 1]."""
    on_surface = _surface_depth(origin, rays)
    with np.errstate(invalid="ignore"):
        there = np.isfinite(on_surface) & ~(np.abs(on_surface - depth) > HIDDEN_BEHIND * depth)
    place = np.where(there[..., None], (origin + on_surface[..., None] * rays)[..., :2], 1e6)
    place = place + 0.4 * thing.half[2] * light[:2]  # it falls away from the light
    if thing.shape == "box":
        away = np.linalg.norm(np.maximum(np.abs(place) - thing.half[:2], 0), axis=-1)
    else:
        away = np.maximum(np.linalg.norm(place, axis=-1) - 0.6 * thing.half[:2].mean(), 0)
    return SHADOW * np.exp(-((away / (SHADOW_REACH * thing.half.mean())) ** 2))
