"""`omniad survey`: a recording becomes a survey."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from omniad_ros.commands.options import CommandOptions, RecordingOptions
from omniad_ros.commands.terminal import ProgressBar, show


@dataclass(frozen=True, kw_only=True)
class SurveyCommand(CommandOptions):
    """Options of `omniad survey`."""

    recording: Positional[Annotated[Path, arg(metavar="BAG")]]
    """rosbag2 (sqlite3 or MCAP) or a video."""
    out: Annotated[Path, arg(metavar="SURVEY")]
    """Folder of the survey; it must be empty."""
    bag: OmitArgPrefixes[RecordingOptions]


def run(options: SurveyCommand) -> None:
    from omniad_ros.core.feedback import part
    from omniad_ros.recordings import export_survey, read_survey
    from omniad_ros.recordings.bag import is_bag, read_bag

    with ProgressBar() as progress:
        reading = part(progress, 0.0, 0.7)
        if is_bag(options.recording):
            source = read_bag(options.recording, options.bag.bag_options(), reading)
        else:
            source = read_survey(options.recording, reading)
        export_survey(source, options.out, part(progress, 0.7, 1.0))
    show(f"{len(source)} keyframes\nSurvey: {options.out}")
