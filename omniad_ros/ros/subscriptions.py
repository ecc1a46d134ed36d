"""A subscription to a camera that asks for what the camera's publishers offer: reliable delivery, and what was said before.

The sensor-data QoS is best effort, and with Fast DDS's shared memory an image beyond its 512 KB segment (640x480 rgb8 is
larger) then hardly ever arrives whole (ros2/rmw_fastrtps issue 739). Many drivers publish reliably all the same, and some
say their camera_info once, latched, before anybody listens. Asking for either costs nothing where it is offered, and
asking where it is not would give nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from omniad_ros.ros.managed import STEADY


class CameraSubscription:
    """Subscribes a topic with depth 1: best effort and volatile until every publisher found offers more.

    latched: what was said before holds still, as of a camera_info; an image from before does not.
    """

    PERIOD = 0.5

    def __init__(self, node: Node, kind: type, topic: str, callback: Callable, latched: bool = False):
        self._node, self._kind, self._topic, self._callback, self._latched = node, kind, topic, callback, latched
        self._subscription = None
        self._asked = False, False  # reliable, latched
        self._subscribe()
        self._timer = node.create_timer(self.PERIOD, self._adapt, clock=STEADY)

    @property
    def topic_name(self) -> str:
        return self._subscription.topic_name

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        reliable, latched = self._asked
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )  # fmt: skip
        self._subscription = self._node.create_subscription(self._kind, self._topic, self._callback, qos)

    def _adapt(self) -> None:
        offered = [found.qos_profile for found in self._node.get_publishers_info_by_topic(self.topic_name)]
        reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
        latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
        asked = reliable, self._latched and latched
        if offered and asked != self._asked:
            self._asked = asked
            self._subscribe()
