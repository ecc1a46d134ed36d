"""Synthetic anomalies and nuisances: how a detector learns without a single labelled anomaly.

An anomaly is planted in the frame (added, recoloured, stained, moved) or in its reference (which makes it missing); the
mask says where. Nuisances are what differs between a frame and its rendering although nothing changed: pose, exposure,
white balance, focus, noise, soft shadows, and the blur, ghosts and floaters of a radiance field.
All images here are float32 RGB (H, W, 3) in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.geometry import Camera
from omniad_ros.detection.matching import motion_kernel
from omniad_ros.detection.pictures import noise, picture

KINDS = ("added", "missing", "recoloured", "stained", "moved")
CROP = (128, 192)
"""Height and width of what the comparison is trained on; anomalies are planted into the crop, at sizes relative to it."""
LEAST_CHANGE = 0.035
"""Mean colour difference under which a planted anomaly cannot be asked for."""


@dataclass(frozen=True)
class Pair:
    """What the comparison learns from: frame, reference, where they truly differ, and how much each pixel counts."""

    frame: np.ndarray
    reference: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


def crop_size(image: np.ndarray) -> tuple[int, int]:
    """(height, width) of CROP, or of what fits into an image (H, W, 3): multiples of 32."""
    return tuple(min(most, side // 32 * 32) for most, side in zip(CROP, image.shape[:2], strict=True))


def cropped(rng: np.random.Generator, *images: np.ndarray, size: tuple[int, int] | None = None) -> list[np.ndarray]:
    """One random window of ``size`` (height, width), by default `crop_size`, from all images, mirrored half of the time."""
    height, width = images[0].shape[:2]
    h, w = size or crop_size(images[0])
    top, left, mirror = rng.integers(height - h + 1), rng.integers(width - w + 1), rng.random() < 0.5
    windows = [i[top : top + h, left : left + w] for i in images]
    return [np.ascontiguousarray(i[:, ::-1] if mirror else i) for i in windows]


def _colour_segment(rng: np.random.Generator, image: np.ndarray) -> np.ndarray | None:
    """A region of like colour, grown from a random pixel: often an object, or a face of one. (H, W) float32 or None."""
    h, w = image.shape[:2]
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5)
    fill = np.zeros((h + 2, w + 2), np.uint8)
    tolerance = (float(rng.uniform(0.02, 0.12)),) * 3
    seed = (int(rng.integers(w)), int(rng.integers(h)))
    cv2.floodFill(
        smooth, fill, seed, 0, tolerance, tolerance, 8 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8)
    )
    segment = cv2.morphologyEx(fill[1:-1, 1:-1], cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    contours, _ = cv2.findContours(segment, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    largest = max(contours, key=cv2.contourArea)
    if not 25 <= cv2.contourArea(largest) <= h * w / 8:
        return None
    return cv2.drawContours(np.zeros((h, w), np.float32), [largest], 0, 1.0, -1)


def drawn_shape(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """An ellipse, polygon, box or blob from 6 pixels to a quarter of the view across: (H, W) float32 in [0, 1]."""
    size = np.exp(rng.uniform(np.log(6), np.log(0.27 * max(h, w))))
    centre = rng.uniform((0, 0), (w, h))
    aspect, angle = np.exp(rng.uniform(-0.8, 0.8)), rng.uniform(0, 360)
    axes = 0.5 * size * np.array([np.sqrt(aspect), 1 / np.sqrt(aspect)])
    kind, shape = rng.integers(4), np.zeros((h, w), np.float32)
    if kind == 0:
        cv2.ellipse(shape, (centre.tolist(), (2 * axes).tolist(), angle), 1.0, -1)
    elif kind == 1:
        turns = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(4, 9)))
        corners = centre + 0.5 * size * rng.uniform(0.5, 1, (len(turns), 1)) * np.stack(
            [np.cos(turns), np.sin(turns)], 1
        )
        cv2.fillPoly(shape, [np.int32(corners)], 1.0)
    elif kind == 2:
        cv2.fillPoly(shape, [np.int32(cv2.boxPoints((centre.tolist(), (2 * axes).tolist(), angle)))], 1.0)
    else:
        y, x = np.mgrid[:h, :w].astype(np.float32)
        radius = np.hypot((x - centre[0]) / axes[0], (y - centre[1]) / axes[1])
        shape = np.float32(radius + 1.2 * (noise(rng, h, w, 2.5 * max(h, w) / size, 2) - 0.5) < 0.9)
    return shape


def _shape(rng: np.random.Generator, image: np.ndarray, segment: float = 0.5) -> np.ndarray:
    found = _colour_segment(rng, image) if rng.random() < segment else None
    return found if found is not None else drawn_shape(rng, *image.shape[:2])


def _soft(rng: np.random.Generator, shape: np.ndarray, softest: float = 1.5) -> np.ndarray:
    sigma = 0.5 if rng.random() < 0.6 else rng.uniform(0.5, softest)
    return cv2.GaussianBlur(shape, (0, 0), float(sigma))[..., None]


def shading(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    """Light that falls on a pasted thing: a ramp over its extent, (H, W, 1)."""
    x, y, w, h = cv2.boundingRect(np.uint8(shape > 0.5))
    yy, xx = np.mgrid[: shape.shape[0], : shape.shape[1]].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = ((xx - x) / max(w, 1) - 0.5) * np.cos(angle) + ((yy - y) / max(h, 1) - 0.5) * np.sin(angle)
    return np.clip(rng.uniform(0.7, 1.2) + rng.uniform(0, 0.9) * ramp, 0.25, 1.6)[..., None].astype(np.float32)


def _moved(image: np.ndarray, shape: np.ndarray, rng: np.random.Generator, far: float) -> tuple[np.ndarray, np.ndarray]:
    """Image and shape turned, scaled and shifted about the shape's middle."""
    h, w = shape.shape
    x, y, bw, bh = cv2.boundingRect(np.uint8(shape > 0.5))
    centre = (x + bw / 2, y + bh / 2)
    matrix = cv2.getRotationMatrix2D(centre, float(rng.normal(0, 15)), float(np.exp(rng.normal(0, 0.12))))
    angle, step = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, far) * max(h, w)
    matrix[:, 2] += step * np.array([np.cos(angle), np.sin(angle)])
    return (
        cv2.warpAffine(image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101),
        cv2.warpAffine(shape, matrix, (w, h), flags=cv2.INTER_LINEAR),
    )


def _filled(image: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """The image with the shape's inside filled from around it, as if the thing were not there."""
    hole = cv2.dilate(np.uint8(shape > 0.1) * 255, np.ones((5, 5), np.uint8))
    small = cv2.resize(np.uint8(np.clip(image, 0, 1) * 255), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    hole_small = cv2.resize(hole, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, hole_small, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, (image.shape[1], image.shape[0])).astype(np.float32) / 255
    return np.where(hole[..., None] > 0, filled, image)


def _thing(rng: np.random.Generator, image: np.ndarray, others: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Something to paste: content (H, W, 3) and its shape (H, W); cut from another view, a picture, or plain."""
    h, w = image.shape[:2]
    draw = rng.random()
    if draw < 0.5:
        source = others[rng.integers(len(others))]
        shape = _shape(rng, source, 0.7)
        content, shape = _moved(source, shape, rng, 0.5)
        if rng.random() < 0.3:
            content = content[..., rng.permutation(3)]
        return content * shading(rng, shape), shape
    shape = _shape(rng, image, 0.15)
    if draw < 0.8:
        content = picture(rng, h, w, 0.5).astype(np.float32) / 255
    else:
        content = np.broadcast_to(rng.random(3, dtype=np.float32), (h, w, 3))
    return content * shading(rng, shape), shape


def _recolour(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    if rng.random() < 0.6:
        hsv = cv2.cvtColor(np.clip(image, 0, 1), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(25, 335)) % 360
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.7, 1.6) + rng.uniform(0, 0.25), 0, 1)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return np.clip(
        image[..., rng.permutation(3)] * np.float32(rng.uniform(0.4, 1.5, 3)) + np.float32(rng.uniform(-0.1, 0.15, 3)),
        0,
        1,
    )


def plant(
    rng: np.random.Generator, kind: str, image: np.ndarray, others: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Plant one anomaly: the changed image, and how much each pixel belongs to it (H, W) in [0, 1].

    ``others`` are further images of the same size to cut from. "missing" is "added" planted in the reference.
    """
    h, w = image.shape[:2]
    if kind in ("added", "missing"):
        content, shape = _thing(rng, image, others)
        alpha = _soft(rng, shape)
        if rng.random() < 0.4:  # what stands somewhere throws a soft shadow, which is no part of it
            shift = np.float32([[1, 0, rng.uniform(-8, 8)], [0, 1, rng.uniform(0, 8)]])
            shadow = cv2.GaussianBlur(cv2.warpAffine(shape, shift, (w, h)), (0, 0), float(rng.uniform(2, 6)))
            image = image * (1 - rng.uniform(0.1, 0.5) * shadow[..., None])
    elif kind == "recoloured":
        shape = _shape(rng, image, 0.8)
        content, alpha = _recolour(rng, image), _soft(rng, shape)
    elif kind == "stained":
        shape = _shape(rng, image, 0.1)
        if rng.random() < 0.4:  # in drops and specks
            shape = shape * np.float32(noise(rng, h, w, rng.uniform(15, 60)) > rng.uniform(0.45, 0.65))
        alpha = _soft(rng, shape, 4.0)
        colour = rng.random(3, dtype=np.float32) ** rng.uniform(0.7, 2.5)
        strength = rng.uniform(0.35, 0.95)
        content = image * (1 - strength) + strength * (image * colour if rng.random() < 0.5 else colour)
    else:
        shape = _shape(rng, image, 0.8)
        content, there = _moved(image, shape, rng, 0.12)
        alpha_there, hole = _soft(rng, there), _soft(rng, shape)
        emptied = image * (1 - hole) + _filled(image, shape) * hole
        changed = emptied * (1 - alpha_there) + content * alpha_there
        return changed, np.maximum(alpha_there, hole)[..., 0]
    return image * (1 - alpha) + np.clip(content, 0, 1) * alpha, alpha[..., 0]


def with_anomalies(
    rng: np.random.Generator,
    frame: np.ndarray,
    reference: np.ndarray,
    others: list[np.ndarray],
    *,
    blur: float,
    none: float = 0.15,
) -> Pair:
    """Plant up to three anomalies in a frame or its reference.

    others: images to cut from; blur: pixels by which the reference is soft already; none: how often nothing is planted.
    """
    h, w = frame.shape[:2]
    mask, weight = np.zeros((h, w), np.float32), np.ones((h, w), np.float32)
    for _ in range(0 if rng.random() < none else rng.integers(1, 4)):
        kind = KINDS[rng.integers(len(KINDS))]
        in_reference = kind == "missing" or rng.random() < 0.2
        target = reference if in_reference else frame
        changed, alpha = plant(rng, kind, target, others)
        if in_reference and blur > 0:
            near = cv2.dilate(alpha, np.ones((5, 5), np.uint8))[..., None]
            changed = changed * (1 - near) + cv2.GaussianBlur(changed, (0, 0), blur) * near
        inside = alpha > 0.5
        if not inside.any():
            continue
        strength = cv2.GaussianBlur(np.abs(changed - target).mean(2), (0, 0), 2.0)
        weight[inside & (strength < LEAST_CHANGE)] = 0
        weight[(alpha > 0.2) & (alpha < 0.6)] *= 0.3
        mask[inside & (strength >= LEAST_CHANGE)] = 1
        frame, reference = (frame, changed) if in_reference else (changed, reference)
    return Pair(frame, reference, mask, weight)


# ----------------------------------------------------------------------------------------------------------- nuisances


def jittered(rng: np.random.Generator, image: np.ndarray, pixels: float) -> np.ndarray:
    """The image as from a slightly wrong pose: a shift, turn and zoom that move its pixels by about ``pixels``."""
    h, w = image.shape[:2]
    corners = np.float32([[0, 0], [w, 0], [w, h], [0, h]])
    wrong = corners + np.float32(rng.normal(0, pixels, 2)) + np.float32(rng.normal(0, 0.6 * pixels, (4, 2)))
    return cv2.warpPerspective(
        image, cv2.getPerspectiveTransform(corners, wrong), (w, h), borderMode=cv2.BORDER_REPLICATE
    )


def photometric(rng: np.random.Generator, image: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Another exposure, white balance and gamma."""
    gain = np.exp(rng.normal(0, 0.15 * strength)) * np.exp(rng.normal(0, 0.05 * strength, 3))
    shifted = image * np.float32(gain) + np.float32(rng.normal(0, 0.03 * strength))
    return np.clip(shifted, 0, 1) ** np.float32(np.exp(rng.normal(0, 0.12 * strength)))


def shadowed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Light that changed: a broad gradient, or a few shadows, whose edges may be soft or sharp, and which may be where light was."""
    h, w = image.shape[:2]
    if rng.random() < 0.4:
        field = noise(rng, h, w, rng.uniform(0.8, 2.5)) - 0.5
        return image * np.float32(1 + rng.uniform(-0.5, 0.5) * field)[..., None]
    for _ in range(rng.integers(1, 4)):
        shade = cv2.GaussianBlur(drawn_shape(rng, h, w), (0, 0), float(np.exp(rng.uniform(-0.7, 2.3))))[..., None]
        tint = 1 + np.float32(rng.normal(0, 0.06, 3))
        darker = 1 - np.float32(rng.uniform(0.05, 0.65)) * shade * tint
        image = image * darker if rng.random() < 0.7 else image / np.maximum(darker, 0.5)
    return image


def relit(rng: np.random.Generator, image: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The image under another lamp: what faces it is brighter. normals: (H, W, 3) of the surfaces, 0 where they are not known."""
    before, after = (_direction(rng) for _ in range(2))
    ambient, tint = rng.uniform(0.3, 0.8), 1 + np.float32(rng.normal(0, 0.08, 3))
    old, new = (ambient + (1 - ambient) * np.clip(normals @ light, 0, None) for light in (before, after))
    known = (normals != 0).any(-1)
    ratio = np.where(known, np.clip(new / old, 0.4, 2.5), 1.0).astype(np.float32)
    return image * cv2.GaussianBlur(ratio, (0, 0), 0.7)[..., None] * tint


def _direction(rng: np.random.Generator) -> np.ndarray:
    """A direction (3,) to a lamp in a camera's frame: from above, from some side, rather from before the things than from behind."""
    direction = np.array([rng.normal(0, 0.7), rng.normal(-0.8, 0.4), rng.normal(-0.5, 0.5)])
    return (direction / np.linalg.norm(direction)).astype(np.float32)


def surface_normals(depth: np.ndarray, camera: Camera) -> np.ndarray:
    """Unit normals (H, W, 3) float32 in the camera's frame, towards it, of a depth map (H, W); 0 where it is not known."""
    known = np.isfinite(depth)
    filled = np.where(known, depth, 0).astype(np.float32)
    smooth = cv2.GaussianBlur(cv2.medianBlur(filled, 5), (0, 0), 1.0)
    points = smooth[..., None] * camera.directions().astype(np.float32)
    dx, dy = (cv2.Sobel(points, cv2.CV_32F, x, y) for x, y in ((1, 0), (0, 1)))
    normals = np.cross(dy, dx)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    whole = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return np.where(whole[..., None], normals, 0).astype(np.float32)


def sensed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """What the camera does: focus or motion blur, noise, and at times JPEG."""
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.3)))
    if rng.random() < 0.2:
        kernel = motion_kernel(float(np.exp(rng.uniform(np.log(2), np.log(12)))), rng.uniform(0, np.pi))
        image = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    image = image + np.float32(rng.uniform(0, 0.025)) * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image, 0, 1)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
        image = (
            cv2.imdecode(cv2.imencode(".jpg", np.uint8(image * 255), quality)[1], cv2.IMREAD_COLOR).astype(np.float32)
            / 255
        )
    return image


def nuisances(
    rng: np.random.Generator,
    frame: np.ndarray,
    reference: np.ndarray,
    pixels: float = 0.6,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its reference, made to differ in all that is no anomaly; normals: of the surfaces, where they are known."""
    reference = jittered(rng, reference, abs(rng.normal(0, pixels)))
    if normals is not None and rng.random() < 0.4:
        frame = relit(rng, frame, normals)
    if rng.random() < 0.4:
        frame = shadowed(rng, frame)
    if rng.random() < 0.6:
        frame = photometric(rng, frame)
    return sensed(rng, frame), reference


def rendered(rng: np.random.Generator, image: np.ndarray, severity: float) -> np.ndarray:
    """What a radiance field makes of a clean view: uneven blur, ripples, wrong colours here and there, grain, floaters.

    ``severity`` is 0 for a rendering from a pose that the field was trained on, about 1 for one it was not.
    """
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    ripple = severity * rng.uniform(0.3, 1.2)
    warp = [
        np.float32(rng.normal(0, 1)) * ripple * 2 * (noise(rng, h, w, rng.uniform(4, 14), 2) - 0.5) for _ in range(2)
    ]
    image = cv2.remap(image, x + warp[0], y + warp[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    level = noise(rng, h, w, rng.uniform(2, 10), 2) ** 1.5 * (0.4 + severity * rng.uniform(0.4, 1.6)) + rng.uniform(
        0.1, 0.5
    )
    stack = [image] + [cv2.GaussianBlur(image, (0, 0), s) for s in (0.7, 1.4, 2.8)]
    blurred = np.zeros_like(image)
    for i, layer in enumerate(stack):
        blurred += layer * np.clip(1 - np.abs(1.5 * level - i), 0, 1)[..., None]
    blurred += stack[-1] * np.clip(1.5 * level - 3, 0, None).clip(0, 1)[..., None]
    image = (
        blurred
        / np.maximum(
            sum(np.clip(1 - np.abs(1.5 * level - i), 0, 1) for i in range(4)) + (1.5 * level - 3).clip(0, 1), 1e-3
        )[..., None]
    )
    cells, amount = rng.uniform(10, 60), rng.uniform(0, 0.06) * severity
    tint = np.stack([noise(rng, h, w, cells, 2) for _ in range(3)], axis=2) - 0.5
    grey = noise(rng, h, w, cells)[..., None] - 0.5
    image = image + amount * (2 * grey + 0.7 * tint)
    for _ in range(rng.poisson(2.0 * severity)):
        haze = cv2.GaussianBlur(drawn_shape(rng, h, w), (0, 0), float(rng.uniform(2.0, 9)))
        haze *= rng.uniform(0.15, 0.8) * (0.4 + 0.6 * noise(rng, h, w, rng.uniform(5, 30), 2))
        row, column = rng.integers(h), rng.integers(w)
        colour = 0.7 * image[row, column] + 0.3 * rng.random(3, dtype=np.float32)
        image = image * (1 - haze[..., None]) + haze[..., None] * colour
    return np.clip(image, 0, 1).astype(np.float32)


def redrawn(rng: np.random.Generator, image: np.ndarray, severity: float) -> np.ndarray:
    """What `Photographs.redraw` makes of a clean view: sharp and almost in place, in patches only what the field has rendered."""
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    warp = [np.float32(rng.normal(0, 0.5)) * 2 * (noise(rng, h, w, rng.uniform(4, 20), 2) - 0.5) for _ in range(2)]
    sharp = cv2.remap(image, x + warp[0], y + warp[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if rng.random() < 0.7:
        sharp = cv2.GaussianBlur(sharp, (0, 0), float(rng.uniform(0.3, 0.7)))
    gaps = (noise(rng, h, w, rng.uniform(3, 12), 3) > rng.uniform(0.6, 1.0))[..., None]
    return np.where(gaps, rendered(rng, image, severity), np.clip(sharp, 0, 1)).astype(np.float32)
