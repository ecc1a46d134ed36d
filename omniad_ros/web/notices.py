"""Tells a webhook of new findings: a POST of JSON for each, once it is there."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable

from omniad_ros.core.feedback import OmniadError
from omniad_ros.web.places import Places


class Notices:
    """A thread that asks the databases; what a webhook does not take is tried again, each time after twice as long."""

    EVERY, LONGEST = 2.0, 300.0
    TIMEOUT = 10.0

    def __init__(self, places: Places, address: str, said: Callable[[str], None]):
        self._places, self._address, self._said = places, address, said
        self._known = {name: place.store.newest() for name, place in places.by_name.items()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(self.TIMEOUT + 1)

    def _run(self) -> None:
        pause = self.EVERY
        while not self._ended.wait(pause):
            try:
                self._look()
                pause = self.EVERY
            except (OSError, OmniadError) as error:
                if pause == self.EVERY:
                    self._said(f"the webhook is not told of new findings: {error}; it is tried again")
                pause = min(2 * pause, self.LONGEST)

    def _look(self) -> None:
        for name, place in self._places.by_name.items():
            for finding in place.store.findings(after=self._known[name]):
                told = {"event": "new finding", "site": name} | {
                    key: getattr(finding, key) for key in ("name", "kind", "state", "score", "center", "size")
                }
                request = urllib.request.Request(
                    self._address, json.dumps(told).encode(), {"Content-Type": "application/json"}, method="POST"
                )
                with urllib.request.urlopen(request, timeout=self.TIMEOUT):
                    self._known[name] = finding.id
