"""A subscription to small messages that may come a thousand times a second, taken in bulk by a thread of its own.

Through the executor each would cost half a millisecond of the interpreter, and so take half of the frames. Here the queue is emptied a
hundred times a second, and what is denser than is of use is let go before it is decoded.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from omniad_ros.recordings.source import SECOND
from omniad_ros.ros.managed import STREAM


class Stream:
    """``take(message, info)`` is called by this thread or `poll`, ``failed(error)`` with what it raises; ``heard(info)`` of every
    message.

    The messages begin with a header. Of those that waited together one in `SPACING` nanoseconds of their stamps is taken, and the newest.
    """

    EVERY = 0.01
    SPACING = 8_000_000

    def __init__(self, node: Node, kind: type, topic: str, take: Callable, heard: Callable, failed: Callable):
        self._node, self._kind, self._take, self._heard, self._failed = node, kind, take, heard, failed
        self._subscription = node.create_subscription(
            kind, topic, lambda message: None, STREAM, callback_group=_NotExecuted(), raw=True
        )
        self.topic_name = self._subscription.topic_name
        self._newest = 0
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def destroy(self) -> None:
        with self._lock:
            self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self._node.destroy_subscription(self._subscription)

    def poll(self) -> None:
        """Take what waits now; for who cannot wait for `EVERY`."""
        with self._lock:
            if self._ended.is_set():
                return
            waiting = self._all()
            for index, (data, info) in enumerate(waiting):
                self._heard(info)
                stamp = _stamp(data)
                if index < len(waiting) - 1 and 0 <= stamp - self._newest < self.SPACING:
                    continue
                self._newest = stamp
                try:
                    self._take(deserialize_message(data, self._kind), info)
                except Exception as error:  # one message that cannot be read must not end the thread
                    self._failed(error)

    def _run(self) -> None:
        while not self._ended.wait(self.EVERY):
            self.poll()

    def _all(self) -> list:
        """(bytes, info) of all that wait."""
        taken, handle = [], self._subscription.handle
        with handle:  # so that it is not destroyed meanwhile
            while len(taken) < STREAM.depth and (one := handle.take_message(self._kind, True)) is not None:
                taken.append(one)
        return taken


def _stamp(data: bytes) -> int:
    """Nanoseconds of the header with which a message begins, as it came; -1 where there is none."""
    if len(data) < 12:
        return -1
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds * SECOND + nanoseconds


class _NotExecuted(CallbackGroup):
    """Keeps a subscription out of the executor."""

    def can_execute(self, entity) -> bool:
        return False

    def beginning_execution(self, entity) -> bool:
        return False

    def ending_execution(self, entity) -> None:
        pass
