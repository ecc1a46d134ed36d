"""`omniad verdict`: somebody says what a finding is; running nodes hear of it within a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, StoreOptions
from omniad_ros.commands.terminal import show
from omniad_ros.core.feedback import OmniadError


@dataclass(frozen=True, kw_only=True)
class VerdictCommand(CommandOptions):
    """Options of `omniad verdict`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    finding: Positional[Annotated[str, arg(metavar="FINDING")]]
    """Its name, as 'omniad findings' shows it."""
    verdict: Positional[Annotated[str, arg(metavar="VERDICT")]] = ""
    """confirmed (a fault: it stays until it is seen repaired), accepted (this is normal now), ignored (here things always change), or 'false alarm' (there is nothing)."""
    comment: Annotated[str, arg(aliases=["-m"], metavar="TEXT")] = ""
    """Why."""
    who: Annotated[str, arg(metavar="NAME")] = ""
    """Who says so; the user's name if not given."""
    undo: Flag = False
    """Take the last verdict back."""
    store: OmitArgPrefixes[StoreOptions]


def run(options: VerdictCommand) -> None:
    if bool(options.verdict) == options.undo:
        raise OmniadError("give a verdict, or --undo to take the last one back")
    with options.store.open(options.site) as store:
        if options.undo:
            finding = store.take_back(options.finding)
        else:
            verdict = options.verdict.replace("_", " ").replace("-", " ")
            finding = store.give(options.finding, verdict, options.who or user(), options.comment)
    show(f"{finding.name}: {finding.verdict or 'no verdict'}")


def user() -> str:
    """Who runs the command."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
