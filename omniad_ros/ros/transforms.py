"""Frames: which names the robot uses, where its camera sits, and map → odom on /tf (where tf2_ros is installed)."""

from __future__ import annotations

import threading
import time
from collections import deque

from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from omniad_ros.core.geometry import Pose
from omniad_ros.recordings import messages as decoding
from omniad_ros.recordings.source import SECOND
from omniad_ros.ros import counterparts, messages

tf2_ros, tf2_msgs = counterparts.optional("tf2_ros"), counterparts.optional("tf2_msgs.msg")


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
    """Of one robot; lives from the node's activation to its deactivation.

    map -> odom is stamped by the data, never by this computer's clock, so that it fits a recording and a simulation at any pace: as far
    as the odometry is, and ``transform_tolerance`` ahead, as AMCL does it.
    """

    PERIOD = SECOND // 10
    """Nanoseconds of the data's time from one map -> odom to the next."""
    RIVAL_FOR = 5.0
    """Seconds for which another publisher of map -> odom, once heard, is left alone with it."""

    def __init__(self, node: Node, values):
        self.node = node
        self.odom_frame = FrameName(values.odom_frame)
        self.base_frame = FrameName(values.base_frame)
        self.map_from_odom: Pose | None = None
        self._map_frame, self._ahead = values.map_frame, round(values.transform_tolerance * SECOND)
        self._told = 0
        """The stamp of the newest map -> odom."""
        self._sent: deque[int] = deque(maxlen=100)
        self._rival_at = -self.RIVAL_FOR
        self._lock = threading.Lock()
        self._buffer = self._listener = self._broadcaster = self._others = None
        if tf2_ros is not None and values.extrinsics_from_tf:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)
        if tf2_ros is not None and values.publish_tf:
            self._broadcaster = tf2_ros.TransformBroadcaster(node)
            if tf2_msgs is not None:
                self._others = node.create_subscription(tf2_msgs.TFMessage, "/tf", self._hear, 100)

    def destroy(self) -> None:
        if self._others is not None:
            self.node.destroy_subscription(self._others)
        if self._broadcaster is not None:
            self.node.destroy_publisher(self._broadcaster.pub_tf)
        if self._listener is not None:
            self._listener.unregister()

    def base_from_camera(self, header: Header, otherwise: Pose) -> Pose:
        """The camera's place on the robot: /tf's at the image's stamp, else /tf's latest, else that of the parameters.

        Raises MessageDefect where /tf says what cannot be.
        """
        camera = header.frame_id.lstrip("/")
        if self._buffer is None or not self.base_frame.name or not camera:
            return otherwise
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
        return otherwise

    def correct(self, map_from_odom: Pose | None, stamp: int) -> None:
        """A frame of this stamp, in nanoseconds, says where the odometry's origin is in the map."""
        first = self.map_from_odom is None
        self.map_from_odom = map_from_odom
        if map_from_odom is not None:
            if first:  # for who asks about this frame: nothing older is known
                self._broadcast(stamp)
            self._reach(max(stamp + self._ahead, self._told + 1))

    def moved(self, stamp: int) -> None:
        """Odometry has come that is of this stamp, in nanoseconds."""
        ahead = stamp + self._ahead
        if not 0 <= ahead - self._told < self.PERIOD:  # also where the data begins anew
            self._reach(ahead)

    def _reach(self, stamp: int) -> None:
        """Tell map -> odom for this stamp."""
        with self._lock:
            self._told = stamp
            self._broadcast(stamp)

    def _broadcast(self, stamp: int) -> None:
        if self._broadcaster is None or self.map_from_odom is None or not self.odom_frame.name:
            return
        if time.monotonic() - self._rival_at < self.RIVAL_FOR:
            return
        self._sent.append(stamp)
        header = Header(stamp=messages.to_stamp(stamp), frame_id=self._map_frame)
        self._broadcaster.sendTransform(messages.transform_message(self.map_from_odom, header, self.odom_frame.name))

    def _hear(self, message) -> None:
        """/tf: what is there of map -> odom and was not sent by this node."""
        for transform in message.transforms:
            names = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
            if names != (self._map_frame, self.odom_frame.name):
                continue
            if decoding.nanoseconds(transform.header.stamp) in self._sent:
                continue
            self._rival_at = time.monotonic()
            said = f"another node publishes {names[0]} -> {names[1]} on /tf: this one leaves it to that"
            self.node.get_logger().warning(f"{said} (publish_tf: false says so for good)", throttle_duration_sec=30.0)
