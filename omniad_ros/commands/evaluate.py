"""`omniad evaluate`: how well anomalies are found in a dataset with ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from omniad_ros.commands.options import CommandOptions, Flag, LookOptions, NerfstudioOptions, SiteOptions, unset
from omniad_ros.commands.terminal import ProgressBar, show
from omniad_ros.core.feedback import OmniadError


def _folders(words: list[str]) -> tuple[Path, ...]:
    if not words:
        raise ValueError("at least one must be given")
    return tuple(map(Path, words))


DATASETS = PrimitiveConstructorSpec("*", "DATASET", _folders, lambda value: True, lambda value: list(map(str, value)))


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(CommandOptions):
    """Options of `omniad evaluate`."""

    dataset: Positional[
        Annotated[tuple[Path, ...], DATASETS, arg(metavar="DATASET...", help_behavior_hint="(required)")]
    ]
    """Folder with train/good, test/<kind>, ground_truth/<kind> and transforms.json."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Where metrics.json and the pictures go."""
    site: Annotated[Path | None, unset("SITE")] = None
    """A site built from the dataset's normal images; built if not given."""
    adapt: Flag = False
    """Adapt a copy of the detector to where the test images were taken first (QANV)."""
    ablation: Flag = False
    """Also measure what each part of the method adds; trains five students, half an hour."""
    look: OmitArgPrefixes[LookOptions]
    building: OmitArgPrefixes[SiteOptions]
    nerfstudio: NerfstudioOptions = ()

    @property
    def goes_on(self) -> bool:
        return self.site is None


def run(options: EvaluateCommand) -> None:
    from omniad_ros.evaluation import evaluate_datasets
    from omniad_ros.evaluation.evaluate import EvaluationOptions

    if options.site and options.nerfstudio:
        raise OmniadError(
            f"nothing is built where --site is given, so {options.nerfstudio[0]} has no meaning; leave it out"
        )
    building = options.building.build_options(options.nerfstudio)
    chosen = EvaluationOptions(options.adapt, options.ablation, options.look.detail_side, options.look.whole_frame)
    with ProgressBar() as progress:
        table = evaluate_datasets(options.dataset, options.site, options.out, building, progress, chosen)
    show(table)
    show(f"Figures: {options.out / 'metrics.json'}")
