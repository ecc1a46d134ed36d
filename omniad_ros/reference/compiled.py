"""How this package compiles its loops, and how it runs them on all threads.

Plain numba functions that release the GIL and are run in chunks by `parallel`, not numba's own `parallel=True`: they
compile fast, may be called from any thread, and need no threading layer.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from numba import njit

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy"}
INLINED = {**OPTIONS, "forceinline": True, "_nrt": False}
"""For the small parts of a hot loop, which allocate nothing: numba's calls would count the references of every array in
their arguments, which costs more than the work."""

compiled, inlined = njit(fastmath=True, **OPTIONS), njit(fastmath=True, **INLINED)
"""For numbers that are all finite."""
compiled_with_nan, inlined_with_nan = njit(**OPTIONS), njit(**INLINED)
"""For depth maps, whose NaN the others would not see."""


def threads() -> int:
    """As many as the CPUs we may use, at most what NUMBA_NUM_THREADS or OMP_NUM_THREADS allow."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit():
            count = min(count, max(1, int(os.environ[name])))
    return count


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "grid-field")


def parallel(function, count: int, chunk: int) -> None:
    """Call ``function(start, end)`` for chunks of ``range(count)`` on all threads; it must release the GIL."""
    starts = range(0, count, chunk)
    if threads() == 1 or len(starts) < 2:
        for start in starts:
            function(start, min(count, start + chunk))
        return
    for future in [_pool().submit(function, start, min(count, start + chunk)) for start in starts]:
        future.result()
