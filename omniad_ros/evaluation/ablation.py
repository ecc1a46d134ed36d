"""The ablation of `omniad evaluate --ablation`: what each part of the method adds, on one dataset, with one teacher and seed.

Reverse distillation (arXiv 2201.10703), + attention, + INV, + QANV (OmniAD, arXiv 2406.18012), + reference comparison (ours),
and the paper's setting once more with a randomly initialised teacher of the same shape. Each student takes the same number of
training steps; the first four rows see the frame alone, as the paper does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from omniad_ros.core.feedback import Progress, part, quiet
from omniad_ros.evaluation.metrics import PixelMeter, image_auroc, image_score

ROWS = ("RD", "+ attention", "+ INV", "+ QANV", "+ QANV, random teacher", "+ reference comparison (ours)")
COLUMNS = ("auroc", "aupro", "max_f1", "image_auroc")


@dataclass(frozen=True)
class AblationData:
    """survey: normal photographs; novel: INV renderings; aligned: QANV renderings, all uint8 (h, w, 3) of one size; frames: the
    test images at that size; masks: bool (h, w) of each; ours: the site's own heatmaps float32 (h, w) of them; options: the site's
    `DetectorOptions`; steps: of each student's training, many more than a site's detector takes, whose student is only a fallback: under
    a thousand, views at the poses of the test images are not learnt well enough to show what they bring."""

    survey: list[np.ndarray]
    novel: list[np.ndarray]
    aligned: list[np.ndarray]
    frames: list[np.ndarray]
    masks: list[np.ndarray]
    ours: list[np.ndarray]
    options: object
    steps: int = 1200


def ablation(data: AblationData, progress: Progress = quiet) -> dict[str, dict]:
    """Metrics of each of ROWS: ``{"auroc", "aupro", "max_f1", "image_auroc"}``, None where the frames do not determine one."""
    settings = {
        "RD": (False, data.survey, False),
        "+ attention": (True, data.survey, False),
        "+ INV": (True, data.survey + data.novel, False),
        "+ QANV": (True, data.survey + data.novel + data.aligned, False),
        "+ QANV, random teacher": (True, data.survey + data.novel + data.aligned, True),
    }
    results = {}
    for index, (name, (attention, images, random)) in enumerate(settings.items()):
        step = part(progress, index / len(settings), (index + 1) / len(settings))
        options = replace(data.options, attention=attention, distillation_steps=data.steps)
        look = _distilled(options, images, random, step)
        results[name] = _metrics([look(frame) for frame in data.frames], data.masks)
    results[ROWS[-1]] = _metrics(data.ours, data.masks)
    return results


def _distilled(
    options, images: list[np.ndarray], random: bool, progress: Progress
) -> Callable[[np.ndarray], np.ndarray]:
    """A student of these images, as a function from a frame to its heatmap."""
    import torch

    from omniad_ros.detection.networks import Networks
    from omniad_ros.detection.student import choose_backbone, load_teacher, untrained_like
    from omniad_ros.detection.training import train_student

    torch.manual_seed(options.seed)
    teacher, _ = load_teacher(*choose_backbone(options.backbone, options.teacher_weights))
    teacher = untrained_like(teacher) if random else teacher
    student, _ = train_student(teacher, images, options, progress)
    networks = Networks.for_inference(teacher, student, None)
    # a sum of three cosine distances lies in [0, 6]; the metrics only look at the order
    return lambda frame: np.clip(networks.distillation_scores([frame])[0] / 6, 0, 1)


def _metrics(heatmaps: list[np.ndarray], masks: list[np.ndarray]) -> dict:
    meter = PixelMeter(0.5)
    for heatmap, mask in zip(heatmaps, masks, strict=True):
        meter.add(heatmap, mask)
    pixel = meter.result()
    image = image_auroc([image_score(h) for h in heatmaps], [bool(m.any()) for m in masks])
    values = {**{k: pixel[k] for k in COLUMNS[:3]}, "image_auroc": image}
    return {k: None if v is None else round(float(v), 5) for k, v in values.items()}


def format_ablation(results: dict[str, dict]) -> str:
    """The ablation as a table for a terminal."""
    lines = [f"{'ablation':32s}" + "".join(f"{c:>13s}" for c in COLUMNS)]
    for name, row in results.items():
        lines.append(
            f"{name:32s}" + "".join(f"{'-' if row[c] is None else format(row[c], '.4f'):>13s}" for c in COLUMNS)
        )
    return "\n".join(lines)
