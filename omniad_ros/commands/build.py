"""`omniad build`: a survey becomes a site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, NerfstudioOptions, SiteOptions
from omniad_ros.commands.terminal import ProgressBar, show


@dataclass(frozen=True, kw_only=True)
class BuildCommand(CommandOptions):
    """Options of `omniad build`."""

    survey: Positional[Annotated[Path, arg(metavar="SURVEY")]]
    """Folder with images and a transforms.json, MAD dataset, plain image folder, or video."""
    out: Annotated[Path, arg(metavar="SITE")]
    """Folder of the site; it must be empty or an unfinished build of the same survey."""
    site: OmitArgPrefixes[SiteOptions]
    nerfstudio: NerfstudioOptions = ()

    @property
    def goes_on(self) -> bool:
        return True


def run(options: BuildCommand) -> None:
    from omniad_ros.building.build import build_site

    with ProgressBar() as progress:
        build_site(options.survey, options.out, options.site.build_options(options.nerfstudio), progress)
    show(f"Site: {options.out}")
