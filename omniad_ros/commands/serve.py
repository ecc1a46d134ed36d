"""`omniad serve`: the operator's page of some sites."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, StoreOptions, at_least, unset
from omniad_ros.commands.terminal import show
from omniad_ros.core.feedback import OmniadError


@dataclass(frozen=True, kw_only=True)
class ServeCommand(CommandOptions):
    """Options of `omniad serve`."""

    sites: Positional[Annotated[tuple[Path, ...], arg(metavar="SITE")]]
    """Folders of the sites."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address that is listened to; beyond this computer a token is needed."""
    port: Annotated[int, at_least(0)] = 8642
    """Port that is listened to; 0 for any that is free."""
    token: Annotated[str | None, unset("TEXT")] = None
    """Without which nobody is let in; beyond this computer a random one if not given."""
    webhook: Annotated[str | None, unset("URL")] = None
    """Address that is told of each new finding, as JSON by POST."""
    mqtt: Annotated[str | None, unset("URL")] = None
    """The same by MQTT: mqtt://USER:PASSWORD@HOST:1883/TOPIC (pip install paho-mqtt)."""
    store: OmitArgPrefixes[StoreOptions]


def run(options: ServeCommand) -> None:
    try:
        from omniad_ros.web import ServeOptions, serve
    except ImportError as error:
        raise OmniadError(f"the operator's page needs {error.name}: pip install fastapi uvicorn") from None
    chosen = ServeOptions(
        options.host,
        options.port,
        options.token or "",
        options.store.patrols,
        options.webhook or "",
        options.mqtt or "",
    )
    serve(options.sites, chosen, show)
