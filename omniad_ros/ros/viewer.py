"""A live view for machines without RViz (`omniad run --viewer`): images, map, camera and tracks on a timeline, by rerun.

It hears the nodes over DDS as RViz would, in the process of `omniad run`; frames are shown once they are inspected.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Path as PathMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from omniad_ros.core.feedback import OmniadError
from omniad_ros.core.geometry import Camera, Rectifier
from omniad_ros.core.images import heat_colors
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros.listening import shrunk
from omniad_ros.ros.managed import LATCHED, NAMESPACE, OUTPUT
from omniad_ros.ros.participant import Participant
from omniad_ros.ros.subscriptions import CameraSubscription
from omniad_ros.ros.topics import camera_topic

SIDE = 640
KEPT = 30
"""Images of the camera that may wait for their heatmap."""
LEVELS = ("INFO", "WARN", "ERROR", "WARN")
INSTALL = "pip install 'rerun-sdk>=0.23' 'pyarrow<22'"


class Viewer:
    """Spin it from one thread, and close it.

    topics: ``image`` and ``camera_info`` as the inspector subscribes them; file: a recording (.rrd) to be opened later with
    ``rerun FILE``, None for a window now. Raises OmniadError where rerun is missing or the window does not open.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        compressed: bool = False,
        namespace: str = NAMESPACE,
        environment: Mapping[str, str] | None = None,
        file: Path | None = None,
    ):
        self._rerun = rerun = _import_rerun()
        self._recording = rerun.RecordingStream("omniad")
        try:
            if file is None:
                self._recording.spawn()
            else:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
                self._recording.save(Path(file))
        except (RuntimeError, OSError) as error:
            raise OmniadError(f"the viewer cannot be opened: {error}") from error
        self._recording.send_blueprint(_blueprint(rerun.blueprint))
        self._recording.log("map", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        self._rectified = decoding.is_rectified(topics["image"])
        self._camera: Camera | None = None
        """As camera_info has it; the images may be smaller."""
        self._taken_by: Camera | None = None
        self._rectifier: Rectifier | None = None
        self._images: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._inspected: deque[int] = deque(maxlen=KEPT)
        self._stamp = 0
        self._tracks: dict[int, Marker] = {}
        self._labels: dict[int, str] = {}
        self._state = ""
        self._participant, self._namespace = Participant("viewer", environment or {}, namespace), namespace.rstrip("/")
        self._subscribe(topics, compressed)

    def _subscribe(self, topics: Mapping[str, str], compressed: bool) -> None:
        node = self._participant.node
        topic, packed = camera_topic(topics["image"], compressed)
        self._image = CameraSubscription(
            node, CompressedImage if packed else Image, topic, self._shown("image", self._take_image)
        )
        self._info = CameraSubscription(node, CameraInfo, topics["camera_info"], self._take_info, latched=True)
        for kind, topic, take, qos in (
            (Image, "heatmap", self._take_heatmap, OUTPUT), (Image, "reference/image", self._take_reference, OUTPUT),
            (PoseWithCovarianceStamped, "pose", self._take_pose, OUTPUT), (PathMessage, "route", self._take_route, LATCHED),
            (PointCloud2, "map_points", self._take_points, LATCHED), (MarkerArray, "markers", self._take_markers, OUTPUT),
            (DiagnosticArray, "/diagnostics", self._take_diagnostics, OUTPUT),
        ):  # fmt: skip
            node.create_subscription(kind, topic, self._shown(topic, take), qos)

    def _shown(self, topic: str, take: Callable) -> Callable:
        """``take`` for messages that may be anything: one that cannot be shown is left out and told of; the view goes on."""

        def taken(message) -> None:
            try:
                take(message)
            except Exception as error:  # numpy, rerun and the decoder each have their own for what cannot be
                logger = self._participant.node.get_logger()
                logger.warning(f"{topic} is not shown: {type(error).__name__}: {error}", throttle_duration_sec=10.0)

        return taken

    def spin(self, seconds: float = 0.1) -> None:
        """Take at most one message; wait for it no longer than this."""
        self._participant.spin(seconds)

    def close(self) -> None:
        self._participant.close()
        self._recording.flush()
        self._recording.disconnect()

    def _log(self, stamp: int, entity: str, *parts) -> None:
        self._recording.set_time("time", timestamp=np.datetime64(stamp, "ns"))
        self._recording.log(entity, *parts)

    def _picture(self, stamp: int, entity: str, image: np.ndarray) -> None:
        self._log(stamp, entity, self._rerun.Image(image).compress(jpeg_quality=85))

    def _take_info(self, message: CameraInfo) -> None:
        try:
            self._camera = decoding.camera_from_info(message, self._rectified)
        except decoding.MessageDefect:
            return  # the inspector says so

    def _take_image(self, message: Image | CompressedImage) -> None:
        stamp = decoding.nanoseconds(message.header.stamp)
        if stamp in self._inspected:
            self._log_frame(stamp, message)
            return
        self._images[stamp] = message
        while len(self._images) > KEPT:
            self._images.popitem(last=False)

    def _take_heatmap(self, message: Image) -> None:
        self._stamp = stamp = decoding.nanoseconds(message.header.stamp)
        heatmap = decoding.depth_from_image(message)
        self._picture(stamp, "heatmap", heat_colors(shrunk(heatmap, SIDE)))
        self._inspected.append(stamp)
        if stamp in self._images:
            self._log_frame(stamp, self._images.pop(stamp))

    def _log_frame(self, stamp: int, message: Image | CompressedImage) -> None:
        if self._camera is None:
            return
        try:
            image = decoding.image_to_rgb(message)
            camera = decoding.camera_of_size(self._camera, image.shape[1], image.shape[0])
        except decoding.MessageDefect:
            return  # the inspector says so
        if self._rectifier is None or camera != self._taken_by:
            self._taken_by, self._rectifier = camera, Rectifier(camera)
        self._picture(stamp, "map/camera/frame", shrunk(self._rectifier(image), SIDE))

    def _take_reference(self, message: Image) -> None:
        self._picture(decoding.nanoseconds(message.header.stamp), "reference", decoding.image_to_rgb(message))

    def _take_pose(self, message: PoseWithCovarianceStamped) -> None:
        stamp, pose = decoding.nanoseconds(message.header.stamp), decoding.pose_from_message(message.pose.pose)
        self._log(stamp, "map/camera", self._rerun.Transform3D(translation=pose.translation, mat3x3=pose.rotation))
        if self._rectifier is not None:
            own = self._rectifier.camera
            camera = own.fitted(min(SIDE, max(own.width, own.height)))
            pinhole = self._rerun.Pinhole(
                image_from_camera=camera.matrix(), width=camera.width, height=camera.height, image_plane_distance=0.3
            )
            self._log(stamp, "map/camera/frame", pinhole)

    def _take_route(self, message: PathMessage) -> None:
        points = [(p.pose.position.x, p.pose.position.y, p.pose.position.z) for p in message.poses]
        stamp = decoding.nanoseconds(message.header.stamp)
        self._log(stamp, "map/route", self._rerun.LineStrips3D([points], colors=[25, 230, 120]))

    def _take_points(self, message: PointCloud2) -> None:
        kind = np.dtype([("xyz", "<f4", 3), ("bgr", "u1", 3), ("unused", "u1")])
        cloud = np.frombuffer(message.data, kind)
        low, high = np.percentile(cloud["xyz"], [1, 99], axis=0)
        cloud = cloud[((cloud["xyz"] >= low) & (cloud["xyz"] <= high)).all(axis=1)]  # strays would make all else tiny
        points = self._rerun.Points3D(cloud["xyz"], colors=cloud["bgr"][:, ::-1])
        self._recording.log("map/points", points, static=True)

    def _take_markers(self, message: MarkerArray) -> None:
        for marker in message.markers:
            if marker.action == Marker.DELETEALL:
                self._tracks.clear()
            elif marker.action == Marker.DELETE:
                self._tracks.pop(marker.id, None)
            elif marker.type == Marker.CUBE:
                self._tracks[marker.id] = marker
            else:
                self._labels[marker.id] = marker.text
        boxes = list(self._tracks.values())
        self._log(self._stamp, "map/tracks", self._rerun.Boxes3D(
            centers=[(b.pose.position.x, b.pose.position.y, b.pose.position.z) for b in boxes],
            sizes=[(b.scale.x, b.scale.y, b.scale.z) for b in boxes],
            colors=[[round(255 * c) for c in (b.color.r, b.color.g, b.color.b)] for b in boxes],
            labels=[self._labels.get(b.id, "") for b in boxes],
        ))  # fmt: skip

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            if "stamp" not in values or not status.hardware_id.startswith(f"{self._namespace}/"):
                continue  # not of this robot's inspector
            stamp = int(values["stamp"])
            for stage in ("localize", "render", "detect", "total"):
                self._log(stamp, f"ms/{stage}", self._rerun.Scalars(float(values.get(f"ms {stage}", "nan"))))
            told = status.message or values["state"]
            if (kind := re.sub(r"\d+", "", told)) != self._state:
                self._state = kind
                self._log(stamp, "state", self._rerun.TextLog(told, level=LEVELS[min(status.level[0], 3)]))


def _import_rerun():
    try:
        import rerun
        import rerun.blueprint
    except ImportError as error:
        raise OmniadError(f"the viewer needs rerun, which cannot be imported ({error}); run: {INSTALL}") from error
    return rerun


def _blueprint(parts):
    """The map at the left; frame, reference view and heatmap at the right; times and states below."""
    return parts.Blueprint(
        parts.Vertical(
            parts.Horizontal(
                parts.Spatial3DView(origin="map", name="Map"),
                parts.Vertical(
                    parts.Spatial2DView(origin="map/camera/frame", name="Frame"),
                    parts.Spatial2DView(origin="reference", name="Reference view"),
                    parts.Spatial2DView(origin="heatmap", name="Heatmap"),
                ),
                column_shares=[2, 1],
            ),
            parts.Horizontal(
                parts.TimeSeriesView(origin="ms", name="Milliseconds"), parts.TextLogView(origin="state", name="State")
            ),
            row_shares=[4, 1],
        ),
        collapse_panels=True,
    )
