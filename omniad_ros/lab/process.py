"""Runs one function of the simulator in a process of its own, with its progress and its errors brought back.

Not multiprocessing's: its ``spawn`` puts the folder that one stands in on the new process's path.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

from omniad_ros.core import children
from omniad_ros.core.feedback import OmniadError, Progress


def apart(module: str, function: str, *arguments, progress: Progress | None = None):
    """Call ``omniad_ros.lab.<module>.<function>(*arguments)`` in a fresh process and return what it returns.

    progress: handed on to the function where given. Arguments and result must be picklable.
    Raises OmniadError where the function does, or where the process dies.
    """
    ours, theirs = Pipe()
    process = subprocess.Popen(
        children.command(__name__, "serve", str(theirs.fileno())),
        env=children.environment(),
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    try:
        ours.send((module, function, arguments, progress is not None))
        while True:
            what, value = ours.recv()
            if what == "progress":
                progress(*value)
            elif what == "error":
                raise OmniadError(value)
            else:
                return value
    except (EOFError, ConnectionError):
        raise OmniadError(f"the simulator ended with status {process.wait()} (is libegl1 installed?)") from None
    finally:
        ours.close()
        process.terminate()
        process.wait()


def serve() -> int:
    """The other end of `apart`; the command line has its file descriptor."""
    connection = Connection(int(sys.argv[1]))
    module, function, arguments, with_progress = connection.recv()
    options = {"progress": lambda *said: connection.send(("progress", said))} if with_progress else {}
    try:
        result = getattr(importlib.import_module(f"omniad_ros.lab.{module}"), function)(*arguments, **options)
        connection.send(("result", result))
    except OmniadError as error:
        connection.send(("error", str(error)))
    except BrokenPipeError:  # nobody listens any more
        return 1
    return 0
