"""What tests share: one tiny scene, and the site built from it once per session."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

# A shell that starts the suite in the background has it ignore Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A table-top dataset in the MAD layout: 36 survey views of 160x120, and two test views of each kind."""
    from omniad_ros.lab import apart
    from omniad_ros.lab.tabletop import TabletopOptions

    options = TabletopOptions(width=160, height=120, views=36, per_kind=2)
    return apart("tabletop", "write_tabletop", tmp_path_factory.mktemp("tiny") / "dataset", 7, options)


@pytest.fixture(scope="session")
def tiny_options():
    """Options of a build that is real in every stage, and short."""
    from omniad_ros.building.build import BuildOptions

    return BuildOptions(
        field_options=("--max-num-iterations", "200"),
        longest_side=160,
        novel_views=8,
        detector=(("distillation_steps", 30), ("comparison_steps", 30)),
    )


@pytest.fixture(scope="session")
def tiny_site(tiny_dataset, tiny_options, tmp_path_factory) -> Path:
    """The finished site of `tiny_dataset`. Copy it before changing it."""
    from omniad_ros.building.build import build_site

    out = tmp_path_factory.mktemp("site") / "site"
    build_site(tiny_dataset, out, tiny_options)
    return out
