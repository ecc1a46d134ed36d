"""What comes in on one topic: when the last usable message came, and what was wrong with those refused since."""

from __future__ import annotations

import time

from omniad_ros.recordings.messages import MessageDefect
from omniad_ros.ros.speakers import Speakers


class Input:
    """``what`` comes in, one word for /diagnostics; `topic`: the full name that is listened to."""

    def __init__(self, what: str):
        self.what = what
        self.topic = what
        self.forget()

    def forget(self) -> None:
        self._began = time.monotonic()
        self._usable_at: float | None = None
        self._defect = ""
        self.refused = 0
        self.speakers = Speakers()

    def take(self) -> None:
        """A usable message came."""
        self._usable_at, self._defect = time.monotonic(), ""

    def refuse(self, defect: MessageDefect) -> None:
        self.refused += 1
        self._defect = str(defect)

    def doubt(self) -> str:
        """One sentence where more than one publisher is heard; else empty."""
        if self.speakers.several:
            return f"more than one publisher sends {self.what} on {self.topic}; only one may"
        return ""

    def complaint(self, seconds: float) -> str:
        """One phrase where nothing usable has come for longer than so many seconds; else empty."""
        silent = time.monotonic() - (self._began if self._usable_at is None else self._usable_at)
        if silent <= seconds:
            return ""
        if self._defect:
            return f"every {self.what} on {self.topic} is refused: {self._defect}"
        return f"no {self.what} {'yet' if self._usable_at is None else f'for {silent:.0f} s'} on {self.topic}"
