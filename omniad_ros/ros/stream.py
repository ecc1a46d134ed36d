"""A subscription to small messages that may come a thousand times a second, taken in bulk by a thread of its own.

Through the executor each would cost half a millisecond of the interpreter, and so take half of the frames. Here the queue is emptied a
hundred times a second, and what is denser than is of use is let go before it is decoded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.serialization import deserialize_message

from omniad_ros.ros.managed import STREAM


class Stream:
    """``take(message, info)`` is called on this thread, ``failed(error)`` with what it raises; ``heard(info)`` of every message.

    A burst is thinned out to one message in `SPACING` nanoseconds, by when they were sent, and its newest.
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
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def destroy(self) -> None:
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self._node.destroy_subscription(self._subscription)

    def _run(self) -> None:
        while not self._ended.wait(self.EVERY):
            waiting = self._all()
            for index, (data, info) in enumerate(waiting):
                self._heard(info)
                sent = info["source_timestamp"]
                if index < len(waiting) - 1 and 0 <= sent - self._newest < self.SPACING:
                    continue
                self._newest = sent
                try:
                    self._take(deserialize_message(data, self._kind), info)
                except Exception as error:  # one message that cannot be read must not end the thread
                    self._failed(error)

    def _all(self) -> list:
        """(bytes, info) of all that wait."""
        taken, handle = [], self._subscription.handle
        with handle:  # so that it is not destroyed meanwhile
            while len(taken) < STREAM.depth and (one := handle.take_message(self._kind, True)) is not None:
                taken.append(one)
        return taken


class _NotExecuted(CallbackGroup):
    """Keeps a subscription out of the executor."""

    def can_execute(self, entity) -> bool:
        return False

    def beginning_execution(self, entity) -> bool:
        return False

    def ending_execution(self, entity) -> None:
        pass
