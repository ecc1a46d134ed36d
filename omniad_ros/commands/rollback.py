"""`omniad rollback`: makes another version of a site the current one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from omniad_ros.commands.options import CommandOptions, at_least
from omniad_ros.commands.terminal import show


@dataclass(frozen=True, kw_only=True)
class RollbackCommand(CommandOptions):
    """Options of `omniad rollback`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    version: Positional[Annotated[int, at_least(1), arg(metavar="VERSION")]]
    """Its number, as 'omniad history' shows it; later ones may be gone to as well."""


def run(options: RollbackCommand) -> None:
    from omniad_ros.core.files import exclusive
    from omniad_ros.site import Site
    from omniad_ros.versions import roll_back

    site = Site.open(options.site, verify=False)
    with exclusive(site.path):
        roll_back(site, options.version)
    show(f"{options.site} is at version {options.version}; running nodes take it on ~/reload")
