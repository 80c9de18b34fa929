"""A running task's log comes to its page: as it is written, until the end, and to nobody who may not look."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cli_user import User
from fleet import until
from web_user import Web, serving, staffed

from slotsched import contract
from slotsched.web.following import BEAT_SECONDS, MOST_FOLLOWERS

ENDING_SECONDS = 5.0  # for a server that nobody keeps from ending, on a busy machine


@dataclass
class Office:
    """One instance, a web face, and a token."""

    user: User
    web: Web
    token: str

    def running(self, job: str = "slow", **args: Any) -> str:
        task = self.web.call("POST", "/tasks", self.token, {"job": job, "args": args}).json["id"]
        until(lambda: self.status(task) == "running", what="the start")
        return str(task)

    def status(self, task: str) -> str:
        found: str = self.web.call("GET", f"/tasks/{task}", self.token).json["status"]
        return found


@dataclass
class Events:
    """What comes of a stream. `next` waits for one more."""

    response: http.client.HTTPResponse

    def next(self) -> tuple[str, Any]:
        """The next event's name and data; comments are passed over. An AssertionError where the stream is over."""
        name = ""
        while line := self.response.readline():
            if line.startswith(b"event: "):
                name = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                return name, json.loads(line[6:])
        raise AssertionError("the stream is over")


@pytest.fixture(scope="module")
def office(make_fleet: Any) -> Iterator[Office]:
    with staffed(make_fleet) as (user, web):
        yield Office(user, web, user.ok("token", "add", "ann"))


@contextlib.contextmanager
def following(office: Office, task: str, token: str | None = None) -> Iterator[Events]:
    connection = http.client.HTTPConnection(*office.web.address, timeout=30)
    cookie = office.web.sign_in(token or office.token)
    try:
        connection.request("GET", f"/tasks/{task}/log.events", headers={"Cookie": cookie})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("content-type", "").startswith("text/event-stream")
        yield Events(response)
    finally:
        connection.close()


def test_what_is_there_comes_first_then_what_is_written_then_the_end(office: Office) -> None:
    task = office.running(steps=4)
    with following(office, task) as events:
        name, rows = events.next()
        assert name == "all"
        while (event := events.next())[0] == "more":
            rows += event[1]
        assert event == ("end", {})
    numbers = [number for number, *_ in rows]
    assert numbers == list(range(1, len(numbers) + 1))
    shown = [text for *_, text in rows]
    stored = office.user.ok("logs", task, "--json").splitlines()
    assert shown == [json.loads(line)["msg"] for line in stored]
    assert office.status(task) == "completed"


def test_who_is_not_allowed_any_more_sees_no_more(office: Office) -> None:
    """The token goes while its browser follows a log that goes on."""
    other = office.user.ok("token", "add", "bob")
    task = office.running("deaf")
    with following(office, task, other) as events:
        assert events.next()[0] == "all"
        office.user.ok("token", "rm", "bob")
        while (event := events.next())[0] == "more":
            pass
        assert event == ("end", {})
        assert office.status(task) == "running", "the stream ended for another reason"
    office.web.call("POST", f"/tasks/{task}/kill", office.token)


def test_those_who_leave_make_room_for_others(office: Office) -> None:
    task = office.running("deaf")
    cookie = {"Cookie": office.web.sign_in(office.token)}
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_FOLLOWERS):
            stack.enter_context(following(office, task)).next()
        full = office.web.get(f"/tasks/{task}/log.events", cookie)
        assert (full.status, "being followed" in full.text) == (503, True)
        assert office.web.get(f"/tasks/{task}", cookie).status == 200, "the page itself is there all the same"

    def room() -> bool:
        with contextlib.suppress(AssertionError), following(office, task) as events:
            return events.next()[0] == "all"
        return False

    until(room, seconds=BEAT_SECONDS, what="a place")
    office.web.call("POST", f"/tasks/{task}/kill", office.token)


def test_the_stream_of_what_has_ended_is_its_end(office: Office) -> None:
    """A browser takes a refusal as the end of the stream for good, and its page would go on saying "running"."""
    task = office.running(steps=1)
    office.user.fleet.ended(task)
    with following(office, task) as events:
        assert events.next() == ("end", {})
        assert events.response.read().strip() == b""


def test_what_is_canceled_before_it_started_has_ended(office: Office) -> None:
    made = office.web.call("POST", "/tasks", office.token, {"job": "slow", "in": "1h"})
    with following(office, made.json["id"]) as events:
        assert events.next() == ("all", [])
        office.web.call("POST", f"/tasks/{made.json['id']}/cancel", office.token)
        assert events.next() == ("end", {})


def test_a_server_that_is_told_to_end_lets_its_followers_go(office: Office) -> None:
    """Without the event `end`, at which a page would be loaded again from a server that is gone."""
    task = office.running("deaf")
    with serving(office.user.fleet, name="second") as web:
        with following(Office(office.user, web, office.token), task) as events:
            assert events.next()[0] == "all"
            web.process.terminate()
            assert web.process.wait(ENDING_SECONDS) == 0
            assert b"event: end" not in events.response.read()
        assert [line for line in web.log() if line["level"] >= contract.LEVEL_ERROR] == []
        assert web.log()[-1]["msg"] == "ended"
    office.web.call("POST", f"/tasks/{task}/kill", office.token)
