"""Runs one function of the simulator in a process of its own, with its progress and its errors brought back."""

from __future__ import annotations

import importlib
import multiprocessing
from multiprocessing.connection import Connection

from omniad_ros.core.feedback import OmniadError, Progress


def apart(module: str, function: str, *arguments, progress: Progress | None = None):
    """Call ``omniad_ros.lab.<module>.<function>(*arguments)`` in a fresh process and return what it returns.

    progress: handed on to the function where given. Arguments and result must be picklable.
    Raises OmniadError where the function does, or where the process dies.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, module, function, arguments, progress is not None), daemon=True
    )
    process.start()
    theirs.close()
    try:
        while True:
            what, value = ours.recv()
            if what == "progress":
                progress(*value)
            elif what == "error":
                raise OmniadError(value)
            else:
                return value
    except EOFError:
        process.join()
        raise OmniadError(f"the simulator ended with status {process.exitcode} (is libegl1 installed?)") from None
    finally:
        process.terminate()
        process.join()


def _serve(connection: Connection, module: str, function: str, arguments: tuple, with_progress: bool) -> None:
    options = {"progress": lambda *said: connection.send(("progress", said))} if with_progress else {}
    try:
        result = getattr(importlib.import_module(f"omniad_ros.lab.{module}"), function)(*arguments, **options)
        connection.send(("result", result))
    except OmniadError as error:
        connection.send(("error", str(error)))
