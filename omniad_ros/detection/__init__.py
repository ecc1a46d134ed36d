"""The OmniAD detector: reverse distillation and reference comparison, trained per site on normal images alone.

>>> from omniad_ros.detection import Detector, NormalViews, find_regions, train_detector
"""

from omniad_ros.detection.normal_view import NormalView, NormalViews
from omniad_ros.detection.options import LEAST_HELDOUT, LEAST_TRAINED, PLAIN, DetectorOptions
from omniad_ros.detection.regions import ComparedFrame, Detection, find_regions

__all__ = [
    "LEAST_HELDOUT",
    "LEAST_TRAINED",
    "PLAIN",
    "ComparedFrame",
    "Detection",
    "Detector",
    "DetectorOptions",
    "NormalView",
    "NormalViews",
    "adapt_detector",
    "find_regions",
    "train_detector",
]


def __getattr__(name: str):
    """What imports torch comes when it is asked for."""
    if name == "Detector":
        from omniad_ros.detection.detector import Detector

        return Detector
    if name == "train_detector":
        from omniad_ros.detection.training import train_detector

        return train_detector
    if name == "adapt_detector":
        from omniad_ros.detection.adapting import adapt_detector

        return adapt_detector
    raise AttributeError(name)
