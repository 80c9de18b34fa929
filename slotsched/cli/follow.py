"""Follow one task to its end: its status, its log lines as they come, its progress."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from typing import TYPE_CHECKING

from slotsched.cli.phrases import ending, say_rejoin
from slotsched.cli.render import say, use_color
from slotsched.cli.screen import Screen, open_screen
from slotsched.cli.session import Session, now
from slotsched.errors import SlotschedError

if TYPE_CHECKING:
    from slotsched.model import Task

LAST_LINES_SECONDS = 20.0  # how long the end of a log may take to arrive after its task's end
LONGEST_LINE = 1024 * 1024  # characters that are held until their line ends; a longer line is broken


def follow(session: Session, task_id: str, timeout: float | None) -> Task:
    """Show the task until it has ended; returns it. Raises WaitTimeout; on Ctrl-C says how to rejoin."""
    try:
        with open_screen() as screen:
            follower = _Follower(session, task_id, screen)
            try:
                task = follower.run(timeout)
            finally:
                follower.over = True
    except KeyboardInterrupt:
        say_rejoin([task_id], how="logs -f")
        raise
    say(f"{now().astimezone():%H:%M:%S} {ending(task, color=use_color(sys.stderr))}")
    return task


class _Follower:
    def __init__(self, session: Session, task_id: str, screen: Screen) -> None:
        self._session = session
        self._task_id = task_id
        self._screen = screen
        self._color = use_color(sys.stderr)
        self._shown_attempt = 0
        self.over = False  # then the threads that read the log have nothing to say any more
        self._shown_due: dt.datetime | None = None
        self._logs: list[threading.Thread] = []

    def run(self, timeout: float | None) -> Task:
        from slotsched.model import TERMINAL

        task = None
        for task in self._session.client.watch([self._task_id], timeout):
            if task.attempt > self._shown_attempt and task.started_at is not None:
                self._started(task)
            if task.progress is not None and task.status not in TERMINAL:
                self._screen.progress(task.progress.fraction, task.progress.message)
            self._say_why(task)
        assert task is not None
        for thread in self._logs:
            thread.join(LAST_LINES_SECONDS)
        return task

    def _started(self, task: Task) -> None:
        from slotsched.quantities import format_duration

        assert task.started_at is not None
        self._shown_attempt = task.attempt
        where = task.instance.name if task.instance else task.attempts[-1].instance.name if task.attempts else "-"
        waited = format_duration((task.started_at - task.due_at).total_seconds())
        again = f" (attempt {task.attempt})" if task.attempt > 1 else ""
        self._event(f"started on {where}{again}, waited {waited}")
        thread = threading.Thread(target=self._show_log, args=(task.attempt,), daemon=True, name="follow-log")
        thread.start()
        self._logs.append(thread)

    def _show_log(self, attempt: int) -> None:
        from slotsched.loglines import Renderer, parse

        renderer, unfinished = Renderer(color=self._color), ""
        try:
            for line in self._session.client.log_lines(self._task_id, follow=True, attempt=attempt):
                if self.over:
                    return
                unfinished += renderer.feed(parse(line))
                if unfinished.endswith("\n") or len(unfinished) > LONGEST_LINE:
                    self._screen.line(unfinished.removesuffix("\n"))
                    unfinished = ""
            if unfinished:
                self._screen.line(unfinished)
        except SlotschedError as error:
            if not self.over:
                self._screen.line(f"the log cannot be shown: {error}")

    def _say_why(self, task: Task) -> None:
        """Until when it waits, where that is known; what a pending task waits for changes too often to be told."""
        from slotsched.model import Status
        from slotsched.views.explain import Fleet, why

        if task.status is Status.SCHEDULED and task.due_at != self._shown_due:
            self._shown_due = task.due_at
            self._event(why(task, Fleet(), now()))

    def _event(self, text: str) -> None:
        self._screen.line(f"{now().astimezone():%H:%M:%S} {text}")
