"""The `omniad` command: finds the subcommand, and says in one sentence what went wrong.

A subcommand is a module of `omniad_ros.commands` with a dataclass of options and ``run``; only the chosen one is imported, so
that `omniad --help` answers at once. What a user can mend ends in a sentence on stderr and exit status 1, wrong options in
one and status 2; a traceback is shown only with --debug.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
import textwrap
import warnings

from omniad_ros import __version__
from omniad_ros.commands.terminal import show_notes
from omniad_ros.core.children import check_present_folder, forget_present_folder
from omniad_ros.core.feedback import OmniadError, printable, short_of_memory

COMMANDS = {
    "demo": "run the whole chain on a simulated robot: survey, build, patrol, report",
    "survey": "make a survey out of a rosbag2 or a video: sharp keyframes, with odometry's poses",
    "build": "build the site of a survey (map, radiance field, detector)",
    "evaluate": "measure detection on a dataset with ground truth",
    "adapt": "adapt a site's detector to where the images to be inspected were taken (not to what they show)",
    "inspect": "inspect recorded images, a video or a rosbag2, without ROS",
    "findings": "list what was found in a site's patrols: new, still there, changed, gone",
    "verdict": "say what a finding is: confirmed, accepted, ignored, a false alarm",
    "zones": "list, add and remove the zones of a site in which things always change",
    "update": "take accepted changes into a site, as recorded patrols show them",
    "history": "list the versions of a site",
    "rollback": "make another version of a site the current one",
    "serve": "show the operator's page of some sites: findings, patrols as they run, verdicts, zones",
    "run": "start the inspector and the renderer as ROS 2 processes (like inspect.launch.py)",
    "bench": "measure milliseconds a stage, frames a second and memory on this machine",
    "doctor": "say what is installed, what that enables, and what to do for the rest",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status. Raises SystemExit after a help text and for wrong options."""
    forget_present_folder()
    words = sys.argv[1:] if arguments is None else list(arguments)
    name = _command(words)
    if name == "run":
        from omniad_ros.ros.start import leave_when_asked

        leave_when_asked()
    module = importlib.import_module(f"omniad_ros.commands.{name}")
    options = _options(module, name, words[1:])
    _quieten()
    show_notes()
    try:
        check_present_folder()
        module.run(options)
        return 0
    except KeyboardInterrupt:
        and_now = "; the same command goes on where it stopped" if options.goes_on else ""
        print(f"\nomniad: interrupted{and_now}", file=sys.stderr)
        return 130
    except Exception as error:  # the last line of defence: users get a sentence, developers --debug
        if options.debug:
            raise
        print(f"omniad: {printable(_sentence(error))}", file=sys.stderr)
        return 1


def _command(words: list[str]) -> str:
    """The subcommand that is asked for, where nothing else is."""
    first = words[0] if words else ""
    if first in COMMANDS:
        return first
    if first in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if first == "--version":
        print(f"omniad {__version__}")
        sys.exit(0)
    _refuse(
        "omniad",
        f"there is no {'option' if first.startswith('-') else 'command'} '{first}'" if first else "give a command",
    )


def _options(module, name: str, words: list[str]):
    """The subcommand's options; the words that are none of them go to nerfstudio, where a field is trained."""
    from omniad_ros.core.command_line import OptionError, parse

    kind, program = getattr(module, f"{name.capitalize()}Command"), f"omniad {name}"
    passes_on = "nerfstudio" in {field.name for field in dataclasses.fields(kind)}
    text = f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}."
    if passes_on:
        from omniad_ros.commands.options import NERFSTUDIO_HELP

        text += f"\n\n{textwrap.fill(NERFSTUDIO_HELP, 80)}"
    try:
        options, further = parse(kind, words, program, text)
    except OptionError as error:
        _refuse(program, str(error))
    if further and not (passes_on and further[0].startswith("--")):
        _refuse(program, f"unrecognized arguments: {' '.join(further)}")
    return dataclasses.replace(options, nerfstudio=tuple(further)) if passes_on else options


def _refuse(program: str, complaint: str):
    print(printable(f"{program}: {complaint}; see '{program} --help'"), file=sys.stderr)
    sys.exit(2)


def _help() -> str:
    lines = [
        "usage: omniad [-h] [--version] COMMAND ...",
        "",
        "Notice what is wrong on a patrol: survey a place once, then inspect every frame.",
        "",
        "commands:",
    ]
    for name, text in COMMANDS.items():
        lines.append(textwrap.fill(text, 100, initial_indent=f"  {name:10}", subsequent_indent=" " * 12))
    return "\n".join([*lines, "", "'omniad COMMAND --help' says what a command takes."])


def _sentence(error: Exception) -> str:
    """What an error means to the user."""
    from omniad_ros.core.files import is_full_disk

    if short_of_memory(error):
        # a reader that takes it for damage would mislead
        said = "none is left" if isinstance(error, OmniadError) or not str(error) else error
        return f"memory is short ({said}); free some, or build the site with a smaller --longest-side"
    if isinstance(error, OmniadError):
        return str(error)
    if is_full_disk(error):
        return "no space left on the disk; free some and run the same command again"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror or error}" if error.filename else f"{error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (run again with --debug for the traceback)"


def _quieten() -> None:
    """Keep the libraries' own chatter off the user's screen."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # such an image is refused in a sentence


if __name__ == "__main__":
    sys.exit(main())
