"""Serves the operator's page until Ctrl-C."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omniad_ros.core.feedback import OmniadError
from omniad_ros.web.guard import LOCAL
from omniad_ros.web.notices import Notices, mqtt, webhook


@dataclass(frozen=True)
class ServeOptions:
    """host, port: that is listened to; token: without which nobody is let in (empty: none on this computer alone, a random one beyond it);
    database: of the patrols, as SQLAlchemy names it; webhook, mqtt: addresses that are told of new findings, empty for none."""

    host: str = "127.0.0.1"
    port: int = 8642
    token: str = ""
    database: str = ""
    webhook: str = ""
    mqtt: str = ""


def serve(sites: Sequence[Path], options: ServeOptions, said: Callable[[str], None]) -> None:
    """Serve the patrols of these sites until Ctrl-C. said: is told the address.

    Raises OmniadError where a site, the address or the database cannot be used.
    """
    import uvicorn

    from omniad_ros.web.app import create_app
    from omniad_ros.web.places import Places

    tellers = [make(address) for make, address in ((webhook, options.webhook), (mqtt, options.mqtt)) if address]
    places = Places.open(sites, options.database)
    listening = _listen(options)
    alone = _is_loopback(options.host)
    token = options.token or ("" if alone else secrets.token_urlsafe(18))
    app = create_app(places, token, LOCAL if alone else ())
    name = f"[{options.host}]" if ":" in options.host else options.host
    said(f"http://{name}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else ""))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=2))
    notices = [Notices(places, tell, said) for tell in tellers]
    try:
        server.run(sockets=[listening])
    finally:
        for notice in notices:
            notice.stop()
        places.close()


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((options.host, options.port))
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise OmniadError(
            f"cannot listen on {options.host}, port {options.port}: {why}; choose another --port"
        ) from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
