"""Named points in the code at which a test can make this process die, freeze or wait.

`SLOTSCHED_FAILPOINTS="finish.before=kill, upload.after=stop@3"` kills the process with SIGKILL when it is about to call
what is marked `@failpoint("finish")`, and freezes it (SIGSTOP) after the third call of what is marked "upload". A point
acts once, and says so on stderr first, so that a test can tell a point that acted from one that was never reached.
Without the variable the decorator hands back the very function it was given: a point that is off costs nothing. (Yang
et al. 2006 and FreeBSD's fail(9) have the idea; here a point is a function's edge, because what a crash can come
between is two writes.)
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

VARIABLE = "SLOTSCHED_FAILPOINTS"
NOTICE = "failpoint"
P = ParamSpec("P")
R = TypeVar("R")


class _Point:
    """What happens at one edge, the `at`-th time it is reached."""

    def __init__(self, name: str, action: str, at: int) -> None:
        self._notice = f"{NOTICE} {name}={action}\n".encode()
        self._act = _action(action)
        self._at = at
        self._reached = itertools.count(1)  # threads may reach it together, and one of them acts

    def reached(self) -> None:
        if next(self._reached) == self._at:
            os.write(2, self._notice)
            self._act()


def failpoint(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function: `name.before` and `name.after` (also when it raises) are points."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        before, after = _POINTS.get(f"{name}.before"), _POINTS.get(f"{name}.after")
        if before is None and after is None:
            return function

        @functools.wraps(function)
        def marked(*args: P.args, **kwargs: P.kwargs) -> R:
            if before is not None:
                before.reached()
            try:
                return function(*args, **kwargs)
            finally:
                if after is not None:
                    after.reached()

        return marked

    return mark


def _action(text: str) -> Callable[[], None]:
    """kill, stop, or sleep:SECONDS. Raises ValueError."""
    kind, _, seconds = text.partition(":")
    if kind == "kill":
        return lambda: os.kill(os.getpid(), signal.SIGKILL)
    if kind == "stop":
        return lambda: os.kill(os.getpid(), signal.SIGSTOP)
    if kind == "sleep":
        return functools.partial(time.sleep, float(seconds))
    raise ValueError(f"{VARIABLE}: {text} is none of kill, stop, sleep:SECONDS")


def _parse(text: str) -> dict[str, _Point]:
    """The armed points by name. Raises ValueError, so that a misspelt test does not pass."""
    points = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, _, action = entry.partition("=")
        action, _, at = action.partition("@")
        if name.rpartition(".")[2] not in ("before", "after"):
            raise ValueError(f"{VARIABLE}: {entry} has no .before or .after")
        points[name] = _Point(name, action, int(at or 1))
    return points


_POINTS = _parse(os.environ.get(VARIABLE, ""))
