"""The metric map and the localizer: a survey in, poses of frames out. The only user of pycolmap and hloc."""

# pycolmap brings an allocator that numba's LLVM cannot be loaded after: the first compiled kernel then ends in a
# segmentation fault. So numba's comes first.
import signal
import threading

import llvmlite.binding  # noqa: F401
import pycolmap  # noqa: F401

# It also takes SIGTERM, to print a stack as if it had crashed; what handled it before does so again.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

from omniad_ros.mapping.build import MapOptions, build_map
from omniad_ros.mapping.known_distance import KnownDistance, check_distance
from omniad_ros.mapping.localize import Localization, Localizer, LocalizerOptions
from omniad_ros.mapping.sources import named_source

__all__ = [
    "KnownDistance", "Localization", "Localizer", "LocalizerOptions", "MapOptions", "build_map", "check_distance", "named_source",
]  # fmt: skip
