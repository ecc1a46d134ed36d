"""`omniad inspect`: a recorded patrol, without ROS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, LookOptions, RecordingOptions, positive, unset
from omniad_ros.commands.terminal import ProgressBar, show


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
    smallest_thing: Annotated[float | None, positive("PIXELS"), unset("PIXELS")] = None
    """Pixels across, of the second look, under which a region is no detection; the site's if not given."""
    smallest_extent: Annotated[float | None, positive("METRES"), unset("METRES")] = None
    """The same in metres, by the reference's depth."""
    patrols: Annotated[str, arg(metavar="URL")] = ""
    """Database that keeps the patrol: patrols.db beside the site if not given, another by SQLAlchemy's URL, or 'none'."""
    robot: Annotated[str, arg(metavar="NAME")] = ""
    """Whose patrol it is."""
    look: OmitArgPrefixes[LookOptions]
    bag: OmitArgPrefixes[RecordingOptions]

    @property
    def goes_on(self) -> bool:
        return True


def run(options: InspectCommand) -> None:
    from omniad_ros.patrol.pipeline import InspectionOptions
    from omniad_ros.report.recorded import InspectOptions, inspect_images

    inspection = InspectionOptions(
        evidence=not options.independent, detail_side=options.look.detail_side, whole_frame=options.look.whole_frame,
        smallest_thing=options.smallest_thing, smallest_extent=options.smallest_extent or 0.0,
    )  # fmt: skip
    chosen = InspectOptions(
        inspection=inspection, bag=options.bag.bag_options(), patrols=options.patrols, robot=options.robot
    )
    with ProgressBar() as progress:
        inspect_images(options.site, options.images, options.out, progress, chosen)
    show(f"Report: {options.out / 'index.html'}")
