"""The metric map and the localizer: a survey in, poses of frames out. The only user of pycolmap and hloc."""

from omniad_ros.mapping.building import MapOptions, build_map
from omniad_ros.mapping.features import named_source
from omniad_ros.mapping.localizer import Localization, Localizer, LocalizerOptions

__all__ = ["Localization", "Localizer", "LocalizerOptions", "MapOptions", "build_map", "named_source"]
