"""Starts a node as a program, for `processes.start`, launch files and setup.py's console scripts.

Its libraries take seconds to load, in which a launcher or a person may already want it to end: that, too, ends without a
traceback and with status 0. So nothing else may be imported here before that is seen to.
"""

import os
import signal
import sys

from omniad_ros.core.children import check_present_folder, forget_present_folder


def run(node: str) -> int:
    """Run the module of this package until its node ends; returns the exit status."""
    forget_present_folder()
    leave_when_asked()
    from importlib import import_module

    from omniad_ros.core.feedback import OmniadError

    try:
        check_present_folder()
    except OmniadError as error:
        print(f"{node}: {error}", file=sys.stderr)
        return 1
    return import_module(f"omniad_ros.ros.{node}").main()


def leave_when_asked() -> None:
    """Let SIGINT and SIGTERM end this process at once with status 0, until whoever has begun something sees to them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number, stack) -> None:
    os._exit(0)  # nothing is begun yet; an exception here would surface in the middle of some library


def inspector() -> int:
    return run("inspector")


def nerf_renderer() -> int:
    return run("nerf_renderer")


def sim_robot() -> int:
    return run("sim_robot")
