"""What the library says to the person who runs it.

Long work reports through a `Progress` callback and never prints; what a person can mend is raised as an
`OmniadError`, whose text is one sentence that says what to do.
"""

import errno
from collections.abc import Callable, Iterator

Progress = Callable[[float, str], None]
"""Called as ``progress(fraction in [0, 1], "what is happening now")``."""


MEMORY_WORDS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "insufficient memory", "bad_alloc",
    "failed to map segment from shared object",
)  # fmt: skip
"""How libraries say that memory is short where they raise no MemoryError."""


class OmniadError(Exception):
    """Something the user can mend; the text is one sentence, fit to be shown without a traceback."""


class NoSpaceError(OmniadError):
    """The disk is full: what was finished stays, and the same command goes on once there is space."""


def printable(text: str) -> str:
    """A sentence as it may be shown: names in it may come from strangers, and control characters would command a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def short_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is a want of memory: torch, OpenCV, numba and the loader of shared libraries each
    have their own words for it."""
    return any(
        isinstance(cause, MemoryError)
        or getattr(cause, "errno", None) == errno.ENOMEM
        or (not isinstance(cause, OmniadError) and any(words in str(cause).lower() for words in MEMORY_WORDS))
        for cause in causes(error)
    )


def quiet(fraction: float, message: str) -> None:
    """A `Progress` that says nothing."""


def part(progress: Progress, start: float, end: float) -> Progress:
    """A `Progress` for a step that spans ``start..end`` of the whole."""
    return lambda fraction, message: progress(start + (end - start) * fraction, message)
