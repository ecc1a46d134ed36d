"""`omniad history`: the versions of a site."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from omniad_ros.commands.options import CommandOptions, at_least, unset
from omniad_ros.commands.terminal import show


@dataclass(frozen=True, kw_only=True)
class HistoryCommand(CommandOptions):
    """Options of `omniad history`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    forget: Annotated[int | None, at_least(2), unset("VERSION")] = None
    """Remove what only that version has; the current one and the first stay."""


def run(options: HistoryCommand) -> None:
    from omniad_ros.core.files import exclusive
    from omniad_ros.site import Site
    from omniad_ros.versions import forget, history

    site = Site.open(options.site, verify=False)
    if options.forget is not None:
        with exclusive(site.path):
            forget(site, options.forget)
    for version in history(site):
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(version.made)) if version.made else "built".ljust(16)
        show(f"{'*' if version.current else ' '} {version.number}  {made}  {version.changes}".rstrip())
