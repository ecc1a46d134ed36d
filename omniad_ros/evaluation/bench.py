"""`omniad bench`: how long each stage of an inspection takes on this machine, and how much memory.

The frames are the site's own survey images, localized from priors as odometry would give them (a few centimetres and
degrees off), so that any site can be measured anywhere without further data.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from omniad_ros.core.feedback import OmniadError, Progress, quiet
from omniad_ros.core.files import read_json, sha256, write_json
from omniad_ros.core.geometry import Pose
from omniad_ros.core.images import resized
from omniad_ros.patrol.pipeline import Inspection, InspectionOptions, Inspector
from omniad_ros.site import Site

SECOND_LOOK = "second look"
STAGES = ("localize", "render", "detect", SECOND_LOOK, "track", "total")
"""As `Inspection.ms` has them, and by how much of "detect" a second look made it longer."""


@dataclass(frozen=True)
class BenchOptions:
    """frames: how many are timed after ``warmup`` ones; prior noise: standard deviation in metres and degrees."""

    frames: int = 30
    warmup: int = 3
    prior_noise_m: float = 0.03
    prior_noise_deg: float = 1.0
    seed: int = 0


@dataclass
class TimedFrames:
    """What was measured so far. of: the site's digest, the options and the machine; ms: one of each frame a stage; localized: of
    how many frames; memory_mb: at most."""

    of: str
    ms: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    localized: int = 0
    memory_mb: int = 0

    def __len__(self) -> int:
        return min(map(len, self.ms.values()))


def bench(
    site_path: Path, options: BenchOptions | None = None, progress: Progress = quiet, partial: Path | None = None
) -> dict:
    """Time the inspection of a site's survey images.

    partial: a file that keeps the frames that were timed, so that the same bench goes on after an interruption; the caller
    removes it when the figures are safe.
    Returns ``{"machine", "images", "size", "ms": {stage: {"median", "p95"}}, "fps", "localized", "memory_mb"}``.
    """
    options = options or BenchOptions()
    site = Site.open(site_path)
    mapped = site.mapped
    inspector = Inspector(site, options=InspectionOptions(tracking=True))
    indices = np.linspace(0, len(mapped) - 1, options.frames + options.warmup).astype(int)
    priors = _priors([mapped.poses[index] for index in indices], map_scale(mapped.poses), options)
    timed = _timed_before(partial, f"{sha256(site.path / 'site.json')} {asdict(options)} {machine()}")
    # the machine is warm only after its first frames, so these come again where a bench goes on
    steps = [*range(options.warmup), *range(options.warmup + len(timed), len(indices))]
    for step in steps:
        progress(step / len(indices), "inspecting survey images")
        image = mapped.image(indices[step])
        inspection = inspector.inspect(image, mapped.camera, priors[step], stamp=float(step))
        if step < options.warmup:
            continue
        timed.localized += inspection.localization.pose is not None
        looked_once = _first_look(inspector, image, inspection)
        ms = {**inspection.ms, SECOND_LOOK: max(0.0, inspection.ms["detect"] - looked_once)}
        for stage in STAGES:
            timed.ms[stage].append(ms[stage])
        timed.memory_mb = max(timed.memory_mb, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))
        if partial is not None:
            write_json(partial, asdict(timed))
    ms = {
        s: {"median": round(float(np.median(t)), 1), "p95": round(float(np.percentile(t, 95)), 1)}
        for s, t in timed.ms.items()
    }
    return {
        "machine": machine(),
        "images": len(mapped),
        "size": f"{mapped.camera.width}x{mapped.camera.height}",
        "ms": ms,
        "fps": round(1e3 / ms["total"]["median"], 2),
        "localized": timed.localized / options.frames,
        "memory_mb": timed.memory_mb,
    }


def _priors(poses: list[Pose], scale: float, options: BenchOptions) -> list[Pose]:
    """Where odometry says that each frame is."""
    generator = np.random.default_rng(options.seed)
    priors = []
    for pose in poses:
        turn = Rotation.from_rotvec(np.radians(generator.normal(0, options.prior_noise_deg, 3))).as_matrix()
        shift = generator.normal(0, options.prior_noise_m * scale, 3)
        priors.append(Pose(pose.rotation @ turn, pose.translation + shift))
    return priors


def _first_look(inspector: Inspector, image: np.ndarray, inspection: Inspection) -> float:
    """Milliseconds of detection had the frame been looked at once; as many as it took where it was."""
    reference = inspection.reference
    if reference is None or reference.detail is None:
        return inspection.ms["detect"]
    frame = resized(image, *reference.image.shape[1::-1])
    started = time.perf_counter()
    inspector.detector.heatmap(frame, replace(reference, detail=None))
    return 1e3 * (time.perf_counter() - started)


def _timed_before(partial: Path | None, of: str) -> TimedFrames:
    """What an interrupted run of this very bench has measured; nothing where there is none."""
    try:
        before = read_json(partial, TimedFrames) if partial is not None else None
    except OmniadError:
        return TimedFrames(of)
    return before if before is not None and before.of == of and set(before.ms) == set(STAGES) else TimedFrames(of)


def format_bench(result: dict) -> str:
    """The result as a table for a terminal."""
    lines = [f"{result['machine']}; site of {result['images']} images, frames of {result['size']}", ""]
    lines.append(f"{'stage':11} {'median ms':>10} {'p95 ms':>10}")
    lines += [f"{stage:11} {t['median']:10.1f} {t['p95']:10.1f}" for stage, t in result["ms"].items()]
    lines.append(
        f"\n{result['fps']} frames/s, {100 * result['localized']:.0f} % localized, {result['memory_mb']} MB at most"
    )
    return "\n".join(lines)


def map_scale(poses: tuple[Pose, ...]) -> float:
    """The prior's noise is meant for a patrol of some metres; a table-top's is proportionally smaller."""
    return float(min(1.0, np.ptp(np.stack([pose.translation for pose in poses]), axis=0).max() / 2))


def machine() -> str:
    """The machine in a few words."""
    import torch

    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {accelerator}"
