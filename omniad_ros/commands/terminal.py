"""What a command says while it works: progress with the time left, and what the library wants noted, on stderr.

In a terminal progress is one bar that redraws itself; in a file or a pipe it is a line now and then.
"""

from __future__ import annotations

import logging
import sys
import time

from omniad_ros.core.feedback import Progress, printable

LINE_EVERY = 0.1, 30.0
"""Without a terminal a line comes after this share of the work or so many seconds, whichever comes first."""


class ProgressBar:
    """A `Progress` that the user sees, as a context."""

    def __enter__(self) -> Progress:
        return self._start_bar() if sys.stderr.isatty() else self._start_lines()

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def _start_bar(self) -> Progress:
        from tqdm import tqdm

        form = "{percentage:3.0f}% |{bar:20}| {elapsed} elapsed, {remaining} left  {desc}"
        self.bar = tqdm(total=1000, bar_format=form, dynamic_ncols=True)
        return self._redraw

    def _redraw(self, fraction: float, message: str) -> None:
        self.bar.set_description_str(printable(message), refresh=False)
        self.bar.update(max(0, round(1000 * min(fraction, 1.0)) - self.bar.n))
        self.bar.refresh()

    def _start_lines(self) -> Progress:
        self.bar, self.started = None, time.monotonic()
        self.said = -1.0, self.started
        return self._line

    def _line(self, fraction: float, message: str) -> None:
        now, (share, when) = time.monotonic(), self.said
        if fraction - share < LINE_EVERY[0] and now - when < LINE_EVERY[1] and not share < 1.0 <= fraction:
            return
        self.said = max(share, fraction), now
        elapsed = now - self.started
        left = (
            f"{_clock(elapsed * (1 - fraction) / fraction)} left"
            if 0.01 <= fraction < 1
            else "…"
            if fraction < 1
            else "done"
        )
        print(
            f"{100 * fraction:3.0f} %  {_clock(elapsed)} elapsed, {left}  {printable(message)}",
            file=sys.stderr,
            flush=True,
        )


def show(text: str) -> None:
    """Print a command's result. Its lines may hold names from strangers."""
    print("\n".join(map(printable, text.split("\n"))))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


class _Notes(logging.Handler):
    """Shows what the library logs as lines of their own, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        text = printable(f"omniad: {record.getMessage()}")
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def show_notes() -> None:
    """Show the library's warnings, and which teacher was chosen; each only once."""
    logger = logging.getLogger("omniad_ros")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        notes = _Notes()
        said: set[str] = set()
        notes.addFilter(lambda record: (text := record.getMessage()) not in said and not said.add(text))
        logger.addHandler(notes)
    logging.getLogger("omniad_ros.detection.student").setLevel(logging.INFO)
