"""Pictures for the report: a track's snapshot, coloured and outlined."""

from __future__ import annotations

import cv2
import numpy as np

from omniad_ros.core.images import data_uri, encode_jpeg, heat_over_grey, to_width

SNAPSHOT_WIDTH = 480


def snapshot_pictures(snapshot, box) -> list[str]:
    """Data URIs of a track's frame, reference view and heatmap, each with the region's outline."""
    frame, reference, heatmap = snapshot
    factor = SNAPSHOT_WIDTH / frame.shape[1]
    pictures = frame, reference, heat_over_grey(frame, heatmap)
    return [data_uri(encode_jpeg(_outlined(to_width(p, SNAPSHOT_WIDTH), box, factor))) for p in pictures]


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
