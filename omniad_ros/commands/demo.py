"""The whole chain on a simulated robot: survey → site → patrol over ROS 2 → figures and report.

The patrol runs as three processes that talk over DDS (see `omniad_ros.ros.recorded_patrol`); what they said is scored against the
simulator's truth. Survey and site of a seed are kept, so a second run begins with the patrol.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from omniad_ros.commands.options import CommandOptions, at_least
from omniad_ros.commands.terminal import ProgressBar, show
from omniad_ros.core.feedback import OmniadError, Progress, part, quiet

if TYPE_CHECKING:
    from omniad_ros.building.build import BuildOptions
    from omniad_ros.lab.recording import SurveyRoundOptions

OWN_FILES = ("sites", "patrol", "images", "index.html", "metrics.json")
"""What a demo folder may hold; anything else is somebody's."""


@dataclass(frozen=True, kw_only=True)
class DemoCommand(CommandOptions):
    """Options of `omniad demo`."""

    seed: Annotated[int, at_least(0)] = 0
    """Which simulated site."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("omniad_demo")
    """Where index.html and metrics.json go."""

    @property
    def goes_on(self) -> bool:
        return True


def run(options: DemoCommand) -> None:
    with ProgressBar() as progress:
        table = run_demo(options.out, options.seed, progress)
    show(table)
    show(f"Report: {options.out / 'index.html'}\nFigures: {options.out / 'metrics.json'}")


@dataclass(frozen=True)
class DemoOptions:
    """How long the demo takes and how well it goes. survey: how the survey round is recorded; build: how its site is built; robot:
    parameters of the node ``sim_robot`` on patrol, by name. None and empty stand for what `omniad demo` shows."""

    survey: SurveyRoundOptions | None = None
    build: BuildOptions | None = None
    robot: Mapping[str, float] = field(default_factory=dict)


def run_demo(out: Path, seed: int = 0, progress: Progress = quiet, options: DemoOptions | None = None) -> str:
    """Run the demo into ``out`` and return its table; writes ``index.html`` and ``metrics.json``.

    Raises OmniadError where ``out`` holds other things or a part of the chain fails.
    """
    from omniad_ros.building.build import build_site
    from omniad_ros.core.files import write_json
    from omniad_ros.evaluation import format_score, score_patrol
    from omniad_ros.lab import apart
    from omniad_ros.lab.recorded import read_patrol
    from omniad_ros.report import write_report
    from omniad_ros.ros.recorded_patrol import run_patrol
    from omniad_ros.site import Site

    options = options or DemoOptions()
    if out.exists() and not out.is_dir():
        raise OmniadError(f"{out} is a file; choose a folder")
    foreign = [entry.name for entry in out.iterdir() if entry.name not in OWN_FILES] if out.is_dir() else []
    if foreign:
        raise OmniadError(f"{out} is not empty (it holds {foreign[0]}); choose an empty output folder")
    place = out / "sites" / f"seed_{seed}"
    place.mkdir(parents=True, exist_ok=True)
    survey, site_path = place / "survey", place / "site"
    if not survey.is_dir():
        # a survey is whole or not there: recorded beside, then renamed
        shutil.rmtree(place / ".survey", ignore_errors=True)
        driving, further = part(progress, 0.0, 0.1), [options.survey] if options.survey else []
        apart("recording", "record_survey", seed, place / ".survey", *further, progress=driving).rename(survey)
    build_site(survey, site_path, options.build, part(progress, 0.1, 0.75))
    shutil.rmtree(out / "patrol", ignore_errors=True)
    run_patrol(site_path, seed, out / "patrol", part(progress, 0.75, 0.95), robot=dict(options.robot))

    progress(0.96, "scoring the patrol")
    site = Site.open(site_path, verify=False)
    patrol = read_patrol(out / "patrol", survey / "true_poses.json", site)
    metrics = score_patrol(patrol.frames, patrol.tracks, patrol.truth, patrol.threshold)
    write_json(out / "metrics.json", {"seed": seed, **metrics})
    progress(0.98, "writing the report")
    write_report(out, patrol.report(site, metrics))
    progress(1.0, "done")
    return format_score(metrics)
