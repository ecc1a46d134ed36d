"""Dataset layouts, metrics, scores of whole patrols, and the table they make.

`evaluate_datasets` is `omniad evaluate`; `score_patrol` scores the demo, where the simulator knows the truth.
"""

from omniad_ros.evaluation.evaluate import evaluate_dataset, evaluate_datasets
from omniad_ros.evaluation.layouts import Dataset, TestFrame, read_dataset
from omniad_ros.evaluation.metrics import PixelMeter, image_auroc, image_score
from omniad_ros.evaluation.patrol_score import (
    Alignment,
    PatrolTruth,
    PlantedAnomaly,
    RecordedFrame,
    TrueFrame,
    align_truth,
    format_score,
    score_patrol,
)  # fmt: skip
from omniad_ros.evaluation.score import format_table

__all__ = [
    "Alignment", "Dataset", "PatrolTruth", "PixelMeter", "PlantedAnomaly", "RecordedFrame", "TestFrame", "TrueFrame",
    "align_truth", "evaluate_dataset", "evaluate_datasets", "format_score", "format_table", "image_auroc", "image_score",
    "read_dataset", "score_patrol",
]  # fmt: skip
