"""Simulated places with planted anomalies: a plant room that a robot patrols, and table-top scenes for benchmarks.

MuJoCo draws with software OpenGL (Mesa), which brings an LLVM into the process; beside those of numba, triton and
pycolmap that ends in segmentation faults. So whoever builds or inspects sites calls the simulator through `apart`.
"""

import os

from omniad_ros.lab.process import apart

__all__ = ["apart"]

os.environ.setdefault("MUJOCO_GL", "egl")  # must be said before mujoco is imported; works with and without a display
