"""The metric map and the localizer: a survey in, poses of frames out. The only user of pycolmap and hloc.

Where pycolmap is not installed, which has no packages for a robot's arm64, frames are localized all the same
(`omniad_ros.mapping.by_opencv`), and what builds maps says in a sentence that it cannot.
"""

# pycolmap brings an allocator that numba's LLVM cannot be loaded after: the first compiled kernel then ends in a
# segmentation fault. So numba's comes first.
import signal
import threading
from importlib import import_module

import llvmlite.binding  # noqa: F401

from omniad_ros.mapping.backend import ABSENT

# It also takes SIGTERM, to print a stack as if it had crashed; what handled it before does so again.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

from omniad_ros.mapping.intrinsics import fit_intrinsics
from omniad_ros.mapping.localize import Localization, Localizer, LocalizerOptions, Support
from omniad_ros.mapping.sources import named_source

_BUILDING = {
    "KnownDistance": "known_distance", "check_distance": "known_distance", "MapOptions": "build", "build_map": "build",
    "ADDED": "extend", "Added": "extend", "extend_map": "extend",
}  # fmt: skip

__all__ = ["Localization", "Localizer", "LocalizerOptions", "Support", "fit_intrinsics", "named_source", *_BUILDING]


def __getattr__(name: str):
    """What builds maps, when it is asked for. Raises OmniadError where pycolmap is not installed."""
    if name not in _BUILDING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from omniad_ros.core.feedback import OmniadError

    try:
        return getattr(import_module(f"{__name__}.{_BUILDING[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "pycolmap":
            raise
        raise OmniadError(f"maps are built by pycolmap, {ABSENT}") from None
