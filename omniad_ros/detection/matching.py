"""What stands before the comparison network: the reference is brought to its frame's exposure, white balance and blur.

Whatever the camera did to the whole picture is no change of the place. Exposure is a robust gain and bias a channel; a frame that
a moving or unfocused camera blurred is met by a reference that is blurred alike, so that edges are compared with edges; where only one of
the two has colours, as with a monochrome camera, both are compared without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from omniad_ros.reference.view import ReferenceView


@dataclass(frozen=True)
class ExposureOptions:
    """How a reference is brought to its frame's exposure; the numbers were set by judgement and not tuned since.

    side: pixels to which both are shrunk before they are fitted; least_pixels: of the shrunk images, without which nothing is
    fitted; rounds: of re-weighing; ridge: variance that keeps the gain at one where the view has no contrast; gains: bounds of the gain;
    least_scale: residual (of 1) up to which a pixel counts in full, however well the others fit.
    """

    side: int = 80
    least_pixels: int = 50
    rounds: int = 8
    ridge: float = 1e-3
    gains: tuple[float, float] = (0.4, 2.5)
    least_scale: float = 0.01


EXPOSURE = ExposureOptions()

COLOURLESS = 1.0
"""Grey levels by which the channels of a picture without colours differ at most, on average: what JPEG leaves of them."""


def colours_matched(frame: np.ndarray, reference: ReferenceView) -> tuple[np.ndarray, ReferenceView]:
    """A frame, uint8 RGB (H, W, 3), and its reference view, both grey where one of them is; as they are where they are alike."""
    if _colourless(frame) == _colourless(reference.image):
        return frame, reference
    detail = None if reference.detail is None else _grey(reference.detail)
    return _grey(frame), replace(reference, image=_grey(reference.image), detail=detail)


def _colourless(image: np.ndarray) -> bool:
    step = max(1, max(image.shape[:2]) // EXPOSURE.side)
    few = image[::step, ::step].astype(np.int16)
    return float((few.max(axis=2) - few.min(axis=2)).mean()) < COLOURLESS


def _grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def exposure_matched(frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The reference with the frame's exposure and white balance: a robust gain and bias for each channel.

    frame, reference: float32 (H, W, 3) in [0, 1]; covered: bool (H, W). Where nothing is covered the reference becomes the
    frame, so that there is nothing to compare.
    """
    size = _shrunk(frame, EXPOSURE.side)[0]
    inside = cv2.resize(covered.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
    corrected = reference
    if inside.sum() >= EXPOSURE.least_pixels:
        target, source = (cv2.resize(i, size, interpolation=cv2.INTER_AREA)[inside] for i in (frame, reference))
        gain, bias = _gain_and_bias(source, target)
        corrected = np.clip(reference * gain + bias, 0, 1)
    return np.where(covered[..., None], corrected, frame).astype(np.float32)


def _gain_and_bias(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and bias (3,) that bring ``source`` to ``target``, (N, 3) both, by re-weighted least squares: what has changed is
    an outlier."""
    weight = np.ones(len(target), np.float32)
    for _ in range(EXPOSURE.rounds):
        total = weight.sum() + 1e-6
        sx, sy = (weight[:, None] * source).sum(0) / total, (weight[:, None] * target).sum(0) / total
        covariance = (weight[:, None] * (source - sx) * (target - sy)).sum(0) / total + EXPOSURE.ridge
        variance = (weight[:, None] * (source - sx) ** 2).sum(0) / total + EXPOSURE.ridge
        gain = np.clip(covariance / variance, *EXPOSURE.gains)
        bias = sy - gain * sx
        residual = np.abs(source * gain + bias - target).max(1)
        scale = max(1.5 * float(np.median(residual)), EXPOSURE.least_scale)
        weight = 1 / (1 + (residual / scale) ** 2) ** 2
    return gain, bias


@dataclass(frozen=True)
class BlurOptions:
    """How the blur of a frame is found: the kernel of a few with which the reference comes nearest to it.

    side: pixels to which both are shrunk before they are compared; gaussians: standard deviations, lengths: of straight motions, in
    shrunk pixels, and directions: of these; sharp: share of the reference's edge strength from which a frame counts as sharp, and nothing is
    tried; most_difference: of grey levels in [0, 1] that a pixel counts for, so that what has changed does not decide; better:
    share of the difference that a kernel must save, for some blur always hides noise. Set by judgement.
    """

    side: int = 160
    gaussians: tuple[float, ...] = (0.6, 1.0, 1.6)
    lengths: tuple[float, ...] = (2.0, 3.0, 4.5, 6.5)
    directions: int = 8
    sharp: float = 0.85
    most_difference: float = 0.1
    better: float = 0.05


BLUR = BlurOptions()


def blur_matched(frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The reference (H, W, 3), of the frame's exposure, as blurred as the frame; the arguments as in `exposure_matched`."""
    kernel = blur_between(frame, reference, covered)
    if kernel is None:
        return reference
    return np.where(covered[..., None], cv2.filter2D(reference, -1, kernel, borderType=cv2.BORDER_REPLICATE), frame)


def blur_between(frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray | None:
    """The kernel, float32 (K, K) of sum 1, that makes the reference most like the frame; None where that is as sharp."""
    size, factor = _shrunk(frame, BLUR.side)
    inside = cv2.resize(covered.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
    if inside.sum() < EXPOSURE.least_pixels:
        return None
    blurred, sharp = (
        cv2.resize(cv2.cvtColor(i, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for i in (frame, reference)
    )
    if _edge_strength(blurred, inside) >= BLUR.sharp * _edge_strength(sharp, inside):
        return None

    def difference(picture: np.ndarray) -> float:
        return float(np.minimum(np.abs(picture - blurred)[inside], BLUR.most_difference).mean())

    errors = [difference(cv2.filter2D(sharp, -1, k, borderType=cv2.BORDER_REPLICATE)) for k in _kernels(1)]
    best = int(np.argmin(errors))
    return _kernels(factor)[best] if errors[best] < (1 - BLUR.better) * difference(sharp) else None


def blur_extent(frame: np.ndarray, reference: ReferenceView) -> float:
    """Pixels of the frame, uint8 RGB (H, W, 3), over which it is blurred beside a reference of its size, 0 where it is as sharp: the
    length of a motion, or of one that spreads as far as a bad focus does."""
    sharp, seen = (i.astype(np.float32) / 255 for i in (reference.image, frame))
    kernel = blur_between(seen, exposure_matched(seen, sharp, reference.covered), reference.covered)
    if kernel is None:
        return 0.0
    rows, columns = np.indices(kernel.shape) - (len(kernel) - 1) / 2
    spread = [[(kernel * a * b).sum() for a in (rows, columns)] for b in (rows, columns)]
    return float(np.sqrt(12 * np.linalg.eigvalsh(spread)[-1]))


def _shrunk(image: np.ndarray, side: int) -> tuple[tuple[int, int], int]:
    """(width, height) of about ``side`` pixels along the longer side, and the whole number by which the image shrinks to it."""
    factor = max(1, round(max(image.shape[:2]) / side))
    return tuple(max(8, n // factor) for n in image.shape[1::-1]), factor


def _edge_strength(grey: np.ndarray, inside: np.ndarray) -> float:
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return float((dx * dx + dy * dy)[inside].mean()) ** 0.5


@cache
def _kernels(scale: int) -> tuple[np.ndarray, ...]:
    """All kernels that are tried, ``scale`` times as large."""
    angles = np.pi * np.arange(BLUR.directions) / BLUR.directions
    motions = [motion_kernel(scale * length, angle) for length in BLUR.lengths for angle in angles]
    return (*(_gaussian_kernel(scale * deviation) for deviation in BLUR.gaussians), *motions)


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Of a straight motion over ``length`` pixels while the shutter is open: float32 (K, K) of sum 1."""
    radius = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    for along in np.linspace(-length / 2, length / 2, 8 * int(np.ceil(length)) + 1):
        x, y = radius + along * np.cos(angle), radius + along * np.sin(angle)
        column, row = int(x), int(y)
        for i, j, share in ((0, 0, (1 - x % 1) * (1 - y % 1)), (0, 1, x % 1 * (1 - y % 1)),
                            (1, 0, (1 - x % 1) * (y % 1)), (1, 1, x % 1 * (y % 1))):  # fmt: skip
            kernel[row + i, column + j] += share
    return kernel / kernel.sum()


def _gaussian_kernel(deviation: float) -> np.ndarray:
    line = cv2.getGaussianKernel(2 * int(np.ceil(3 * deviation)) + 1, deviation).astype(np.float32)
    return line @ line.T


def network_input(frame: np.ndarray, reference: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Frame and reference at its exposure and blur (H, W, 6) float32, both scaled by the frame's own mean and contrast."""
    matched = blur_matched(frame, exposure_matched(frame, reference, covered), covered)
    both = np.concatenate([frame, matched], axis=2)
    return (both - frame.mean()) / max(float(frame.std()), 0.06)
