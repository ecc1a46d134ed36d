"""Simulated places with planted anomalies: a plant room that a robot patrols, and table-top scenes for benchmarks."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # must be said before mujoco is imported; works with and without a display
