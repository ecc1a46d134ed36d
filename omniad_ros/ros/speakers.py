"""Notices more than one speaker where only one may be: two nodes of one name, two publishers on the topic of an input.

By what is said, not by DDS's graph: there a killed process stays for up to 20 s, and a publisher that never says anything for good.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping


class Speakers:
    """Of one topic, or of one name. One that takes another's place for good, as after a restart, is no second one."""

    WITHIN = 3.0
    """Seconds in which who speaks again after somebody else did is one of several; and for which that holds."""
    MOST = 16

    def __init__(self):
        self._heard: dict[Hashable, float] = {}
        self._newest: Hashable = None
        self._mixed_at = -math.inf

    def heard(self, who: Hashable) -> None:
        now = time.monotonic()
        if who != self._newest and now - self._heard.get(who, -math.inf) < self.WITHIN:
            self._mixed_at = now
        if len(self._heard) >= self.MOST and who not in self._heard:
            del self._heard[min(self._heard, key=self._heard.get)]
        self._newest, self._heard[who] = who, now

    @property
    def several(self) -> bool:
        return time.monotonic() - self._mixed_at < self.WITHIN


def publisher(info: Mapping) -> Hashable:
    """Who published a message, by what rclpy gives with it; the same for all before ROS 2 Kilted, which does not tell."""
    return (info.get("publisher_gid") or {}).get("data")
