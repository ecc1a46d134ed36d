"""One background thread that always works on the newest item of each kind: what waited when a newer one came is dropped and counted.

So a camera faster than the work costs neither memory nor delay, and the executor's thread stays free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class NewestFirst(Generic[T]):
    """Calls ``work(item)`` for the newest item put of each kind, the kinds in turn; ``failed(error)`` gets what it raises, and the next
    item is tried.

    ``pause`` gives the least seconds from one start to the next of the same kind.
    """

    def __init__(self, work: Callable[[T], None], failed: Callable[[Exception], None], pause: Callable[[], float]):
        self._work, self._failed, self._pause = work, failed, pause
        self._condition = threading.Condition()
        self._waiting: dict[str, T] = {}
        self._earliest: dict[str, float] = {}
        self._stopping = False
        self.dropped = 0
        self.done = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: T, kind: str = "") -> None:
        with self._condition:
            self.dropped += kind in self._waiting
            self._waiting[kind] = item  # in the place of the one that waited
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
        while True:
            with self._condition:
                while not self._stopping and (kind := self._due()) is None:
                    earliest = min((self._earliest.get(k, 0.0) for k in self._waiting), default=None)
                    self._condition.wait(None if earliest is None else max(0.0, earliest - time.monotonic()))
                if self._stopping:
                    return
                item = self._waiting.pop(kind)
            self._earliest[kind] = time.monotonic() + self._pause()
            try:
                self._work(item)
                self.done += 1
            except Exception as error:  # one bad item must not end the thread; the node says it
                self._failed(error)

    def _due(self) -> str | None:
        """The kind that has waited longest, of those that may begin."""
        now = time.monotonic()
        return next((kind for kind in self._waiting if now >= self._earliest.get(kind, 0.0)), None)
