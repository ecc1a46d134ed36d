"""Tracks as a file holds them: one schema, by which they are written and by which they are read again.

JSON, with each track's pictures as JPEG. Places are not saved, they follow from the rays. A saved file may be damaged in
any byte, so kinds and ranges stand here, and `omniad_ros.patrol.tracks` checks what the tracks must be together.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from omniad_ros.patrol.sightings import Hypothesis, Ray, SightingOptions, unit

FORMAT = "omniad-tracks"
VERSION = 1

Number = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Vector = tuple[Number, Number, Number]


class SavedRay(msgspec.Struct):
    """`Ray`: metres in the map, and tangents."""

    origin: Vector
    direction: Vector
    range: Number
    width: Number
    height: Number
    clipped: bool


class SavedTrack(msgspec.Struct):
    """`Hypothesis`. snapshot: frame, reference view and heatmap as JPEG."""

    id: int
    first_seen: Number
    last_seen: Number
    rays: Annotated[list[SavedRay], msgspec.Meta(min_length=1)]
    votes: Annotated[dict[str, Number], msgspec.Meta(min_length=1)]
    score_sum: Number
    views: Annotated[int, msgspec.Meta(gt=0)]
    log_odds: Number = msgspec.field(name="evidence")  # the name that files of this version have for it
    misses: Count
    unseen: Count
    confirmed: bool
    snapshot: tuple[bytes, bytes, bytes] | None
    snapshot_box: tuple[int, int, int, int] | None
    snapshot_worth: Number


class SavedHead(msgspec.Struct):
    """What says whether the rest can be read."""

    format: str = ""
    version: int = 0


class SavedTracks(SavedHead, kw_only=True):
    """A `Tracker`: how many tracks it made and confirmed, those it has, the confirmed ones that are gone, and the last view that
    counted: its pose as the rows of a (4, 4) matrix, and its stamp in seconds."""

    created: Count
    confirmed: Count
    tracks: list[SavedTrack]
    gone: list[SavedTrack]
    counted: tuple[list[list[Number]], Number] | None = None


def saved(hypothesis: Hypothesis) -> SavedTrack:
    h = hypothesis
    rays = [
        SavedRay(
            tuple(ray.origin.tolist()), tuple(ray.direction.tolist()), ray.range, ray.width, ray.height, ray.clipped
        )
        for ray in h.rays
    ]
    pictures = None if h.snapshot is None else tuple(_encode(image) for image in h.snapshot)
    return SavedTrack(
        h.id, h.first_seen, h.last_seen, rays, h.votes, h.score_sum, h.views, h.log_odds, h.misses, h.unseen, h.confirmed,
        pictures, h.snapshot_box, h.snapshot_worth,
    )  # fmt: skip


def restored(track: SavedTrack, options: SightingOptions) -> Hypothesis:
    """What `saved` was given. Raises ValueError or OpenCV's error where its rays meet nowhere or a picture is none."""
    rays = [
        Ray(np.array(r.origin), unit(np.array(r.direction)), r.range, r.width, r.height, r.clipped) for r in track.rays
    ]
    pictures = None if track.snapshot is None else tuple(_decode(data) for data in track.snapshot)
    hypothesis = Hypothesis(
        track.id, track.first_seen, track.last_seen, rays, track.votes, track.score_sum, track.views, track.log_odds,
        track.misses, track.unseen, confirmed=track.confirmed, snapshot=pictures, snapshot_box=track.snapshot_box,
        snapshot_worth=track.snapshot_worth,
    )  # fmt: skip
    hypothesis.locate(options)
    return hypothesis


def _encode(image: np.ndarray) -> bytes:
    import cv2

    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", data, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _decode(data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("not an image")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
