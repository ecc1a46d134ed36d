"""A contact sheet of the best, median and worst frames, so that failures are looked at and not only counted."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from omniad_ros.core.images import heat_colors, resized

TILE = 320
GAP = 6
EACH = 3
HEADINGS = ("query", "reference view", "heatmap", "ground truth")
INK, PAPER, FAINT = (33, 37, 41), (255, 255, 255), (233, 236, 239)


@dataclass(frozen=True)
class Row:
    """One frame: pictures uint8 (H, W, 3), the reference at any size or None; heatmap float (H, W); mask bool (H, W).

    f1: of the frame at the threshold, None for a normal one; false: share of its normal pixels above the threshold.
    """

    title: str
    image: np.ndarray
    reference: np.ndarray | None
    heatmap: np.ndarray
    mask: np.ndarray
    threshold: float
    f1: float | None
    false: float


class ContactSheet:
    """Keeps each frame as one small encoded strip, so that memory stays bounded."""

    def __init__(self):
        self._strips: list[tuple[str, float | None, float, bytes]] = []

    def add(self, row: Row) -> None:
        strip = cv2.imencode(".jpg", _strip(row), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        self._strips.append((row.title, row.f1, row.false, strip))

    def picture(self) -> np.ndarray:
        """uint8 RGB; sections best, median and worst by F1 at the threshold, then the normal frames with most false alarms."""
        ranked = sorted((s for s in self._strips if s[1] is not None), key=lambda s: -s[1])
        normal = sorted((s for s in self._strips if s[1] is None), key=lambda s: -s[2])
        sections = [("normal frames with most false alarms", normal[:EACH])]
        if len(ranked) <= 3 * EACH:
            sections.insert(0, ("anomalous frames, best first", ranked))
        else:
            middle = (len(ranked) - EACH) // 2
            sections = [
                ("best", ranked[:EACH]),
                ("median", ranked[middle : middle + EACH]),
                ("worst", ranked[-EACH:]),
                *sections,
            ]
        width = len(HEADINGS) * TILE + (len(HEADINGS) + 1) * GAP
        parts = [_headings(width)]
        for title, strips in sections:
            if not strips:
                continue
            parts.append(_text_line(title, width, 30, 0.6, FAINT))
            for name, f1, false, strip in strips:
                figures = f"F1 {f1:.2f}" if f1 is not None else f"{100 * false:.2f} % false"
                parts.append(_text_line(f"{name}   {figures}", width, 22, 0.45, PAPER))
                parts.append(cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_COLOR))
        return np.ascontiguousarray(np.concatenate(parts)[..., ::-1])


def _strip(row: Row) -> np.ndarray:
    height = round(row.image.shape[0] * TILE / row.image.shape[1])
    heat = resized(heat_colors(row.heatmap), TILE, height)
    outline, _ = cv2.findContours(
        resized((row.heatmap >= row.threshold).astype(np.uint8) * 255, TILE, height),
        cv2.RETR_EXTERNAL,
        cv2.CHAIN_APPROX_NONE,
    )
    cv2.drawContours(heat, outline, -1, (255, 255, 255), 1)
    truth = resized(row.image // 2, TILE, height)
    truth[resized(row.mask.astype(np.uint8) * 255, TILE, height) > 127] = (255, 255, 255)
    reference = (
        np.full((height, TILE, 3), 245, np.uint8) if row.reference is None else resized(row.reference, TILE, height)
    )
    gap = np.full((height, GAP, 3), PAPER, np.uint8)
    tiles = [gap]
    for tile in (resized(row.image, TILE, height), reference, heat, truth):
        tiles += [tile[..., ::-1], gap]
    return np.concatenate(tiles, axis=1)


def _headings(width: int) -> np.ndarray:
    line = np.full((34, width, 3), PAPER, np.uint8)
    for index, heading in enumerate(HEADINGS):
        cv2.putText(
            line, heading, (GAP + index * (TILE + GAP), 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, INK, 1, cv2.LINE_AA
        )
    return line


def _text_line(text: str, width: int, height: int, scale: float, paper) -> np.ndarray:
    line = np.full((height, width, 3), paper, np.uint8)
    cv2.putText(line, text, (GAP, round(0.7 * height)), cv2.FONT_HERSHEY_SIMPLEX, scale, INK, 1, cv2.LINE_AA)
    return line
