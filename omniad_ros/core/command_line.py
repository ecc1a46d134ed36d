"""Words of a command line into a dataclass of options, by tyro; what is wrong with them becomes one sentence.

tyro is imported where it is used: `omniad --help` does without it.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

from omniad_ros.core.feedback import OmniadError

Options = TypeVar("Options")


class OptionError(OmniadError):
    """An option that is unknown, missing or has no such value; the text names it."""


def parse(
    options: type[Options], words: Sequence[str], prog: str = "", description: str = ""
) -> tuple[Options, list[str]]:
    """The options that the words say, and those words that are no option of it, in their order.

    options: a dataclass, its fields' docstrings the help; prog: what the help calls the program, "" for no help at all.
    ``--help`` prints and raises SystemExit(0). Raises OptionError.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                options, prog=prog, description=description, args=words, return_unknown_args=True, add_help=bool(prog),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone) if prog else (tyro.conf.FlagConversionOff,),
            )  # fmt: skip
    except SystemExit as ended:
        if ended.code:
            raise OptionError(_sentence(said.getvalue())) from None
        raise


def _sentence(box: str) -> str:
    """What tyro prints in a box: a title, the complaint, and below a rule the help."""
    lines = [re.sub(r"^│ |\s*│$", "", line) for line in box.splitlines()[1:]]
    end = next((at for at, line in enumerate(lines) if line.startswith(("───", "╰──"))), len(lines))
    complaint = lines[:end]
    if complaint and complaint[0].startswith("Missing from"):
        names = [line.strip().split("  ")[0] for line in complaint[1:] if re.match(r" {4}\S", line)]
        names = [name for name in names if name.startswith("--") or name.isupper()] or ["an argument"]
        return f"{' and '.join(names)} must be given"
    text = " ".join(line.strip() for line in complaint).strip().rstrip(".!")
    text = re.sub(r"\. (\w)", lambda match: f", {match[1].lower()}", text.removeprefix("Error parsing "))
    return re.sub("^[A-Z](?=[a-z])", lambda match: match[0].lower(), text).replace("expected 1 values", "expected one")
