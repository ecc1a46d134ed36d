"""`omniad doctor`: what is installed here, what that enables, and what to do for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from omniad_ros.commands.options import CommandOptions


@dataclass(frozen=True, kw_only=True)
class DoctorCommand(CommandOptions):
    """Options of `omniad doctor`."""


def run(options: DoctorCommand) -> None:
    print(format_diagnoses(examine()))


@dataclass(frozen=True)
class Diagnosis:
    """One line of the doctor: ``ok`` or not, what was found, and what it enables or what to do; needed: little works without."""

    part: str
    ok: bool
    found: str
    advice: str
    needed: bool = False

    @property
    def verdict(self) -> str:
        return "ok" if self.ok else "missing" if self.needed else "optional"


def examine() -> list[Diagnosis]:
    """Look at this machine; imports nothing heavy but torch."""
    return [
        _python(),
        _ros(),
        _launch(),
        *_ros_optional(),
        _gpu(),
        _teacher(),
        _hloc(),
        _lightglue(),
        _viewer(),
        _disk(),
    ]


def format_diagnoses(diagnoses: list[Diagnosis]) -> str:
    """The diagnoses as lines of text, for a terminal."""
    width = max(len(finding.part) for finding in diagnoses)
    return "\n".join(
        f"{finding.verdict:8}  {finding.part:{width}}  {finding.found}: {finding.advice}" for finding in diagnoses
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _python() -> Diagnosis:
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "nerfstudio", "pycolmap") if _version(name))
    found = f"Python {platform.python_version()}, {versions or 'no library'}"
    complete = all(map(_version, ("torch", "nerfstudio", "pycolmap")))
    inspects = _version("torch") is not None
    advice = "sites built elsewhere are inspected; to build them" if inspects else "nothing works before you"
    return Diagnosis(
        "libraries",
        complete,
        found,
        "sites can be built" if complete else f"{advice} run 'pip install -r requirements.txt'",
        needed=not inspects,
    )


def _ros() -> Diagnosis:
    if not _has("rclpy"):
        return Diagnosis(
            "ROS 2",
            False,
            "no rclpy",
            "source a ROS 2 installation, or run 'make venv'; build, evaluate and inspect work without",
            needed=True,
        )
    distribution = os.environ.get("ROS_DISTRO")
    found = (
        f"distribution {distribution}"
        if distribution
        else f"rclpy {_version('ros-rclpy') or _version('rclpy')} from PyPI"
    )
    return Diagnosis("ROS 2", True, found, "the nodes can run")


def _launch() -> Diagnosis:
    if _has("launch_ros"):
        return Diagnosis(
            "ros2 launch", True, "launch_ros", "'ros2 launch omniad_ros inspect.launch.py site:=SITE' works"
        )
    return Diagnosis(
        "ros2 launch",
        False,
        "no launch_ros",
        "it comes with a ROS 2 distribution; 'omniad run SITE' starts the same processes",
    )


def _ros_optional() -> list[Diagnosis]:
    enabled = {
        "cv_bridge": ("it converts images", "rosbags-image converts images instead"),
        "tf_transformations": ("it converts rotations", "transforms3d converts rotations instead"),
        "tf2_ros": (
            "map → odom on /tf, extrinsics from /tf",
            "no map → odom on /tf, and extrinsics come from parameters",
        ),
        "vision_msgs": ("the topic 'detections'", "tracks are published as markers only, not as 'detections'"),
    }
    return [
        Diagnosis(name, True, "installed", there) if _has(name) else Diagnosis(name, False, "not installed", without)
        for name, (there, without) in enabled.items()
    ]


def _gpu() -> Diagnosis:
    if not _has("torch"):
        return Diagnosis("GPU", False, "no torch", "run 'pip install -r requirements.txt'")
    import torch

    if torch.cuda.is_available():
        return Diagnosis(
            "GPU",
            True,
            torch.cuda.get_device_name(0),
            "nerfacto and splatfacto can be trained ('omniad build --field nerfacto')",
        )
    return Diagnosis("GPU", False, "none that torch can use", "the CPU field 'grid-field' is used; nothing to do")


def _teacher() -> Diagnosis:
    if not _has("torch"):
        return Diagnosis("teacher", False, "no torch", "run 'pip install -r requirements.txt'")
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = sorted(file.name for file in folder.glob("*.pth")) if folder.is_dir() else []
    if cached:
        return Diagnosis("teacher", True, f"{len(cached)} files of weights in torch's cache", ", ".join(cached))
    return Diagnosis("teacher", True, "the bundled one", f"for ImageNet weights put torchvision's files into {folder}")


def _hloc() -> Diagnosis:
    if _has("hloc"):
        return Diagnosis("hloc", True, "installed", "maps can be built with its extractors, matchers and retrieval")
    return Diagnosis(
        "hloc",
        False,
        "not installed",
        "pycolmap's SIFT is used; hloc is installed from its repository, cvg/Hierarchical-Localization",
    )


def _lightglue() -> Diagnosis:
    found = _has("lightglue")
    return Diagnosis(
        "LightGlue",
        found,
        "installed" if found else "not installed",
        "hloc's 'superpoint+lightglue' and 'disk+lightglue' need it",
    )


def _viewer() -> Diagnosis:
    found = _has("rerun")
    install = "pip install 'rerun-sdk>=0.23' 'pyarrow<22'"
    advice = "'omniad run SITE --viewer' works" if found else f"for a live view without RViz run {install}"
    return Diagnosis("rerun", found, "installed" if found else "not installed", advice)


def _disk() -> Diagnosis:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Diagnosis(
        "disk", free > 2, f"{free:.0f} GB free here", "a site of 100 images takes about 0.1 GB", needed=True
    )
