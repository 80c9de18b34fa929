"""A running attempt's log, row by row, to a browser: server-sent events, until the attempt is over.

The first event holds what a page shows of the log so far and replaces it; the others add to it. A connection that
breaks is opened again by the browser and begins anew, so nothing has to be remembered here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio import from_thread, to_thread
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slotsched.model import TERMINAL, Task
from slotsched.views.log import POLL_SECONDS, NeverStarted, Reading, read_log
from slotsched.web.loglook import Newest, Row, rows_of
from slotsched.web.problems import Problem, told
from slotsched.web.rendering import clock

if TYPE_CHECKING:
    from slotsched.client import Client

MOST_FOLLOWERS = 50  # each has a thread of its own
BEAT_SECONDS = 10.0  # how soon a browser that is gone, or may not look any more, is noticed
EVENTS_TYPE = "text/event-stream"


class Followers:
    """All who follow at present. is_ending: whether the server was told to end, and waits for them."""

    def __init__(self, is_ending: Callable[[], bool]) -> None:
        self.places = anyio.CapacityLimiter(MOST_FOLLOWERS)
        self._is_ending = is_ending

    def follow(self, client: Client, task_id: str, allowed: Callable[[], bool]) -> Response:
        """The answer to one more. allowed: asked now and then whether it may still look. Raises Problem 503."""
        if self.places.available_tokens < 1:
            raise Problem(503, f"{MOST_FOLLOWERS} logs are being followed here already; reload the page to see more")
        return _EventStream(self.places, client, task_id, allowed, self._is_ending)


def ended() -> Response:
    """The answer where nothing will follow: a page that thinks otherwise learns it.

    A refusal would not do: a browser takes one as the end of the stream, for good and without a word to the page.
    """
    return Response(_event("end", {}), media_type=EVENTS_TYPE)


class _Left(Exception):
    """Raised in a follower's thread once nobody may look any more."""


class _Ending(Exception):
    """Raised in a follower's thread once the server was told to end."""


class _EventStream(Response):
    media_type = EVENTS_TYPE

    def __init__(
        self,
        places: anyio.CapacityLimiter,
        client: Client,
        task_id: str,
        allowed: Callable[[], bool],
        is_ending: Callable[[], bool],
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"X-Accel-Buffering": "no"})  # a proxy must not collect it
        self._places = places
        self._client = client
        self._task_id = task_id
        self._allowed = allowed
        self._is_ending = is_ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def send_text(text: str) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        def write(text: str) -> None:
            """From the thread; waits until the browser takes it, and raises once it is gone."""
            from_thread.run(send_text, text)

        async with anyio.create_task_group() as group:

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(until_gone)
            await to_thread.run_sync(self._follow, write, limiter=self._places)
            group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b""})

    def _follow(self, write: Callable[[str], None]) -> None:
        """On a thread: from the log to events. What goes wrong is told as one, since the answer has begun."""
        client = self._client
        feed, pulse = _Feed(write), _Pulse(write, self._allowed, self._is_ending)

        def caught_up(seconds: float) -> None:
            feed.flush()
            pulse.check()
            time.sleep(seconds)

        how = Reading(follow=True, sleep=caught_up)
        try:
            before = client.get(self._task_id)
            for line in read_log(client.store, lambda log: client.open_archive(log.store), self._task_id, how):
                feed.add(line)
                pulse.check()
            feed.flush()
            while _goes_on(before, client.get(self._task_id)):
                caught_up(POLL_SECONDS)
            write(_event("end", {}))
        except (_Left, NeverStarted):
            write(_event("end", {}))
        except _Ending:
            pass  # without an event: the browser connects again by itself, and the page goes on with the next server
        except Exception as error:  # noqa: BLE001 - every error is an answer
            write(_event("trouble", {"detail": told(error).detail}))


class _Pulse:
    """Ends a follower's thread once its browser is gone or may not look any more, or the server is to end."""

    def __init__(
        self, write: Callable[[str], None], allowed: Callable[[], bool], is_ending: Callable[[], bool]
    ) -> None:
        self._write = write
        self._allowed = allowed
        self._is_ending = is_ending
        self._next = time.monotonic() + BEAT_SECONDS

    def check(self) -> None:
        """Raises _Left, _Ending, or the cancellation of the answer."""
        from_thread.check_cancelled()
        if self._is_ending():
            raise _Ending
        if time.monotonic() < self._next:
            return
        if not self._allowed():
            raise _Left
        self._write(":\n\n")
        self._next = time.monotonic() + BEAT_SECONDS


def _goes_on(before: Task, now: Task) -> bool:
    """Whether the page shows what is: its attempt is over, but nothing has followed yet, such as its next one."""
    return now.status not in TERMINAL and (now.status, now.attempt) == (before.status, before.attempt)


class _Feed:
    """Collects lines and writes them as events: first the last rows of all there is, then what comes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._number = 0
        self._begun = False
        self._waiting = Newest()

    def add(self, line: bytes) -> None:
        if self._begun and not self._waiting.fits(line):  # nothing that adds to the first rows may be left out
            self.flush()
        self._number += 1
        self._waiting.add(self._number, line)

    def flush(self) -> None:
        if self._begun and not self._waiting.lines:
            return
        self._write(_event("more" if self._begun else "all", _shown(rows_of(self._waiting.lines))))
        self._begun = True
        self._waiting = Newest()


def _shown(rows: Iterable[Row]) -> list[list[Any]]:
    """[number, time, level, stream, text] of each, as the page's own rows have them."""
    return [[row.number, clock(row.at), row.level, row.stream, row.text] for row in rows]


def _event(name: str, data: list[list[Any]] | Mapping[str, str]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
