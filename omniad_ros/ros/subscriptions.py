"""A subscription to a camera that takes reliable delivery where the camera offers it.

The sensor-data QoS is best effort, and with Fast DDS's shared memory an image beyond its 512 KB segment (640x480 rgb8 is
larger) then hardly ever arrives whole (ros2/rmw_fastrtps issue 739). Many drivers publish reliably all the same; asking
for it costs nothing there, and asking where it is not offered would give no image at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from omniad_ros.ros.managed import STEADY

LARGE = 500_000


@dataclass(frozen=True)
class Offer:
    """Who publishes on a topic now."""

    publishers: int
    reliable: bool


class CameraSubscription:
    """Subscribes a topic with depth 1, best effort until every publisher found offers reliable delivery."""

    PERIOD = 0.5

    def __init__(self, node: Node, kind: type, topic: str, callback: Callable):
        self._node, self._kind, self._topic, self._callback = node, kind, topic, callback
        self.offer = Offer(0, False)
        self._subscription = None
        self._reliable = False
        self._subscribe(False)
        self._timer = node.create_timer(self.PERIOD, self._adapt, clock=STEADY)

    @property
    def topic(self) -> str:
        return self._subscription.topic_name

    def destroy(self) -> None:
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)

    def _subscribe(self, reliable: bool) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=policy)
        self._subscription = self._node.create_subscription(self._kind, self._topic, self._callback, qos)
        self._reliable = reliable

    def _adapt(self) -> None:
        found = self._node.get_publishers_info_by_topic(self.topic)
        reliable = bool(found) and all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in found)
        self.offer = Offer(len(found), reliable)
        if found and reliable != self._reliable:
            self._subscribe(reliable)
