"""What the inspector publishes: of each frame, of its patrol, and of the map."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Path
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from omniad_ros.patrol.inspected import InspectedMap, floor_of_boxes
from omniad_ros.patrol.pipeline import overlay
from omniad_ros.patrol.session import PatrolFrame
from omniad_ros.patrol.tracks import Track
from omniad_ros.ros import messages
from omniad_ros.ros.managed import LATCHED, OUTPUT, ManagedNode
from omniad_ros.ros.markers import TrackMarkers, detections_message, vision_msgs
from omniad_ros.ros.patrols import NodePatrols
from omniad_ros.site import SparsePoints


class InspectorOutputs:
    """The publishers, from the node's configuration to its cleanup; silent while it is not active."""

    def __init__(self, node: ManagedNode, patrols: NodePatrols, cameras: list[str]):
        """cameras: what stands before the names of each camera's topics."""
        self._node, self._patrols, self._map_frame = node, patrols, node.values.map_frame
        self._markers = TrackMarkers()
        seen = [
            ("heatmap", Image), ("heatmap_independent", Image), ("overlay", Image), ("mask", Image),
            ("pose", PoseWithCovarianceStamped), ("heatmap/camera_info", CameraInfo),
        ]  # fmt: skip
        kinds = [(prefix + name, kind, OUTPUT) for prefix in cameras for name, kind in seen]
        kinds += [
            ("markers", MarkerArray, OUTPUT),
            ("map_points", PointCloud2, LATCHED), ("route", Path, LATCHED), ("coverage", OccupancyGrid, LATCHED),
            ("findings", OccupancyGrid, LATCHED),
        ]  # fmt: skip
        if vision_msgs is not None:
            kinds.append(("detections", vision_msgs.Detection3DArray, OUTPUT))
        self._publishers = {name: node.create_lifecycle_publisher(kind, name, qos) for name, kind, qos in kinds}

    def destroy(self) -> None:
        self._node.destroy_all(*self._publishers.values())

    def frame(self, frame: PatrolFrame, header: Header, camera: str = "") -> None:
        """What was found in a frame; header: of its image; camera: what stands before the names of its camera's topics."""
        inspection, publishers = frame.inspection, self._publishers
        in_map = Header(stamp=header.stamp, frame_id=self._map_frame)
        # what is small goes first: behind images that fill DDS's shared memory it would have to be sent twice
        if inspection.pose is not None:
            publishers[camera + "pose"].publish(
                messages.pose_with_covariance(inspection.pose, frame.covariance, in_map)
            )
        tracks = [(track, self._patrols.known(track)) for track in self._patrols.loud(inspection.tracks)]
        displays = publishers["markers"].get_subscription_count()
        publishers["markers"].publish(self._markers.update(tracks, in_map, displays))
        if "detections" in publishers:
            publishers["detections"].publish(detections_message(tracks, in_map))
        publishers[camera + "heatmap/camera_info"].publish(messages.camera_info_message(frame.camera, header))
        publishers[camera + "heatmap"].publish(messages.image_message(inspection.heatmap, header))
        publishers[camera + "mask"].publish(messages.image_message(inspection.mask, header))
        if publishers[camera + "heatmap_independent"].get_subscription_count():
            publishers[camera + "heatmap_independent"].publish(messages.image_message(inspection.independent, header))
        if publishers[camera + "overlay"].get_subscription_count():
            publishers[camera + "overlay"].publish(messages.image_message(overlay(frame.image, inspection), header))

    def floor(self, inspected: InspectedMap, tracks: list[Track], header: Header) -> None:
        """From above: what of the place was inspected, and where something was found, up to the frame with this header."""
        grid = inspected.grid()
        if grid is not None:
            told = [track for track in self._patrols.loud(tracks) if track.confirmed]
            centers, sizes = (np.array([getattr(t, name) for t in told]).reshape(-1, 3) for name in ("center", "size"))
            in_map = Header(stamp=header.stamp, frame_id=self._map_frame)
            self._publishers["coverage"].publish(messages.grid_message(grid, in_map))
            self._publishers["findings"].publish(messages.grid_message(floor_of_boxes(grid, centers, sizes), in_map))

    def route(self, poses: list[PoseStamped], header: Header) -> None:
        """The camera's way in the map up to the frame with this header."""
        self._publishers["route"].publish(
            Path(header=Header(stamp=header.stamp, frame_id=self._map_frame), poses=poses)
        )

    def points(self, points: SparsePoints) -> None:
        """The sparse map."""
        self._publishers["map_points"].publish(messages.points_message(points.xyz, points.rgb, self._now()))

    def clear_markers(self) -> None:
        """Nobody else would delete them any more."""
        self._publishers["markers"].publish(self._markers.clear(self._now()))

    def _now(self) -> Header:
        return Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._map_frame)
