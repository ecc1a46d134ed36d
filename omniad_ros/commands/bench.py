"""`omniad bench`: what an inspection costs on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from omniad_ros.commands.options import CommandOptions, Flag, at_least, unset
from omniad_ros.commands.terminal import ProgressBar, show
from omniad_ros.core.feedback import OmniadError


@dataclass(frozen=True, kw_only=True)
class BenchCommand(CommandOptions):
    """Options of `omniad bench`."""

    site: Positional[Annotated[Path, arg(metavar="SITE")]]
    """Folder of the site."""
    frames: Annotated[int, at_least(1)] = 30
    """How many frames are timed."""
    node: Flag = False
    """Measure the nodes as processes beside the library, and their memory."""
    json: Annotated[Path | None, unset("FILE")] = None
    """Write the figures here too; what an interruption leaves stays beside it, in FILE.partial."""

    @property
    def partial(self) -> Path | None:
        """Where the frames that were timed are kept; those of nodes are not, whose memory is that of one run."""
        return None if self.json is None or self.node else self.json.with_name(f"{self.json.name}.partial")

    @property
    def goes_on(self) -> bool:
        return self.partial is not None


def run(options: BenchCommand) -> None:
    from omniad_ros.core.files import write_json

    if options.json and not options.json.absolute().parent.is_dir():
        raise OmniadError(f"the folder of {options.json} does not exist")
    with ProgressBar() as progress:
        if options.node:
            from omniad_ros.ros.bench import NodeBenchOptions, bench_nodes, format_node_bench

            result = bench_nodes(options.site, NodeBenchOptions(frames=options.frames), progress)
            table = format_node_bench(result)
        else:
            from omniad_ros.evaluation.bench import BenchOptions, bench, format_bench

            result = bench(options.site, BenchOptions(frames=options.frames), progress, options.partial)
            table = format_bench(result)
    show(table)
    if options.json:
        write_json(options.json, result)
        if options.partial:
            options.partial.unlink(missing_ok=True)
        show(f"Figures: {options.json}")
