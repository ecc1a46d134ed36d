"""Measures the detector on the kinds of places where it is weak: ``python -m omniad_ros.lab.suite --out DIR``.

Datasets are made once and kept in ``DIR/data``; each is evaluated by `omniad evaluate` into ``DIR/runs/RUN``, and one table
shows all. Even seeds are for tuning; odd ones are held out: looked at once a change is chosen, never to choose it. Words that are
no option of the suite go to `omniad evaluate`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from omniad_ros.core import children
from omniad_ros.core.command_line import parse
from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import read_json, write_atomically
from omniad_ros.lab import apart

FIRST_SEED = 200
"""Far from the seeds of tests, demo and training (0 to 99, and from 100000)."""
VIEWS, PER_KIND, NORMAL = 60, 5, 15
"""Survey views, and a patrol's pictures of each kind of anomaly and without: 40, some six minutes of two cores with the build."""


@dataclass(frozen=True)
class SuiteOptions:
    """Options of the suite."""

    out: Annotated[Path, arg(metavar="DIR")]
    """Where datasets and figures go."""
    kinds: tuple[str, ...] = ("table", "lamps", "small", "composite")
    """Kinds of places: table, lamps (with blur and transients), small, composite (needs --pictures)."""
    pictures: tuple[Path, ...] = ()
    """Folders of posed photographs with a transforms.json, on which things are composited."""
    held_out: bool = False
    """Measure on the held-out seeds, in place of those for tuning."""
    seeds: int = 2
    """Datasets of each kind."""
    run: str = "run"
    """Name of this measurement; what an earlier one of that name has measured is taken as it is."""


def tabletop_options(kind: str, seed: int):
    """The table-top of a kind and seed; half of the seeds have another look."""
    from omniad_ros.lab.conditions import Conditions
    from omniad_ros.lab.looks import drawn_look
    from omniad_ros.lab.tabletop import EVERYDAY, SMALL_THINGS

    patrol = Conditions(lamps=0.7, exposure=0.7, blurred=1 / 3, transients=1 / 8, noise=2.0, jpeg=92)
    options = {"table": EVERYDAY, "lamps": replace(EVERYDAY, conditions=patrol), "small": SMALL_THINGS}[kind]
    return replace(options, views=VIEWS, per_kind=PER_KIND, normal=NORMAL, look=drawn_look(seed))


def write_table(out: Path, kind: str, seed: int, progress: Progress) -> Path:
    """Write the table-top of a kind and seed as a dataset; runs in the simulator's own process."""
    from omniad_ros.lab.tabletop import KINDS, write_tabletop

    return write_tabletop(out, seed, tabletop_options(kind, seed), KINDS, progress)


def datasets(options: SuiteOptions) -> dict[str, tuple]:
    """``{name: (module, function, arguments)}`` of the datasets that are asked for: what of the lab writes each."""
    seeds = range(FIRST_SEED + options.held_out, FIRST_SEED + options.held_out + 2 * options.seeds, 2)
    found = {}
    for kind in options.kinds:
        if kind == "composite":
            names = [folder.resolve().name for folder in options.pictures]
            if len(set(names)) < len(names):
                raise OmniadError("the folders of --pictures must differ in their last names, which name their rows")
            for name, folder in zip(names, options.pictures):
                for seed in seeds:
                    found[f"composite-{name}-{seed}"] = ("composite", "write_composite", (folder, seed))
        elif kind in ("table", "lamps", "small"):
            found |= {f"{kind}-{seed}": ("suite", "write_table", (kind, seed)) for seed in seeds}
        else:
            raise OmniadError(f"there is no kind '{kind}': choose of table, lamps, small, composite")
    return found


def evaluated(dataset: Path, out: Path, further: list[str]) -> dict:
    """The metrics of a dataset, measured into ``out`` where they are not there yet."""
    if not (out / "metrics.json").is_file():
        command = children.command("omniad_ros.cli", "main", "evaluate", str(dataset), "--out", str(out), *further)
        if subprocess.run(command, env=children.environment(), check=False).returncode:
            raise OmniadError(f"{dataset.name} could not be evaluated; the same command goes on there")
    return read_json(out / "metrics.json")


def table(results: dict[str, dict]) -> str:
    """A row for each dataset, and one for each kind with the mean of its datasets."""
    from omniad_ros.evaluation.score import SIZE_COLUMNS, format_table, mean_metrics

    def ratio(metrics: dict) -> float | None:
        pixel = metrics["pixel"]
        return pixel["f1"] / pixel["max_f1"] if pixel["max_f1"] else None

    columns = (
        ("AUROC", lambda m: m["pixel"]["auroc"], ".4f"),
        ("AUPRO", lambda m: m["pixel"]["aupro"], ".3f"),
        ("max F1", lambda m: m["pixel"]["max_f1"], ".3f"),
        ("F1", lambda m: m["pixel"]["f1"], ".3f"),
        ("F1/max", ratio, ".2f"),
        ("image", lambda m: m["image"]["auroc"], ".3f"),
        *SIZE_COLUMNS,
        ("false", lambda m: m["false_regions"], ".2f"),
        ("ms", lambda m: m["ms"]["total"], ".0f"),
    )
    rows = {}
    for kind in dict.fromkeys(name.split("-")[0] for name in results):
        own = {name: metrics for name, metrics in results.items() if name.split("-")[0] == kind}
        rows |= {**own, f"{kind}: mean": mean_metrics(list(own.values()))}
    return format_table(rows, columns=columns)


def measure(options: SuiteOptions, further: list[str]) -> str:
    """Make what is missing, evaluate it, and return the table; it is written after every dataset."""
    wanted, results, text = datasets(options), {}, ""
    if not wanted:
        raise OmniadError("nothing is to be measured: composites need --pictures")
    if "composite" in options.kinds and not options.pictures:
        print("composites are left out: they need --pictures")
    data, run = options.out / "data", options.out / "runs" / options.run
    run.mkdir(parents=True, exist_ok=True)
    for index, (name, (module, function, arguments)) in enumerate(wanted.items()):
        print(f"{name} ({index + 1} of {len(wanted)})", flush=True)
        if not (data / name).is_dir():
            _make(data / name, module, function, arguments)
        results[name] = evaluated(data / name, run / name, further)
        text = table(results)
        write_atomically(run / ("held-out.txt" if options.held_out else "tune.txt"), text + "\n")
    return text


def _make(out: Path, module: str, function: str, arguments: tuple) -> None:
    """A dataset: all of it, or nothing."""
    work = out.with_name(f".{out.name}")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    apart(module, function, work, *arguments, progress=quiet)
    work.rename(out)


def main() -> int:
    try:
        options, further = parse(SuiteOptions, sys.argv[1:], "python -m omniad_ros.lab.suite", __doc__)
        print(measure(options, further))
    except OmniadError as error:
        print(f"suite: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
