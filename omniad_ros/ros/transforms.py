"""Frames: which names the robot uses, where its camera sits, and map → odom on /tf (where tf2_ros is installed)."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from omniad_ros.core.geometry import Pose
from omniad_ros.recordings import messages as decoding
from omniad_ros.ros import counterparts, messages
from omniad_ros.site import MAP_FRAME

tf2_ros = counterparts.optional("tf2_ros")


class FrameName:
    """The name of a frame: given, or learnt from the messages. A message with another name is refused; a leading slash says nothing.

    A learnt name is given up once `PERSISTENT` messages in a row bear the same other name.
    """

    PERSISTENT = 10

    def __init__(self, given: str):
        self.name, self._given = given.lstrip("/"), bool(given)
        self._rival, self._rival_count = "", 0

    def check(self, field: str, name: str) -> None:
        """Raises MessageDefect where a message's frame is not this one."""
        name = name.lstrip("/")
        if not self.name and name:
            self.name = name
        if name == self.name:
            self._rival_count = 0
            return
        self._rival_count = self._rival_count + 1 if name == self._rival else 1
        self._rival = name
        if not self._given and name and self._rival_count >= self.PERSISTENT:
            self.name, self._rival_count = name, 0
            return
        raise decoding.MessageDefect(field, f"{field} is {decoding.quoted(name)}, expected is '{self.name}'")


class Transforms:
    """Of one robot; lives from the node's activation to its deactivation."""

    PERIOD = 0.1

    def __init__(self, node: Node, values):
        self.node = node
        self.odom_frame = FrameName(values.odom_frame)
        self.base_frame = FrameName(values.base_frame)
        self.camera_frame = FrameName(values.camera_frame)
        self.map_from_odom: Pose | None = None
        self._from_parameters = messages.extrinsics(values.camera_xyz, values.camera_rpy)
        self._buffer = self._listener = self._broadcaster = self._timer = None
        if tf2_ros is not None and values.extrinsics_from_tf:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)
        if tf2_ros is not None and values.publish_tf:
            self._broadcaster = tf2_ros.TransformBroadcaster(node)
            self._timer = node.create_timer(self.PERIOD, self._broadcast)

    def destroy(self) -> None:
        if self._timer is not None:
            self.node.destroy_timer(self._timer)
        if self._broadcaster is not None:
            self.node.destroy_publisher(self._broadcaster.pub_tf)
        if self._listener is not None:
            self._listener.unregister()

    def base_from_camera(self, header: Header) -> Pose:
        """The camera's place on the robot: /tf's at the image's stamp, else /tf's latest, else the parameters'.

        Raises MessageDefect where /tf says what cannot be.
        """
        camera = header.frame_id.lstrip("/")
        if self._buffer is None or not self.base_frame.name or not camera:
            return self._from_parameters
        for when in (Time.from_msg(header.stamp), Time()):
            try:
                found = self._buffer.lookup_transform(self.base_frame.name, camera, when)
            except tf2_ros.TransformException:
                continue
            return decoding.pose_from_transform(found.transform)
        self.node.get_logger().warning(
            f"/tf does not say where {camera} is on {self.base_frame.name}; camera_xyz and camera_rpy are used",
            throttle_duration_sec=30.0,
        )
        return self._from_parameters

    def _broadcast(self) -> None:
        """Often and with the present stamp, so that others need not extrapolate between two frames."""
        if self.map_from_odom is None or not self.odom_frame.name:
            return
        header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id=MAP_FRAME)
        self._broadcaster.sendTransform(messages.transform_message(self.map_from_odom, header, self.odom_frame.name))
