"""The web face as its users meet it: programs at the API, people at the pages, whoever starts it and makes tokens."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import bson
import pytest
from cli_user import CLI_JOBS, User
from fleet import until
from store_proxy import Proxy
from web_user import JSON, Answer, Web, serving, staffed

from slotsched import contract

LATER = {"job": "resize", "args": {"folder": "/pics"}, "in": "1h"}
PROBLEM = "application/problem+json"
THREADS = 40  # that handlers run on
QUICK_SECONDS = 1.5  # for an answer that waits for nothing, on a busy machine


@dataclass
class Office:
    """One instance, a web face, and tokens: ann may do everything, bob may look."""

    user: User
    web: Web
    ann: str
    bob: str

    def call(self, method: str, target: str, body: Any = None, *, status: int = 200) -> Any:
        """What the API answers to ann; None where it answers nothing."""
        answer = self.web.call(method, target, self.ann, body)
        assert answer.status == status, f"{method} {target}: {answer.status} {answer.text}"
        return answer.json if answer.body else None

    def refusal(self, method: str, target: str, body: Any = None, *, status: int) -> str:
        """The sentence of a refusal."""
        answer = self.web.call(method, target, self.ann, body)
        return told(answer, status)

    def enqueue(self, *, wait: bool = False, **request: Any) -> str:
        made = self.call("POST", "/tasks", request, status=201)
        if wait:
            self.ended(made["id"])
        task: str = made["id"]
        return task

    def ended(self, task: str) -> Any:
        self.user.fleet.ended(task)
        return self.call("GET", f"/tasks/{task}")


def told(answer: Answer, status: int) -> str:
    """The sentence of an RFC 9457 answer."""
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    assert answer.json["status"] == status
    detail: str = answer.json["detail"]
    assert detail
    assert "\n" not in detail
    return detail


@pytest.fixture(scope="module")
def office(make_fleet: Any) -> Iterator[Office]:
    with staffed(make_fleet) as (user, web):
        yield Office(user, web, user.ok("token", "add", "ann"), user.ok("token", "add", "bob", "--read-only"))


@pytest.fixture(scope="module")
def talk(office: Office) -> str:
    """A task of two attempts that spoke in two voices, and printed bytes that are no text; its logs are uploaded."""
    task = office.enqueue(job="talk", wait=True)

    def uploaded() -> bool:
        return all(attempt["log"]["uploaded"] for attempt in office.call("GET", f"/tasks/{task}")["attempts"])

    until(uploaded, what="the upload")
    return task


# --- the API: looking -------------------------------------------------------------------------------
def pages(office: Office, target: str) -> list[list[str]]:
    """The ids of every page, by following the links."""
    found = []
    following: str | None = target
    while following is not None:
        answer = office.web.get(following, {"Authorization": f"Bearer {office.bob}"})
        assert answer.status == 200, answer.text
        found.append([task["id"] for task in answer.json])
        link = re.fullmatch(r'<(/[^>]*)>; rel="next"', answer.headers.get("link", ""))
        following = None if link is None else link[1]
        assert len(found) < 100
    return found


def test_following_the_links_gives_every_task_once_and_newest_first(office: Office) -> None:
    """Also while others come in."""
    batch = [{**LATER, "tags": ["paged", "a b&c=d"]} for _ in range(23)]
    ids = [one["id"] for one in office.call("POST", "/tasks", batch, status=201)]
    filters = "tag=paged&tag=a+b%26c%3Dd&status=scheduled,pending&job=resize&since=1h"
    found = pages(office, f"/api/v1/tasks?limit=5&{filters}")
    assert [len(page) for page in found] == [5, 5, 5, 5, 3]
    assert [task for page in found for task in page] == ids[::-1]

    first = office.web.get("/api/v1/tasks?limit=20&tag=paged", {"Authorization": f"Bearer {office.bob}"})
    office.enqueue(**LATER, tags=["paged"])
    rest = pages(office, first.headers["link"].partition(">")[0].removeprefix("<"))
    assert [task["id"] for task in first.json] + rest[0] == ids[::-1]
    assert len(rest) == 1


def test_a_page_that_holds_all_has_no_link_to_another(office: Office) -> None:
    ids = [office.enqueue(**LATER, tags=["exactly"]) for _ in range(2)]
    assert pages(office, "/api/v1/tasks?tag=exactly&limit=2") == [ids[::-1]]
    assert pages(office, "/api/v1/tasks?tag=nobody-has-it") == [[]]


def test_filters_choose_as_on_the_command_line(office: Office, talk: str) -> None:
    canceled = office.enqueue(**LATER, tags=["filters"])
    office.call("POST", f"/tasks/{canceled}/cancel")

    def ids(query: str) -> set[str]:
        return {task["id"] for task in office.call("GET", f"/tasks?limit=500&{query}")}

    assert talk in ids("job=talk&status=completed&owner=ann&instance=big-1")
    assert ids("status=canceled&tag=filters") == ids("tag=filters&reason=canceled") == {canceled}
    assert ids("job=talk&job=resize&tag=filters") == {canceled}
    assert ids("tag=filters&until=1h") == ids("tag=filters&since=2999-01-01") == ids("tag=filters&owner=bob") == set()
    assert ids("tag=filters&since=1900-01-01&until=9998-01-01") == {canceled}
    assert ids("tag=filters&owner=&status=&reason=") == {canceled}, "fields that nobody filled in"


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("stauts=failed", 'unknown parameter "stauts", did you mean "status"?'),
        ("status=faild", 'status: "faild" is none of '),
        ("reason=x", 'reason: "x" is none of '),
        ("since=soon", 'since: "soon" is not a time'),
        ("limit=0", 'limit: "0" is not a whole number from 1 to 500'),
        ("limit=501", "is not a whole number"),
        ("limit=1&limit=2", "limit: given 2 times"),
        ("after=abc", "is no full id of a task"),
        ("owner=" + "x" * 2001, "owner: 2001 characters"),
        ("&".join(["tag=x"] * 101), "more than 100 parameters"),
    ],
)
def test_a_query_that_cannot_be_meant_is_told(office: Office, query: str, sentence: str) -> None:
    assert sentence in office.refusal("GET", f"/tasks?{query}", status=400)


def test_a_task_is_the_same_as_on_the_command_line_by_any_part_of_its_id(office: Office, talk: str) -> None:
    shown = office.call("GET", f"/tasks/{talk}")
    assert shown == office.user.json("task", "show", talk)
    assert shown["status"] == "completed"
    for part in (talk[-8:], talk[1:], talk.upper()):
        assert office.call("GET", f"/tasks/{part}")["id"] == talk


def test_an_id_that_is_none_or_could_be_several_is_told(office: Office, talk: str) -> None:
    office.enqueue(**LATER)
    assert "ambiguous" in office.refusal("GET", f"/tasks/{talk[:4]}", status=404)
    assert "no task" in office.refusal("GET", f"/tasks/{'0' * 24}", status=404)
    assert "too short" in office.refusal("GET", "/tasks/abc", status=404)
    assert "no task" in office.refusal("GET", "/tasks/%7B%22$gt%22:%22%22%7D", status=404)
    assert office.refusal("GET", f"/tasks/{talk}/nothing", status=404)
    assert office.refusal("GET", "/nothing", status=404)
    assert office.refusal("PUT", f"/tasks/{talk}", status=405)


def test_why_says_what_the_command_line_says(office: Office, talk: str) -> None:
    waiting = office.enqueue(job="slow", slots=9)
    for task in (waiting, talk):
        assert office.call("GET", f"/tasks/{task}/why") == {"why": office.user.ok("why", task)}


# --- the API: logs ----------------------------------------------------------------------------------
def log(office: Office, task: str, query: str = "") -> Answer:
    answer = office.web.call("GET", f"/tasks/{task}/log{query}", office.bob)
    assert answer.status == 200, answer.text
    return answer


def test_a_log_is_its_stored_lines(office: Office, talk: str) -> None:
    stored = b"".join(office.user.fleet.client.log_lines(talk))
    answer = log(office, talk)
    assert (answer.headers["content-type"], answer.body) == ("application/x-ndjson", stored)
    first = b"".join(office.user.fleet.client.log_lines(talk, attempt=1))
    assert log(office, talk, "?attempt=1").body == first != stored


def test_a_raw_log_is_the_bytes_that_were_printed(office: Office, talk: str) -> None:
    printed = office.user.ok("logs", talk, "--raw").encode("utf-8", "surrogateescape")
    answer = log(office, talk, "?raw=1")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.body.removesuffix(b"\n") == printed
    assert b"raw \xff\x00 bytes, no end" in answer.body


def test_a_log_is_chosen_from_by_level_and_pattern(office: Office, talk: str) -> None:
    messages = [json.loads(line)["msg"] for line in log(office, talk, "?level=warn").body.splitlines()]
    assert set(messages) == {"loud word", "to the other"}
    assert json.loads(log(office, talk, "?grep=%5Eplain+w").body)["msg"] == "plain word"
    assert log(office, talk, "?grep=nothing+like+it").body == b""


@pytest.mark.parametrize(
    ("query", "status", "sentence"),
    [
        ("?attempt=9", 404, "attempt"),
        ("?attempt=0", 400, "is not a whole number"),
        ("?level=loud", 400, 'level: no level "loud"'),
        ("?grep=(", 400, "is not a regular expression"),
        ("?grep=" + "x" * 1001, 400, "1000 are allowed"),
        ("?raw=1&grep=x", 400, "goes with neither level nor grep"),
        ("?follow=1", 400, "unknown parameter"),
    ],
)
def test_a_log_that_cannot_be_had_is_told(office: Office, talk: str, query: str, status: int, sentence: str) -> None:
    assert sentence in office.refusal("GET", f"/tasks/{talk}/log{query}", status=status)


def test_a_task_that_has_not_started_has_no_log(office: Office) -> None:
    task = office.enqueue(**LATER)
    assert log(office, task).body == log(office, task, "?raw=1").body == b""
    assert "attempt" in office.refusal("GET", f"/tasks/{task}/log?attempt=1", status=404)


def test_a_running_tasks_log_is_what_is_there_so_far(office: Office) -> None:
    task = office.enqueue(job="slow", args={"steps": 200})
    until(lambda: b"step 1" in office.web.call("GET", f"/tasks/{task}/log?raw=1", office.bob).body, what="a line")
    office.call("POST", f"/tasks/{task}/kill")
    assert office.ended(task)["status"] == "canceled"


# --- the API: making tasks --------------------------------------------------------------------------
def test_one_task_is_made_for_its_token_and_told_with_201(office: Office) -> None:
    made = office.call("POST", "/tasks", {**LATER, "slots": 2, "tags": ["x"]}, status=201)
    assert (made["status"], made["existed"]) == ("scheduled", False)
    task = office.call("GET", f"/tasks/{made['id']}")
    assert (task["owner"], task["trigger"], task["args"]) == ("ann", "manual", {"folder": "/pics"})
    assert (task["needs"]["slots"], task["tags"]) == (2, ["x"])


def test_a_key_makes_one_task_and_200_says_that_it_was_there(office: Office) -> None:
    request = {**LATER, "key": "once"}
    first = office.call("POST", "/tasks", request, status=201)
    assert office.call("POST", "/tasks", request, status=200) == {**first, "existed": True}
    assert office.call("POST", "/tasks", [request], status=200) == [{**first, "existed": True}]
    both = office.call("POST", "/tasks", [request, LATER], status=201)
    assert [one["existed"] for one in both] == [True, False]
    assert "once" in office.refusal("POST", "/tasks", {**request, "args": {"folder": "/other"}}, status=409)


def test_many_are_made_in_their_order_and_none_of_them_where_one_is_bad(office: Office) -> None:
    batch: list[Any] = [{**LATER, "args": {"folder": f"/{number}"}, "tags": ["many"]} for number in range(1200)]
    made = [one["id"] for one in office.call("POST", "/tasks", batch, status=201)]
    assert len(set(made)) == 1200
    assert office.call("GET", f"/tasks/{made[777]}")["args"]["folder"] == "/777"

    batch = [{**one, "tags": ["none"]} for one in batch]
    batch[700] = {**LATER, "width": 5, "tags": ["none"]}
    sentence = office.refusal("POST", "/tasks", batch, status=400)
    assert "line 701" in sentence
    assert "nothing stored" in sentence
    assert office.call("GET", "/tasks?tag=none") == []
    assert office.call("POST", "/tasks", []) == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"job": "rezise"}, 'no job "rezise"'),
        ({"args": {}}, '"job" is missing'),
        ({"job": 7}, '"job" is missing'),
        ({"job": "resize"}, "folder"),
        ({"job": "resize", "args": [1]}, '"args" is not an object'),
        ({"job": "resize", "args": {"folder": "/", "width": "x"}}, "is not an integer"),
        ({**LATER, "slot": 2}, 'did you mean "slots"'),
        ({**LATER, "owner": "eve"}, '"owner" is not given: it is what the token says'),
        ({**LATER, "trigger": "schedule"}, '"trigger" is not given'),
        ([LATER, {**LATER, "owner": None}], '"owner" is not given'),
        ({**LATER, "in": "soon"}, "soon"),
        ({"job": "../resize"}, "resize"),
        (7, "not a JSON object"),
        (None, "not a JSON object"),
        ("resize", "not a JSON object"),
        ([[LATER]], "not a JSON object"),
        ([LATER] * 10_001, "10001 tasks at once are more than 10000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_task_that_cannot_be_is_told(office: Office, body: Any, sentence: str) -> None:
    answer = office.web.send(
        "POST",
        "/api/v1/tasks",
        {"Authorization": f"Bearer {office.ann}", "Content-Type": JSON},
        json.dumps(body),
    )
    assert sentence in told(answer, 400)


@pytest.mark.parametrize(
    ("kind", "body", "status", "sentence"),
    [
        (JSON, b"", 400, "is not JSON"),
        (JSON, b"{", 400, "is not JSON"),
        (JSON, b"\xff\xfe\xfd", 400, "is not JSON"),
        (JSON, b'{"job": "resize", "args": {"width": NaN}}', 400, "NaN is no JSON number"),
        (JSON, b'{"job": "resize", "args": {"folder": "/", "width": 1e999}}', 400, "width"),
        (JSON, b'{"job": "resize", "args": {"folder": "\\ud800"}}', 400, "surrogate"),
        (JSON, b'{"job": "backup", "at": "9999-12-31T23:59:59-14:00"}', 400, "the due time is out of range"),
        (JSON, b'{"job": "backup", "in": 1e300}', 400, "the due time is out of range"),
        (JSON, b'{"job": "backup", "priority": 1e999}', 400, "priority"),
        ("application/x-www-form-urlencoded", b"job=resize", 415, "Content-Type has to be application/json"),
        ("text/plain", b'{"job": "backup"}', 415, "Content-Type has to be application/json"),
        ("", b'{"job": "backup"}', 415, "Content-Type has to be application/json"),
    ],
)
def test_a_body_that_is_no_task_is_told(office: Office, kind: str, body: bytes, status: int, sentence: str) -> None:
    before = office.user.json("db", "stats")["tasks"]["documents"]
    answer = office.web.send(
        "POST", "/api/v1/tasks", {"Authorization": f"Bearer {office.ann}", "Content-Type": kind}, body
    )
    assert sentence in told(answer, status)
    assert office.user.json("db", "stats")["tasks"]["documents"] == before


def test_a_type_with_a_charset_is_still_that_type(office: Office) -> None:
    headers = {"Authorization": f"bearer {office.ann}", "Content-Type": "Application/JSON; charset=utf-8"}
    assert office.web.send("POST", "/api/v1/tasks", headers, json.dumps(LATER)).status == 201


# --- the API: changing tasks ------------------------------------------------------------------------
def test_what_waits_is_canceled_in_the_tokens_name_and_once(office: Office) -> None:
    task = office.enqueue(**LATER)
    assert office.call("POST", f"/tasks/{task[-10:]}/cancel")["status"] == "canceled"
    assert office.call("GET", f"/tasks/{task}")["cancel"]["by"] == "ann"
    assert "nothing to cancel" in office.refusal("POST", f"/tasks/{task}/cancel", status=409)
    assert "nothing to cancel" in office.refusal("POST", f"/tasks/{task}/kill", status=409)


def test_what_runs_is_asked_to_end_and_killed(office: Office) -> None:
    task = office.enqueue(job="deaf")
    until(lambda: b"ready" in log(office, task).body, what="the start")
    asked = office.call("POST", f"/tasks/{task}/cancel")
    assert (asked["cancel"]["by"], asked["cancel"]["kill"]) == ("ann", False)
    assert office.call("POST", f"/tasks/{task}/kill", status=200)["cancel"]["kill"] is True
    assert office.ended(task)["status"] == "canceled"


def test_what_ended_is_run_again_as_a_new_task(office: Office, talk: str) -> None:
    again = office.call("POST", f"/tasks/{talk}/retry", status=201)
    assert (again["retry_of"], again["owner"], again["job"]) == (talk, "ann", "talk")
    assert again["id"] != talk
    assert office.ended(again["id"])["status"] == "completed"
    waiting = office.enqueue(**LATER)
    assert "only a task that has ended can be run again" in office.refusal(
        "POST", f"/tasks/{waiting}/retry", status=409
    )


def test_what_ended_is_removed_and_gone(office: Office) -> None:
    task = office.enqueue(**LATER)
    assert "only a task that has ended can be removed" in office.refusal("DELETE", f"/tasks/{task}", status=409)
    office.call("POST", f"/tasks/{task}/cancel")
    assert office.call("DELETE", f"/tasks/{task}", status=204) is None
    for method, target in (("DELETE", ""), ("GET", ""), ("GET", "/why"), ("GET", "/log"), ("POST", "/retry")):
        assert "no task" in office.refusal(method, f"/tasks/{task}{target}", status=404)


def test_a_removal_has_no_body_and_needs_no_type_of_one(office: Office) -> None:
    task = office.enqueue(**LATER)
    office.call("POST", f"/tasks/{task}/cancel")
    head = f"DELETE /api/v1/tasks/{task} HTTP/1.1\r\nHost: {office.web.host}\r\nAuthorization: Bearer {office.ann}\r\n"
    text = f"{head}Connection: close\r\nContent-Type: text/plain\r\n"
    assert office.web.raw(f"{text}Content-Length: 2\r\n\r\n{{}}".encode()) == 415
    assert office.web.raw(f"{text}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n".encode()) == 415
    assert office.web.raw(f"{head}Connection: close\r\n\r\n".encode()) == 204
    again = office.web.send("DELETE", f"/api/v1/tasks/{task}", {"Authorization": f"Bearer {office.ann}"})
    assert "no task" in told(again, 404)


# --- who gets in ------------------------------------------------------------------------------------
def test_who_may_look_changes_nothing(office: Office, talk: str) -> None:
    waiting = office.enqueue(**LATER)
    for target in ("/tasks", f"/tasks/{talk}", f"/tasks/{talk}/why", f"/tasks/{talk}/log"):
        assert office.web.call("GET", target, office.bob).status == 200
    for method, target in (
        ("POST", "/tasks"),
        ("POST", f"/tasks/{waiting}/cancel"),
        ("POST", f"/tasks/{waiting}/kill"),
        ("POST", f"/tasks/{talk}/retry"),
        ("DELETE", f"/tasks/{talk}"),
    ):
        assert told(office.web.call(method, target, office.bob, LATER), 403) == (
            'the token "bob" may look, and change nothing'
        )
    assert office.call("GET", f"/tasks/{waiting}")["status"] == "scheduled"


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer slot_wrong", "Basic {}", "{}", "Bearer {} x", "Bearer {}x", "Bearer \xe9"],
)
def test_without_a_good_token_nobody_is_let_in(office: Office, given: str | None) -> None:
    headers = {} if given is None else {"Authorization": given.format(office.ann)}
    for target in ("/tasks", f"/tasks/{'0' * 24}"):
        answer = office.web.get(f"/api/v1{target}", headers)
        assert "token" in told(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert office.ann not in answer.text


def test_a_page_without_a_session_leads_to_the_sign_in(office: Office, talk: str) -> None:
    for target in ("/", "/tasks", f"/tasks/{talk}", f"/tasks/{talk}/log.txt"):
        for cookie in ({}, {"Cookie": "slotsched=wrong"}, {"Cookie": f"slotsched={office.ann}"}):
            answer = office.web.get(target, cookie)
            assert (answer.status, answer.headers["location"]) == (303, "/sign-in")
    refused = office.web.form("/sign-in", {"token": "slot_wrong"})
    assert (refused.status, "set-cookie" in refused.headers) == (401, False)
    assert "wrong, expired or removed" in refused.text


def test_a_session_ends_with_its_sign_out_and_with_its_token(office: Office) -> None:
    carol = office.user.ok("token", "add", "carol")
    first, second = ({"Cookie": office.web.sign_in(carol)} for _ in range(2))
    key = office.web.get("/tasks", first).form_key
    assert office.web.form("/sign-out", {"form_key": key}, first).status == 303
    assert [office.web.get("/tasks", one).status for one in (first, second)] == [303, 200]
    office.user.ok("token", "rm", "carol")
    assert office.web.get("/tasks", second).status == 303
    assert office.web.call("GET", "/tasks", carol).status == 401
    office.user.ok("token", "add", "carol")
    assert office.web.get("/tasks", second).status == 303, "a new token of that name is another"
    office.user.ok("token", "rm", "carol")


def test_until_the_first_token_this_machine_is_let_in_and_from_then_on_nobody(make_fleet: Any) -> None:
    with make_fleet(jobs=CLI_JOBS) as fleet, serving(fleet) as web:
        made = web.call("POST", "/tasks", None, LATER)
        assert made.status == 201
        assert fleet.task(made.json["id"])["owner"] not in (None, "", "-")
        page = web.get("/tasks")
        assert page.status == 200
        canceled = web.form(f"/tasks/{made.json['id']}/cancel", {"form_key": web.get(page_of(made)).form_key})
        assert canceled.status == 303
        fleet.cli("token", "add", "ann", "--expires", "1s")
        assert (web.call("GET", "/tasks").status, web.get("/tasks").headers["location"]) == (401, "/sign-in")
        kept = fleet.cli("token", "rm", "ann", check=False)
        assert (kept.returncode, "ann is the last token" in kept.stderr) == (contract.EXIT_USAGE, True)
        assert web.call("GET", "/tasks").status == 401
        fleet.cli("token", "rm", "ann", "--yes")
        assert web.call("GET", "/tasks").status == 200


def page_of(made: Answer) -> str:
    return f"/tasks/{made.json['id']}"


# --- the pages --------------------------------------------------------------------------------------
@pytest.fixture
def ann(office: Office) -> dict[str, str]:
    """The headers of ann's browser."""
    return {"Cookie": office.web.sign_in(office.ann)}


def test_the_list_shows_tasks_and_leads_from_page_to_page(office: Office, ann: dict[str, str]) -> None:
    batch = [{**LATER, "tags": ["listed"]} for _ in range(53)]
    ids = [one["id"] for one in office.call("POST", "/tasks", batch, status=201)][::-1]
    first = office.web.get("/tasks?tag=listed&owner=", ann)
    assert re.findall(r'<td><a class="id" href="/tasks/([0-9a-f]{24})">', first.text) == ids[:50]
    [older] = re.findall(r'<a href="(/tasks\?[^"]+)" rel="next">older</a>', first.text)
    second = office.web.get(older.replace("&amp;", "&"), ann)
    assert re.findall(r'<td><a class="id" href="/tasks/([0-9a-f]{24})">', second.text) == ids[50:]
    assert 'rel="next"' not in second.text
    assert "No task is like that" in office.web.get("/tasks?tag=nobody-has-it", ann).text
    assert office.web.get("/", ann).headers["location"] == "/tasks"


def test_a_tasks_page_has_its_facts_and_its_log(office: Office, ann: dict[str, str], talk: str) -> None:
    assert office.web.get(f"/tasks/{talk[-8:]}", ann).headers["location"] == f"/tasks/{talk}"
    page = office.web.get(f"/tasks/{talk}", ann)
    assert page.status == 200
    for text in (talk, "completed", "big-1", "by ann", "quiet word  n=1", "to the other"):
        assert text in page.text
    assert "quiet word" not in office.web.get(f"/tasks/{talk}?level=warn", ann).text
    assert "No line is like that" in office.web.get(f"/tasks/{talk}?grep=nothing+like+it", ann).text


def test_a_log_is_saved_as_printed_and_as_stored(office: Office, ann: dict[str, str], talk: str) -> None:
    printed = office.web.get(f"/tasks/{talk}/log.txt?attempt=1", ann)
    assert printed.body == log(office, talk, "?raw=1&attempt=1").body
    assert printed.headers["content-disposition"] == f'attachment; filename="{talk}.txt"'
    packed = office.web.get(f"/tasks/{talk[-8:]}/log.ndjson.gz", ann)
    assert gzip.decompress(packed.body) == log(office, talk).body
    assert packed.headers["content-disposition"] == f'attachment; filename="{talk}.ndjson.gz"'


def test_a_log_store_that_cannot_be_used_is_told_where_the_log_would_be(
    office: Office, ann: dict[str, str], mongo_client: Any
) -> None:
    task = office.enqueue(job="slow", args={"steps": 1}, wait=True)
    until(lambda: office.call("GET", f"/tasks/{task}")["attempts"][0]["log"]["uploaded"], what="the upload")
    tasks = mongo_client[office.user.fleet.settings["database"]].tasks
    tasks.update_one({"_id": bson.ObjectId(task)}, {"$set": {"attempts.0.log.store": "ftp://elsewhere/logs"}})
    page = office.web.get(f"/tasks/{task}", ann)
    assert (page.status, "completed" in page.text) == (200, True)
    assert re.search(r'<p class="note">log_store .*ftp://elsewhere/logs.*neither s3://', page.text)
    assert office.web.get(f"/tasks/{task}?level=loud", ann).status == 400, "what was asked for is still told as such"


def test_a_task_is_canceled_run_again_and_removed_from_its_page(office: Office, ann: dict[str, str]) -> None:
    task = office.enqueue(job="talk", **{"in": "1h"})
    page = office.web.get(f"/tasks/{task}", ann)
    assert re.findall(r"<button[^>]*>(\w+)</button>", page.text)[:2] == ["Cancel", "Kill"]
    key = {"form_key": page.form_key}
    assert office.web.form(f"/tasks/{task}/cancel", key, ann).headers["location"] == f"/tasks/{task}"
    assert "canceled by ann" in office.web.get(f"/tasks/{task}", ann).text
    assert office.web.form(f"/tasks/{task}/cancel", key, ann).status == 409
    again = office.web.form(f"/tasks/{task}/retry", key, ann).headers["location"]
    new = urlsplit(again).path.rpartition("/")[2]
    assert office.ended(new)["retry_of"] == task
    assert office.web.form(f"/tasks/{task}/remove", key, ann).headers["location"] == "/tasks"
    assert office.web.get(f"/tasks/{task}", ann).status == 404


def test_who_may_look_is_shown_no_buttons_and_their_forms_are_refused(office: Office) -> None:
    task = office.enqueue(**LATER)
    bob = {"Cookie": office.web.sign_in(office.bob)}
    page = office.web.get(f"/tasks/{task}", bob)
    assert 'class="actions"' not in page.text
    for act in ("cancel", "kill", "retry", "remove"):
        assert office.web.form(f"/tasks/{task}/{act}", {"form_key": page.form_key}, bob).status == 403
    assert office.call("GET", f"/tasks/{task}")["status"] == "scheduled"


def test_a_page_that_is_not_there_is_told_as_one(office: Office, ann: dict[str, str]) -> None:
    for target in (f"/tasks/{'0' * 24}", "/nothing", "/tasks?stauts=x", "/static/../app.py", "/static/nothing"):
        answer = office.web.get(target, ann)
        assert answer.status in (400, 404), target
        assert answer.headers["content-type"].startswith("text/html"), target


# --- the process ------------------------------------------------------------------------------------
def test_health_is_told_to_everybody_and_nothing_else(office: Office) -> None:
    for target in ("/livez", "/readyz"):
        answer = office.web.get(target)
        assert (answer.status, answer.body) == (200, b"ok\n")
        head = office.web.send("HEAD", target)
        assert (head.status, head.body) == (200, b"")


def test_it_is_not_ready_while_the_store_is_away_and_ready_again_after(make_fleet: Any, mongod: Any) -> None:
    with (
        Proxy(mongod.port) as proxy,
        make_fleet(jobs=CLI_JOBS) as fleet,
        serving(fleet, mongodb_uri=proxy.uri, store_timeout="1s") as web,
    ):
        assert web.get("/readyz").status == 200
        proxy.blackhole()
        away = web.get("/readyz")
        assert (away.status, away.headers["retry-after"]) == (503, "5")
        assert web.get("/livez").status == 200
        assert told(web.call("GET", "/tasks"), 503)
        assert web.get("/tasks").status == 503
        assert str(proxy.port) not in away.text
        proxy.heal()
        until(lambda: web.get("/readyz").status == 200, what="it to be ready again")
        assert web.call("GET", "/tasks").status == 200
        assert web.stop() == 0


def test_it_is_alive_while_all_its_threads_wait_for_a_store_that_is_away(make_fleet: Any, mongod: Any) -> None:
    with (
        Proxy(mongod.port) as proxy,
        make_fleet(jobs=CLI_JOBS) as fleet,
        serving(fleet, mongodb_uri=proxy.uri, store_timeout="3s") as web,
        ThreadPoolExecutor(THREADS + 5) as pool,
    ):
        assert web.get("/livez").status == 200
        proxy.blackhole()
        waiting = [pool.submit(web.get, "/readyz") for _ in range(THREADS + 5)]
        answers = [web.get("/livez")]
        while not all(one.done() for one in waiting):
            answers.append(web.get("/livez"))
        assert {one.result().status for one in waiting} == {503}
        assert min(one.result().seconds for one in waiting) > QUICK_SECONDS, "nothing was waited for"
        assert {answer.status for answer in answers} == {200}
        assert max(answer.seconds for answer in answers) < QUICK_SECONDS
        proxy.heal()
        assert web.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_with_connections_open(make_fleet: Any, number: signal.Signals) -> None:
    with make_fleet(jobs=CLI_JOBS) as fleet, serving(fleet) as web:
        with socket.create_connection(web.address, timeout=10) as idle, socket.create_connection(web.address) as half:
            idle.sendall(f"GET /livez HTTP/1.1\r\nHost: {web.host}\r\n\r\n".encode())
            assert idle.recv(100).startswith(b"HTTP/1.1 200")
            half.sendall(b"GET /li")
            web.process.send_signal(number)
            assert web.process.wait(20) == 0
        assert [line["msg"] for line in web.log()][-1] == "ended"
        assert "Traceback" not in web.output.with_suffix(".err").read_text()


def test_an_address_that_is_taken_is_told_in_a_sentence(office: Office) -> None:
    done = office.user.run("web", "--web-listen", office.web.host)
    assert (done.code, done.out) == (contract.EXIT_USAGE, "")
    assert done.err == (
        f"cannot listen on {office.web.host} (Address already in use); choose another: --web-listen 127.0.0.1:0\n"
    )


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("nonsense", 'web_listen: "nonsense" is not HOST:PORT, such as 127.0.0.1:8686'),
        ("127.0.0.1", "is not HOST:PORT"),
        (":8686", "is not HOST:PORT"),
        ("127.0.0.1:65536", "is not HOST:PORT"),
        ("127.0.0.1:-1", "is not HOST:PORT"),
        ("127.0.0.1:٣", "is not HOST:PORT"),
        ("no.such.host.invalid:8686", "web_listen: no.such.host.invalid:8686: "),
        ("a..b:8686", "web_listen: a..b:8686: no host has such a name"),
        (f"{'x' * 70}.example:8686", "no host has such a name"),
        ("192.0.2.1:0", "cannot listen on 192.0.2.1:0 (Cannot assign requested address)"),
    ],
)
def test_an_address_that_is_none_is_told_in_a_sentence(office: Office, where: str, sentence: str) -> None:
    done = office.user.run("web", "--web-listen", where)
    assert (done.code, done.out, done.err.count("\n")) == (contract.EXIT_USAGE, "", 1), done.err
    assert sentence in done.err


def test_other_machines_are_not_let_in_before_there_is_a_token(make_fleet: Any) -> None:
    with make_fleet(jobs=CLI_JOBS) as fleet:
        user = User(fleet)
        done = user.run("web", "--web-listen", "0.0.0.0:0")
        assert (done.code, done.out) == (contract.EXIT_REFUSED, "")
        assert "Make one first: slotsched token add NAME" in done.err
        done = user.run("web", "--web-listen", "127.0.0.1:0", "--web-hosts", "tasks.example")  # a proxy's, then
        assert (done.code, "tasks.example can be reached" in done.err) == (contract.EXIT_REFUSED, True)
        token = user.ok("token", "add", "ann")
        with serving(fleet, listen="0.0.0.0:0") as web:
            port = web.address[1]
            assert web.get("/api/v1/tasks", {"Host": f"127.0.0.1:{port}"}).status == 401
            assert web.call("GET", "/tasks", token).status == 200
            user.ok("token", "rm", "ann", "--yes")
            assert web.call("GET", "/tasks").status == 401, "without any token nobody comes from elsewhere"


def test_a_store_that_is_away_is_told_at_the_start(office: Office) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"mongodb://127.0.0.1:{unused.getsockname()[1]}/?replicaSet=rs0"
        env = {"SLOTSCHED_MONGODB_URI": uri, "SLOTSCHED_STORE_TIMEOUT": "1s"}
        done = office.user.run("web", "--web-listen", "127.0.0.1:0", env=env)
    assert done.code == contract.EXIT_STORE_UNREACHABLE
    assert "cannot reach mongodb://" in done.err
    assert "Traceback" not in done.err


# --- tokens on the command line ---------------------------------------------------------------------
def test_a_token_is_printed_once_and_listed_without_its_secret(office: Office) -> None:
    user = office.user
    done = user.run("token", "add", "dora", "--read-only", "--expires", "90d")
    secret = done.out.strip()
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"slot_[A-Za-z0-9_-]{43}", secret)
    [dora] = [line for line in user.ok("token", "ls").splitlines() if line.startswith("dora")]
    assert re.search(r"\blook\b.*\bgood\b", dora)
    [ann] = [line for line in user.ok("token", "ls").splitlines() if line.startswith("ann")]
    assert re.search(r"\beverything\b.*-.*\bgood\b", ann)
    [listed] = [one for one in user.json("token", "ls") if one["name"] == "dora"]
    assert set(listed) == {"name", "read_only", "created_at", "expires_at"}
    for form in ("table", "json", "jsonl", "id"):
        shown = user.run("token", "ls", "-o", form)
        assert secret not in shown.out + shown.err
    assert user.ok("token", "rm", "dora") == "dora is removed"
    assert "dora" not in user.ok("token", "ls", "-o", "id").split()


def test_a_token_that_is_over_is_listed_as_expired(office: Office) -> None:
    user = office.user
    secret = user.ok("token", "add", "erik", "--expires", "0s")
    [erik] = [line for line in user.ok("token", "ls").splitlines() if line.startswith("erik")]
    assert erik.endswith("expired")
    assert office.web.call("GET", "/tasks", secret).status == 401
    user.ok("token", "rm", "erik")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["add", "ann"], contract.EXIT_REFUSED, "remove it first: slotsched token rm ann"),
        (["add", "a b"], contract.EXIT_USAGE, '"a b" is no name for a token'),
        (["add", "\x1b[2Jclear"], contract.EXIT_USAGE, "is no name for a token"),
        (["add", "new", "--expires", "soon"], contract.EXIT_USAGE, "--expires"),
        (["add", "new", "--expires", "9999999d"], contract.EXIT_USAGE, "within 31 years"),
        (["rm", "nobody"], contract.EXIT_NOT_FOUND, 'no token "nobody"; slotsched token ls shows all'),
    ],
)
def test_a_token_that_cannot_be_is_told(office: Office, words: list[str], code: int, sentence: str) -> None:
    done = office.user.run("token", *words)
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err
    assert "\x1b" not in done.err
    assert "Traceback" not in done.err
    assert office.user.ok("token", "ls", "-o", "id").split() == ["ann", "bob"]
