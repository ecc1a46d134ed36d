"""`omniad findings`: what is known of a site over all its patrols."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, StoreOptions
from omniad_ros.commands.terminal import show


@dataclass(frozen=True, kw_only=True)
class FindingsCommand(CommandOptions):
    """Options of `omniad findings`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    new: Flag = False
    """Only those that the latest patrol found first and of which nobody has said anything."""
    json: Flag = False
    """As JSON, with all sightings and verdicts."""
    store: OmitArgPrefixes[StoreOptions]


def run(options: FindingsCommand) -> None:
    with options.store.open(options.site) as store:
        findings = store.findings(("new",) if options.new else ())
        if options.new:
            findings = [f for f in findings if not f.verdict]
        if options.json:
            import json

            from omniad_ros.living.export import finding_row

            shown = {f.id for f in findings}
            show(json.dumps([finding_row(f) for f in store.histories() if f.id in shown], indent=1))
            return
        if not findings:
            show(f"no {'new ' if options.new else ''}findings: {len(store.patrols())} patrols are kept")
            return
        rows = [("finding", "state", "verdict", "kind", "score", "x", "y", "z", "size")]
        for f in findings:
            place = (f"{v:.2f}" for v in f.center)
            rows.append((f.name, f.state, f.verdict or "-", f.kind, f"{f.score:.2f}", *place, f"{max(f.size):.2f} m"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    show("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows))
