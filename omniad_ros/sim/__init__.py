"""Simulated places with planted anomalies: a plant room that a robot patrols, and table-top scenes for benchmarks."""

import os

# Software OpenGL (Mesa) brings an LLVM of its own; where it comes into a process before numba's, after pycolmap, numba's
# import ends in a segmentation fault. So numba's comes first.
import llvmlite.binding  # noqa: F401

os.environ.setdefault("MUJOCO_GL", "egl")  # must be said before mujoco is imported; works with and without a display
