"""`omniad inspect`: a recorded patrol, without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, RecordingOptions
from omniad_ros.commands.terminal import ProgressBar


@dataclass(frozen=True, kw_only=True)
class InspectCommand(CommandOptions):
    """Options of `omniad inspect`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    images: Positional[Annotated[Path, arg(metavar="IMAGES")]]
    """rosbag2, video, or folder of images, with a transforms.json where their poses are roughly known."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Where heatmaps, masks and the report go."""
    independent: Flag = False
    """Judge each frame alone, without evidence from the frames before it."""
    bag: OmitArgPrefixes[RecordingOptions]

    @property
    def goes_on(self) -> bool:
        return True


def run(options: InspectCommand) -> None:
    from omniad_ros.report.recorded import InspectOptions, inspect_images

    chosen = InspectOptions(independent=options.independent, bag=options.bag.bag_options())
    with ProgressBar() as progress:
        inspect_images(options.site, options.images, options.out, progress, chosen)
    print(f"Report: {options.out / 'index.html'}")
