"""`omniad zones`: parts of a site's map in which things always change, so that nothing is raised there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from omniad_ros.commands.options import CommandOptions, StoreOptions, numbers, unset
from omniad_ros.commands.terminal import show
from omniad_ros.core.feedback import OmniadError


@dataclass(frozen=True, kw_only=True)
class ZonesCommand(CommandOptions):
    """Options of `omniad zones`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    add: Annotated[str | None, unset("NAME")] = None
    """Add a zone of that name, by --box, or by --corner three times or more."""
    box: Annotated[tuple[float, ...] | None, numbers(4), unset("X Y X Y")] = None
    """Two opposite corners in metres in the map, seen from above."""
    corner: UseAppendAction[tuple[tuple[float, float], ...]] = ()
    """A corner of a polygon in metres in the map, seen from above."""
    height: Annotated[tuple[float, ...] | None, numbers(2), unset("LOW HIGH")] = None
    """Metres in the map between which the zone stands; 1 m below to 5 m above the map's origin if not given."""
    remove: Annotated[int | None, unset("ZONE")] = None
    """Take the zone of that number away."""
    store: OmitArgPrefixes[StoreOptions]


def run(options: ZonesCommand) -> None:
    from omniad_ros.commands.verdict import user

    with options.store.open(options.site, begin=True) as store:
        if options.remove is not None:
            store.remove_zone(options.remove)
        if options.add is not None:
            store.add_zone(options.add, _outline(options), options.height or (-1.0, 5.0), user())
        zones = store.zones()
    if not zones:
        show("no zones")
    for zone in zones:
        corners = "  ".join(f"{x:.2f} {y:.2f}" for x, y in json.loads(zone.outline))
        show(f"{zone.id}  {zone.name}: {zone.low:.2f} to {zone.high:.2f} m, corners {corners}")


def _outline(options: ZonesCommand) -> list[tuple[float, float]]:
    if (options.box is None) == (not options.corner):
        raise OmniadError("a zone is given by --box, or by its corners")
    if options.box is None:
        return list(options.corner)
    x0, y0, x1, y1 = options.box
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
