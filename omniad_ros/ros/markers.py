"""Tracks as markers for RViz, and as vision_msgs detections for programs."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from omniad_ros.living.keeping import Known
from omniad_ros.patrol.tracks import Track
from omniad_ros.ros import counterparts

vision_msgs = counterparts.optional("vision_msgs.msg")

COLORS = {"missing": (0.25, 0.55, 1.0), "added": (1.0, 0.3, 0.2), "changed": (1.0, 0.75, 0.1)}
LEAST_SIZE = 0.05

KnownTrack = tuple[Track, Known | None]
"""A track, and what is known of it over all patrols."""


class TrackMarkers:
    """Turns the confirmed tracks into one box and one label each; remembers what it drew, to delete what is gone."""

    def __init__(self):
        self._drawn: set[int] = set()
        self._displays = 0

    def update(self, tracks: list[KnownTrack], header: Header, displays: int) -> MarkerArray:
        """The markers that bring a display up to date.

        displays: how many subscribe; whenever that changes, the array first clears what an earlier run may have left.
        """
        array = MarkerArray()
        if displays != self._displays:
            array.markers.append(Marker(header=header, action=Marker.DELETEALL))
            self._displays = displays
        now = header.stamp.sec + 1e-9 * header.stamp.nanosec
        shown = {track.id: (track, known) for track, known in tracks if track.confirmed}
        for gone in sorted(self._drawn - shown.keys()):
            for namespace in ("tracks", "labels"):
                array.markers.append(Marker(header=header, ns=namespace, id=gone, action=Marker.DELETE))
        for track, known in shown.values():
            array.markers += [_box(track, header), _label(track, known, header, now)]
        self._drawn = set(shown)
        return array

    def clear(self, header: Header) -> MarkerArray:
        """The array that removes everything."""
        self._drawn.clear()
        return MarkerArray(markers=[Marker(header=header, action=Marker.DELETEALL)])


def _box(track: Track, header: Header) -> Marker:
    box = Marker(header=header, ns="tracks", id=track.id, type=Marker.CUBE, action=Marker.ADD)
    x, y, z = map(float, track.center)
    sx, sy, sz = map(float, _size(track))
    box.pose.position, box.scale = Point(x=x, y=y, z=z), Vector3(x=sx, y=sy, z=sz)
    box.pose.orientation.w = 1.0
    red, green, blue = COLORS.get(track.kind, COLORS["changed"])
    box.color = ColorRGBA(r=red, g=green, b=blue, a=0.45)
    return box


def _label(track: Track, known: Known | None, header: Header, now: float) -> Marker:
    label = Marker(header=header, ns="labels", id=track.id, type=Marker.TEXT_VIEW_FACING, action=Marker.ADD)
    x, y, z = map(float, track.center)
    label.pose.position = Point(x=x, y=y, z=z + 0.5 * float(_size(track)[2]) + 0.1)
    label.pose.orientation.w = 1.0
    label.scale.z = 0.1
    label.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    name = f"#{track.id}" if known is None else f"{known}:"
    label.text = f"{name} {track.kind} {track.score:.2f}, {max(0.0, now - track.first_seen):.0f} s"
    return label


def _covariance(of_place: np.ndarray) -> np.ndarray:
    """(36,) of x, y, z and rotations about them: a box has no direction of its own, so any is as likely."""
    covariance = np.diag([0.0, 0.0, 0.0, *[np.pi**2 / 3] * 3])
    covariance[:3, :3] = of_place
    return covariance.reshape(36)


def _size(track: Track) -> np.ndarray:
    return np.maximum(LEAST_SIZE, np.zeros(3) if track.size is None else track.size)


def detections_message(tracks: list[KnownTrack], header: Header):
    """vision_msgs/Detection3DArray of the confirmed tracks, by the names of their findings where these are known; None where vision_msgs is not installed."""
    if vision_msgs is None:
        return None
    array = vision_msgs.Detection3DArray(header=header)
    for track, known in tracks:
        if not track.confirmed:
            continue
        detection = vision_msgs.Detection3D(header=header, id=str(track.id) if known is None else known.name)
        x, y, z = map(float, track.center)
        detection.bbox.center.position = Point(x=x, y=y, z=z)
        detection.bbox.center.orientation.w = 1.0
        sx, sy, sz = map(float, _size(track))
        detection.bbox.size = Vector3(x=sx, y=sy, z=sz)
        result = vision_msgs.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = track.kind, float(track.score)
        result.pose.pose = detection.bbox.center
        if track.covariance is not None:
            result.pose.covariance = _covariance(track.covariance)
        detection.results = [result]
        array.detections.append(detection)
    return array
