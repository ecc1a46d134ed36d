"""`omniad adapt`: a site's detector learns the normal views from where the images to be inspected were taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, RecordingOptions
from omniad_ros.commands.terminal import ProgressBar, show


@dataclass(frozen=True, kw_only=True)
class AdaptCommand(CommandOptions):
    """Options of `omniad adapt`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    images: Positional[Annotated[Path, arg(metavar="IMAGES")]]
    """Image folder, transforms.json, video or rosbag2."""
    bag: OmitArgPrefixes[RecordingOptions]


def run(options: AdaptCommand) -> None:
    from omniad_ros.building.adapt import adapt

    with ProgressBar() as progress:
        count = adapt(options.site, options.images, options.bag.bag_options(), progress)
    show(f"adapted to {count} views\nSite: {options.site}")
