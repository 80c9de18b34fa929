"""The stream of a running task's log, on a store in memory: what its events hold, and with what it ends."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from slotsched.model import Attempt, InstanceRef, LogRef, Status, Task
from slotsched.web.following import Followers, ended
from slotsched.web.loglook import MOST_BYTES, MOST_ROWS

START = dt.datetime(2026, 3, 4, tzinfo=dt.UTC)
ID = "65f0c0ffee00000000000001"
ANSWER_SECONDS = 30.0  # no stream takes longer, or the test fails

Event = tuple[str, Any]


@dataclass(frozen=True)
class Piece:
    offset: int
    data: bytes


@dataclass
class World:
    """A client and its store with one task; what it logs is shipped at once, and nothing is ever uploaded."""

    status: Status = Status.PENDING
    attempts: tuple[Attempt, ...] = ()
    shipped: bytes = b""

    @property
    def store(self) -> World:
        return self

    @property
    def tasks(self) -> World:
        return self

    @property
    def tails(self) -> World:
        return self

    def get(self, task_id: str, /) -> Task:
        return Task(
            id=task_id, job="j", args={}, status=self.status, due_at=START, created_at=START, attempts=self.attempts
        )

    def read(self, task_id: str, attempt: int, offset: int) -> list[Piece]:
        return [Piece(offset, self.shipped[offset:])] if offset < len(self.shipped) else []

    def begin(self) -> None:
        self.status = Status.RUNNING
        self.attempts = (Attempt(number=1, fence=1, instance=InstanceRef(id="i", name="i"), started_at=START),)

    def log(self, *texts: str) -> None:
        self.shipped += b"".join(
            json.dumps({"level": 30, "time": 1, "stream": "stdout", "msg": text}).encode() + b"\n" for text in texts
        )

    def end(self) -> None:
        log = LogRef(store="s", key="k", bytes=len(self.shipped))
        self.status = Status.COMPLETED
        self.attempts = (
            Attempt(
                number=1, fence=1, instance=InstanceRef(id="i", name="i"), started_at=START, ended_at=START, log=log
            ),
        )


@dataclass
class Stream:
    """What a browser gets. then: what happens once it has the first event, the next one, and so on."""

    then: list[Callable[[], None]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    over: bool = False

    def take(self, message: Any) -> None:
        assert not self.over
        text = message.get("body", b"").decode()
        self.over = message["type"] == "http.response.body" and not message.get("more_body", False)
        if text.startswith("event: "):
            name, data = text.removesuffix("\n\n").split("\n")
            self.events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
            if self.then:
                self.then.pop(0)()


def follow(world: World, *then: Callable[[], None], is_ending: Callable[[], bool] = lambda: False) -> list[Event]:
    """The events of a stream that is read to its end."""
    stream = Stream(list(then))

    async def send(message: Any) -> None:
        stream.take(message)

    async def receive() -> Any:
        await asyncio.Event().wait()  # it does not leave

    async def answer() -> None:
        made = Followers(is_ending).follow(world, ID, lambda: True)  # type: ignore[arg-type]
        await asyncio.wait_for(made({"type": "http"}, receive, send), ANSWER_SECONDS)

    asyncio.run(answer())
    assert stream.over
    return stream.events


@pytest.fixture
def running() -> World:
    world = World()
    world.begin()
    return world


def numbers(rows: list[list[Any]]) -> list[int]:
    return [row[0] for row in rows]


def size(rows: list[list[Any]]) -> int:
    return sum(len(row[-1]) for row in rows)


def test_the_first_event_has_what_is_there_and_the_others_what_comes(running: World) -> None:
    running.log("a", "b")
    events = follow(running, lambda: running.log("c"), running.end)
    assert [name for name, _ in events] == ["all", "more", "end"]
    assert [[row[-1] for row in rows] for _, rows in events[:2]] == [["a", "b"], ["c"]]
    assert numbers(events[1][1]) == [3]


def test_the_end_comes_also_where_a_task_ends_without_having_started() -> None:
    """As one that is canceled while it waits: its page still says that it is pending."""
    world = World()

    def cancel() -> None:
        world.status = Status.CANCELED

    assert follow(world, cancel) == [("all", []), ("end", {})]
    assert follow(world) == [("end", {})], "it had ended before anybody looked"


def test_a_server_that_is_to_end_ends_the_stream_without_an_event(running: World) -> None:
    """After `end` the page would be loaded again, from a server that is not there any more."""
    told: list[bool] = []
    assert follow(running, lambda: told.append(True), is_ending=lambda: bool(told)) == [("all", [])]


def test_who_comes_after_the_end_is_told_of_it_and_not_refused() -> None:
    answer = ended()
    assert (answer.status_code, answer.body) == (200, b"event: end\ndata: {}\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_the_first_event_is_bounded_and_has_the_newest(running: World) -> None:
    running.log(*(["x" * 60_000] * MOST_ROWS))
    [(name, rows), end] = follow(running, running.end)
    assert (name, end) == ("all", ("end", {}))
    assert MOST_BYTES // 2 < size(rows) <= MOST_BYTES
    assert numbers(rows) == list(range(MOST_ROWS - len(rows) + 1, MOST_ROWS + 1))


def test_of_what_comes_later_nothing_is_left_out_and_every_event_is_bounded(running: World) -> None:
    running.log("begun")
    count = 100
    assert count * 60_000 > 2 * MOST_BYTES
    events = follow(running, lambda: running.log(*(["x" * 60_000] * count)), running.end)
    assert [name for name, _ in events[:2]] == ["all", "more"]
    more = [rows for name, rows in events if name == "more"]
    assert max(map(size, more)) <= MOST_BYTES
    assert [number for rows in more for number in numbers(rows)] == list(range(2, count + 2))
