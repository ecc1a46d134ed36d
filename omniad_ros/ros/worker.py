"""One background thread that always works on the newest item: what waited when a newer one came is dropped and counted.

So a camera faster than the work costs neither memory nor delay, and the executor's thread stays free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirst(Generic[T]):
    """Calls ``work(item)`` for the newest item put; ``failed(error)`` gets what it raises, and the next item is tried.

    ``pause`` gives the least seconds from one start to the next.
    """

    def __init__(self, work: Callable[[T], None], failed: Callable[[Exception], None], pause: Callable[[], float]):
        self._work, self._failed, self._pause = work, failed, pause
        self._condition = threading.Condition()
        self._waiting: T | None = None
        self._stopping = False
        self.dropped = 0
        self.done = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        with self._condition:
            self.dropped += self._waiting is not None
            self._waiting = item
            self._condition.notify()

    def stop(self, timeout: float = 10.0) -> bool:
        """Let the item in work be finished, drop the waiting one; False where the work did not end in time."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        return self._stopping

    def _run(self) -> None:
        earliest = 0.0
        while True:
            with self._condition:
                while not self._stopping and (self._waiting is None or time.monotonic() < earliest):
                    self._condition.wait(None if self._waiting is None else max(0.0, earliest - time.monotonic()))
                if self._stopping:
                    return
                item, self._waiting = self._waiting, None
            earliest = time.monotonic() + self._pause()
            try:
                self._work(item)
                self.done += 1
            except Exception as error:  # one bad item must not end the thread; the node says it
                self._failed(error)
