"""Pictures for the report: encoded, coloured, outlined."""

from __future__ import annotations

import base64

import cv2
import numpy as np

SNAPSHOT_WIDTH = 480
QUALITY = 86


def encode_jpeg(image: np.ndarray, width: int | None = None) -> bytes:
    """A uint8 RGB picture as JPEG, scaled to ``width`` pixels where that is given."""
    if width is not None and image.shape[1] != width:
        image = scaled(image, width)
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape}")
    return data.tobytes()


def data_uri(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def scaled(image: np.ndarray, width: int) -> np.ndarray:
    method = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_CUBIC
    return cv2.resize(image, (width, max(1, round(image.shape[0] * width / image.shape[1]))), interpolation=method)


def snapshot_pictures(snapshot, box) -> list[str]:
    """Data URIs of a track's frame, reference view and heatmap, each with the region's outline."""
    frame, reference, heatmap = snapshot
    factor = SNAPSHOT_WIDTH / frame.shape[1]
    pictures = frame, reference, heat_over_grey(frame, heatmap)
    return [data_uri(encode_jpeg(_outlined(scaled(p, SNAPSHOT_WIDTH), box, factor))) for p in pictures]


def heat_over_grey(frame: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """A uint8 heatmap in colour over the darkened frame, so that one sees what it speaks of. uint8 RGB (H, W, 3)."""
    if heatmap.shape != frame.shape[:2]:
        heatmap = cv2.resize(heatmap, frame.shape[1::-1])
    heat = cv2.applyColorMap(heatmap, cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = np.sqrt(heatmap[..., None] / 255.0)
    grey = 0.55 * cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None]
    return np.round(grey * (1 - weight) + heat * weight).astype(np.uint8)


def _outlined(picture: np.ndarray, box, factor: float) -> np.ndarray:
    if box is None:
        return picture
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = (round(v * factor) for v in box)
    pad = 6
    first, last = (max(x0 - pad, 1), max(y0 - pad, 1)), (min(x1 + pad, width - 2), min(y1 + pad, height - 2))
    picture = np.ascontiguousarray(picture)
    cv2.rectangle(picture, first, last, (0, 0, 0), 4, cv2.LINE_AA)
    return cv2.rectangle(picture, first, last, (255, 255, 255), 2, cv2.LINE_AA)
