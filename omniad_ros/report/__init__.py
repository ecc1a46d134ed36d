"""The HTML report of a patrol: what was found, where, and how the patrol went, on one page without external parts."""

from omniad_ros.report.data import GalleryFrame, PatrolReport, PlantedMark, RouteStep
from omniad_ros.report.recorder import PatrolRecorder
from omniad_ros.report.writing import write_report

__all__ = ["GalleryFrame", "PatrolRecorder", "PatrolReport", "PlantedMark", "RouteStep", "write_report"]
