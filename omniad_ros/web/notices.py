"""Tells others of new findings once they are there: a webhook by POST, an MQTT broker by a message."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from omniad_ros.core.feedback import OmniadError
from omniad_ros.living.export import own
from omniad_ros.living.store import without_password
from omniad_ros.web.places import Places

TIMEOUT = 10.0
"""Seconds in which a notice must be taken."""


def webhook(address: str) -> Callable[[dict], None]:
    """Posts JSON. Raises OmniadError where that is no address of http or https; what is returned raises OSError where it is not taken."""
    if urlsplit(address).scheme not in ("http", "https"):
        raise OmniadError(f"'{address}' is no address of a webhook: it begins with http:// or https://")

    def tell(notice: dict) -> None:
        data, headers = json.dumps(notice).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(address, data, headers, method="POST"), timeout=TIMEOUT):
            pass

    return tell


def mqtt(address: str) -> Callable[[dict], None]:
    """Publishes JSON, at least once, on the topic of an address like ``mqtt://USER:PASSWORD@HOST:1883/TOPIC`` (mqtts: by TLS).

    Raises OmniadError where that is none, or paho-mqtt is missing; what is returned raises OSError where it is not taken.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    topic = unquote(parts.path.strip("/"))
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or set(topic) & set("+#"):
        raise OmniadError(f"'{without_password(address)}' is no address of MQTT: mqtt://HOST:1883/TOPIC")
    try:
        from paho.mqtt import publish
    except ImportError as error:
        raise OmniadError(f"MQTT needs {error.name}: pip install paho-mqtt") from None
    secure = parts.scheme == "mqtts"
    login = {"username": unquote(parts.username), "password": unquote(parts.password or "")} if parts.username else None

    def tell(notice: dict) -> None:
        try:
            publish.single(
                topic, json.dumps(notice), qos=1, hostname=parts.hostname, port=port or (8883 if secure else 1883), auth=login,
                tls={} if secure else None,
            )  # fmt: skip
        except ValueError as error:
            raise OSError(str(error)) from error
        except Exception as error:  # paho's own, of a broker that refuses
            raise error if isinstance(error, OSError) else OSError(str(error)) from error

    return tell


class Notices:
    """A thread that asks the databases; what is not taken is tried again, each time after twice as long.

    tell: what tells of a finding; raises OSError where it is not taken. said: is told why, once.
    """

    EVERY, LONGEST = 2.0, 300.0

    def __init__(self, places: Places, tell: Callable[[dict], None], said: Callable[[str], None]):
        self._places, self._tell, self._said = places, tell, said
        self._known = {name: place.store.newest() for name, place in places.by_name.items()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(TIMEOUT + 1)

    def _run(self) -> None:
        pause = self.EVERY
        while not self._ended.wait(pause):
            try:
                self._look()
                pause = self.EVERY
            except (OSError, OmniadError) as error:
                if pause == self.EVERY:
                    self._said(f"nobody is told of new findings: {error}; it is tried again")
                pause = min(2 * pause, self.LONGEST)

    def _look(self) -> None:
        for name, place in self._places.by_name.items():
            for finding in place.store.findings(after=self._known[name]):
                known = own(finding, "name", "kind", "state", "score", "center", "size")
                self._tell({"event": "new finding", "site": name, **known})
                self._known[name] = finding.id
