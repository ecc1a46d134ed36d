"""Starts a node as a program, for `processes.start` and setup.py's console scripts.

Its libraries take seconds to load, in which a launcher or a person may already want it to end: that, too, ends without a
traceback and with status 0. So nothing else may be imported here before that is seen to.
"""

import os
import signal


def run(node: str) -> int:
    """Run the module of this package until its node ends; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from importlib import import_module

    return import_module(f"omniad_ros.ros.{node}").main()


def _leave(number, stack) -> None:
    os._exit(0)  # nothing is begun yet; an exception here would surface in the middle of some library


def inspector() -> int:
    return run("inspector")


def nerf_renderer() -> int:
    return run("nerf_renderer")


def sim_robot() -> int:
    return run("sim_robot")
