"""The OmniAD detector: reverse distillation and reference comparison, trained per site on normal images alone.

>>> from omniad_ros.detection import Detector, View, find_regions, train_detector
"""

from omniad_ros.detection.regions import Detection, find_regions
from omniad_ros.detection.view import PLAIN, DetectorOptions, View

__all__ = ["PLAIN", "Detection", "Detector", "DetectorOptions", "View", "find_regions", "train_detector"]


def __getattr__(name: str):
    """`Detector` and `train_detector` import torch, so they come when they are asked for."""
    if name == "Detector":
        from omniad_ros.detection.detector import Detector

        return Detector
    if name == "train_detector":
        from omniad_ros.detection.training import train_detector

        return train_detector
    raise AttributeError(name)
