"""Where following a task is shown: a live bar under scrolling lines on a terminal, plain lines anywhere else.

Always stderr: what is followed is not the answer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from slotsched.cli.render import harmless, is_terminal, say, use_color
from slotsched.views.text import cut, plain

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

PLAIN_PROGRESS_SECONDS = 2.0  # off a terminal, at most one line of progress per this time
LONGEST_MESSAGE = 40


class Screen(Protocol):
    """Lines that scroll, and one bar. Both may be called from several threads."""

    def line(self, text: str) -> None:
        """One line, colours allowed."""
        ...

    def progress(self, fraction: float | None, message: str) -> None:
        """Move the bar. fraction: 0 to 1, None = unknown."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_screen() -> Screen:
    """The screen that fits stderr."""
    live = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
    return LiveScreen() if live else PlainScreen()


@contextlib.contextmanager
def bar_until_done() -> Iterator[Callable[[float, str], None]]:
    """A function that takes a fraction and a message; its bar goes away when the fraction reaches 1."""
    with contextlib.ExitStack() as opened:
        screen = opened.enter_context(open_screen())

        def progress(fraction: float, message: str) -> None:
            screen.progress(fraction, message)
            if fraction >= 1:
                opened.close()

        yield progress


class PlainScreen:
    """Lines only; progress is a line now and then."""

    def __init__(self) -> None:
        self._said = 0.0
        self._last: tuple[float | None, str] | None = None

    def line(self, text: str) -> None:
        say(text)

    def progress(self, fraction: float | None, message: str) -> None:
        now = time.monotonic()
        if (fraction, message) == self._last or now - self._said < PLAIN_PROGRESS_SECONDS:
            return
        self._said, self._last = now, (fraction, message)
        percent = "" if fraction is None else f"{fraction * 100:.0f} % "
        say(f"progress {percent}{plain(message)}".rstrip())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LiveScreen:
    """Lines scroll above a bar that appears with the first progress. A terminal that is closed ends nothing."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, highlight=False, markup=False, no_color=not use_color(sys.stderr))
        self._bars: Bars = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.fields[percent]}", markup=False),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._bar = self._bars.add_task("", total=1.0, visible=False, percent="")

    def line(self, text: str) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError):
            self._console.print(Text.from_ansi(harmless(text)), soft_wrap=True)

    def progress(self, fraction: float | None, message: str) -> None:
        self._bars.update(
            self._bar,
            visible=True,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            percent="" if fraction is None else f"{fraction * 100:.0f} %",
            description=cut(plain(message), LONGEST_MESSAGE),
        )

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._bars.stop()
