"""F29 to F31: what a hostile client, a hostile site and somebody without a token get from the web face: a refusal.

Requests go over a socket, well-formed or not; what they did is judged from the database, behind the web face's back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bson
import pymongo
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, until
from starlette.routing import Mount, Route
from web_user import ANSWER_SECONDS, FORM, JSON, Answer, Web, serving

from slotsched import contract
from slotsched.web.app import create
from slotsched.web.patience import IDLE_SECONDS

QUICK_SECONDS = 3.0  # for a refusal, on a busy machine
BIG = 2**63
STORED = ("tasks", "schedules", "tokens")  # what a request could change
READ_BY_ANYBODY = {"/sign-in", "/livez", "/readyz"}
CHANGED_BY_ANYBODY = {"/sign-in"}
OF_ONES_OWN_SESSION = {"/sign-out"}

JOB = """# /// script
# [tool.slotsched]
# max_time = "30s"
# ///
def main(word: str = "", count: int = 0, items: list | None = None) -> None:
    print("a" * 40_000 + "b")
    print("a" * 60)
    print('{"level":30,"time":1,"msg":"half a pair \\\\ud800"}')
"""


def everything(database: Any) -> dict[str, list[bytes]]:
    """What is stored, byte for byte."""
    return {name: [bson.encode(one) for one in database[name].find().sort("_id", 1)] for name in STORED}


def not_refused(answers: Mapping[str, Answer], *allowed: int) -> list[str]:
    """The requests that were answered in another way, too late, or not to the end."""
    return [
        f"{asked[:120]} -> {answer.status} in {answer.seconds:.1f} s: {answer.body[:200]!r}"
        for asked, answer in answers.items()
        if answer.status not in allowed or answer.seconds > QUICK_SECONDS or not answer.whole
    ]


def slowest(answers: Iterable[Answer]) -> float:
    return max(answer.seconds for answer in answers)


@dataclass
class Office:
    """A fleet, its web face, and the database itself."""

    fleet: Fleet
    web: Web
    database: Any

    def later(self) -> str:
        """The id of a task that nothing but a request changes."""
        return self.fleet.client.enqueue("lines", {"word": "secret word"}, in_="1h").id

    def status(self, task: str) -> str | None:
        """As stored; None for a task that is gone."""
        found = self.database.tasks.find_one({"_id": bson.ObjectId(task)}, {"status": 1})
        return None if found is None else str(found["status"])


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "lines.py").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def office(make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], jobs: Path) -> Iterator[Office]:
    """Without any token: whoever can connect is let in, so nothing but the request's form can refuse it."""
    with make_fleet(jobs=jobs) as fleet, serving(fleet, log_level="trace") as web:
        yield Office(fleet, web, mongo_client[fleet.settings["database"]])


@pytest.fixture(scope="module")
def logged(office: Office) -> str:
    """A task that has ended, with a log."""
    office.fleet.start("here", slots=2)
    task = office.fleet.client.enqueue("lines", {}).id
    office.fleet.client.wait([task], 30)
    return task


# --- F29: hostile clients -------------------------------------------------------------------------------------------

REFUSED_QUERIES = (
    "status[$ne]=failed", "job[$where]=1", "job[]=lines", "$where=1", "__proto__=1", "job.$ne=1", "status[$gt]=",
    'status={"$ne":1}', "status=$ne", "status=%00", "limit[$gt]=0", "owner=a&owner=b", "limit=1&limit=2", "limit=0",
    "limit=-1", "limit=1e3", f"limit={BIG}", "limit=" + "9" * 400, "limit=%D9%A3", "after=x", "after[$gt]=0",
    "after=" + "F" * 24, 'after={"$gt":""}', "since=1h%00", "since=NaN", "since=inf", "until=1e400", "reason[$ne]=lost",
    "job=" + "x" * 2001, "a" * 30_000, "&".join(["job=a"] * 101), "&".join("a" * 1000), "%zz=1", "%00=1", "%ff=1",
)  # fmt: skip
QUERIES_FOR_NOTHING = (
    'job={"$ne":1}', "job=%00", "job=lines%00", "job=%zz", "owner=%ED%A0%80", "owner=$ne", "tag=%ff", "tag=[$ne]",
    "instance=%00", "instance=.*", 'owner={"$gt":""}', "job=.*", "job=$where", "job=%f0%28%8c%28", "job=lin.s",
)  # fmt: skip
MOMENTS = (
    "0001-01-01", "9999-12-31T23:59:59", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00%2B14:00",
    "0001-01-02T00:00Z", "99999999999w", "9" * 400, "3000000d",
)  # fmt: skip
IDS = (
    "%00", "..%2f..", "%2e%2e", "$ne", '{"$gt":""}', "[$ne]", ".*", "....", "^.*$", "a" * 24, "f" * 24, "F" * 24,
    "%ED%A0%80%ED%A0%80", "%ff%fe%ff%fe", "@last", "*" * 2000, "%0d%0aX-Owned:%201", "%zz%zz", "é" * 12,
)  # fmt: skip
BODIES: tuple[str | bytes, ...] = (
    "", "[", "null", "1", '"lines"', "[1]", "[null]", "[[]]", "[{}]", "{}", "\0", b"\xff\xfe{}", b'{"job":"\xff"}',
    '{"job":NaN}', '{"job":"lines","priority":Infinity}', '{"job":"lines","args":{"count":-Infinity}}',
    '{"job":{"$ne":1}}', '{"job":["lines"]}', '{"job":"lines\\u0000"}', '{"job":"../lines"}', '{"job":"\\ud800"}',
    '{"job":"lines","args":[]}', '{"job":"lines","args":{"$where":"1"}}', '{"job":"lines","args":{"word":{"$ne":1}}}',
    '{"job":"lines","args":{"wo.rd":1}}', '{"job":"lines","args":{"wo\\u0000rd":1}}',
    '{"job":"lines","args":{"word":"\\ud800"}}', '{"job":"lines","args":{"\\udfff":1}}',
    '{"job":"lines","args":{"items":[{"\\ud800":1}]}}', '{"job":"lines","key":{"$gt":""}}',
    '{"job":"lines","key":"\\ud800"}', '{"job":"lines","key":"a\\u0000"}', '{"job":"lines","tags":{"$gt":""}}',
    '{"job":"lines","tags":[{"$gt":""}]}', '{"job":"lines","tags":["\\ud800"]}', '{"job":"lines","after":{"$gt":""}}',
    '{"job":"lines","at":{"$date":1}}', '{"job":"lines","at":"9999-12-31T23:59:59-12:00"}',
    '{"job":"lines","when":{"$ne":1},"after":["aaaaaaaaaaaaaaaaaaaaaaaa"]}',
    '{"job":"lines","owner":"root"}', '{"job":"lines","trigger":"schedule:x"}', '{"job":"lines","$set":1}',
    *(f'{{"job":"lines","{name}":{BIG}}}' for name in ("slots", "memory", "priority", "retries", "max_time", "in")),
    f'{{"job":"lines","args":{{"count":{BIG}}}}}', f'{{"job":"lines","args":{{"items":[{BIG}]}}}}',
    '{"job":"lines","slots":1e3}', '{"job":"lines","memory":1e400}', '{"job":"lines","in":1e400}',
    '{"job":"lines","max_time":1e300}', '{"job":"lines","retries":' + "9" * 5000 + "}",
    '{"job":"lines","args":{"count":' + "9" * 4000 + "}}",
    *(f'{{"job":"lines","args":{{"items":{"[" * depth}{"]" * depth}}}}}' for depth in (60, 200, 990, 100_000)),
    *("[" * depth + "]" * depth for depth in (60, 990, 1_000_000)), '{"a":' * 500_000,
    '{"job":"lines","args":{"word":"' + "x" * (2 << 20) + '"}}',
    "[" + ",".join(["1"] * 10_001) + "]",
)  # fmt: skip
HUGE_NUMBERS = ('{"job":"lines","in":' + "9" * 4000 + "}", '{"job":"lines","memory":"' + "9" * 400 + 'T"}')
FORMS = (b"token=%ff", b"token=\xff", b"token=%ED%A0%80", b"token=a&token=b", b"a=1", b"token[$ne]=1", b"a&" * 101)
PATTERNS = {
    "much too long": "a" * 10_000,
    "a little too long": "a" * 1_001,
    "malformed": "(",
    "written out, a terabyte": "((((a{1000}){1000}){1000}){1000})",
    "written out, two levels": "(?:a{999}){999}",
    "written out, doubled ten times": "(?:" * 10 + "a" + "){2}" * 10,
    "large when compiled": r"(?i)(?:\pL{400}){2}",
    "calling itself": "(?R)",
    "calling itself by a name": "(?P<n>a(?&n)?)+$",
    "looking ahead and back": r"(?=(a+))\1*$",
}
CATASTROPHES = ("(a|aa)+$", "^(a+)+$", "^(a|a)*$", "(?:a?){900}c", "(?:a|aa|a?){250}x", "(" * 490 + ")" * 490)
HARMLESS_PATTERNS = ("a{60}$", "([0-9a-f]{8})-([0-9a-f]{4}-){3}[0-9a-f]{12}", r"\d{1,3}(\.\d{1,3}){3}", "[[:alpha:]]")
METHODS = ("PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "PROPFIND", "get", "DELETE", "POST")


def test_the_checker_of_refusals_goes_red() -> None:
    refused = Answer(400, {}, b"", 0.1)
    assert not not_refused({"a": refused}, 400)
    assert not_refused({"a": Answer(200, {}, b"", 0.1)}, 400)
    assert not_refused({"a": Answer(500, {}, b"", 0.1)}, 400)
    assert not_refused({"a": Answer(400, {}, b"", QUICK_SECONDS + 1)}, 400)
    assert not_refused({"a": Answer(400, {}, b"", 0.1, whole=False)}, 400)


def test_operators_in_a_query_are_refused_or_are_texts(office: Office, figure: Figures) -> None:
    task = office.later()
    ask = office.web.get
    pages = ("/tasks", "/api/v1/tasks")
    refused = {f"{page}?{query}": ask(f"{page}?{query}") for page in pages for query in REFUSED_QUERIES}
    found = {query: ask(f"/api/v1/tasks?{query}") for query in QUERIES_FOR_NOTHING}
    shown = {query: ask(f"/tasks?{query}") for query in QUERIES_FOR_NOTHING}
    assert [one["id"] for one in ask("/api/v1/tasks?job=lines").json] == [task], "there was nothing to find"
    assert not not_refused(refused, 400)
    assert not not_refused(found | shown, 200)
    assert [query for query, answer in found.items() if answer.json] == []
    assert [query for query, answer in shown.items() if task.encode() in answer.body] == []
    asked = [*refused.values(), *found.values(), *shown.values()]
    figure("F29", f"longest answer to {len(asked)} hostile queries", slowest(asked), at_most=QUICK_SECONDS)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", ["since", "until"])
def test_a_time_that_no_clock_shows_is_no_defect(office: Office, name: str, moment: str) -> None:
    """Refused, or so far away that it leaves all or nothing."""
    for page in ("/tasks", "/api/v1/tasks"):
        assert not not_refused({name: office.web.get(f"{page}?{name}={moment}")}, 200, 400)


def test_ids_are_texts(office: Office) -> None:
    office.later()
    before = everything(office.database)
    targets = [quote(one, safe="%$*") for one in IDS]
    answers = {}
    for target in targets:
        for path in (f"/tasks/{target}", f"/api/v1/tasks/{target}", f"/api/v1/tasks/{target}/log"):
            answers[path] = office.web.get(path)
        for action in ("cancel", "kill", "retry"):
            path = f"/api/v1/tasks/{target}/{action}"
            answers[f"POST {path}"] = office.web.send("POST", path, {"Content-Type": JSON})
        answers[f"DELETE {target}"] = office.web.send("DELETE", f"/api/v1/tasks/{target}", {"Content-Type": JSON})
    assert not not_refused(answers, 404)
    assert not [asked for asked, answer in answers.items() if "x-owned" in answer.headers]
    assert everything(office.database) == before


def test_bodies_that_are_no_tasks_store_none(office: Office, figure: Figures) -> None:
    before = everything(office.database)
    headers = {"Content-Type": JSON}
    answers = {
        f"{number} {body[:80]!r}": office.web.send("POST", "/api/v1/tasks", headers, body)
        for number, body in enumerate(BODIES)
    }
    assert not not_refused({a: b for a, b in answers.items() if b.status != 404}, 400)
    assert all(b"no job" in answer.body for answer in answers.values() if answer.status == 404)
    for body in FORMS:
        assert office.web.send("POST", "/sign-in", {"Content-Type": FORM}, body).status == 400, body
    assert everything(office.database) == before
    figure("F29", f"longest answer to {len(BODIES)} hostile bodies", slowest(answers.values()), at_most=QUICK_SECONDS)


def test_a_good_body_is_stored(office: Office) -> None:
    """Or the refusals above would prove nothing; texts that look like operators are texts."""
    body = json.dumps({"job": "lines", "in": "1h", "args": {"word": "$where", "items": [{"$ne": None}]}})
    answer = office.web.send("POST", "/api/v1/tasks", {"Content-Type": JSON}, body)
    assert answer.status == 201
    assert office.fleet.client.get(answer.json["id"]).args == {"word": "$where", "items": [{"$ne": None}]}


def test_what_is_too_large_is_not_read_to_its_end(office: Office) -> None:
    task = office.later()
    before = everything(office.database)
    send = office.web.send
    large = {
        "body": send("POST", "/api/v1/tasks", {"Content-Type": JSON}, b" " * ((16 << 20) + 1)),
        "body of a call without one": send(
            "POST", f"/api/v1/tasks/{task}/cancel", {"Content-Type": JSON}, b" " * ((16 << 20) + 1)
        ),
        "form": send("POST", "/sign-in", {"Content-Type": FORM}, b"token=" + b"x" * (65 << 10)),
        "form of a page": send("POST", f"/tasks/{task}/cancel", {"Content-Type": FORM}, b"a" * (65 << 10)),
        "body of a page": send("GET", "/tasks", {"Content-Length": str(65 << 10)}, b"a" * (65 << 10)),
    }
    assert not not_refused(large, 413)
    long, line = "x" * (1 << 20), f"GET /tasks HTTP/1.1\r\nConnection: close\r\nHost: {office.web.host}\r\n"
    heads = {
        "header": f"{line}X: {long}\r\n\r\n",
        "headers": line + "".join(f"X{number}: y\r\n" for number in range(100_000)) + "\r\n",
        "address": f"GET /{long} HTTP/1.1\r\nHost: {office.web.host}\r\n\r\n",
        "cookie": f"{line}Cookie: slotsched={long}\r\n\r\n",
        "a head without end": f"{line}X: {long}",
    }
    statuses = {what: office.web.raw(head.encode()) for what, head in heads.items()}
    assert {what: status for what, status in statuses.items() if status not in (None, 400, 414, 431)} == {}
    assert everything(office.database) == before


def test_requests_that_are_none_are_refused_and_change_nothing(office: Office) -> None:
    task = office.later()
    before = everything(office.database)
    host = f"Host: {office.web.host}\r\n"
    cancel = f"POST /api/v1/tasks/{task}/cancel HTTP/1.1\r\n{host}Content-Type: {JSON}\r\n"
    sent = {
        "two lengths": f"{cancel}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}",
        "length and chunks": f"{cancel}Content-Length: 2\r\nTransfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        "a negative length": f"{cancel}Content-Length: -1\r\n\r\n",
        "a chunk that is none": f"{cancel}Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        "a body that ends early": f"{cancel}Content-Length: 100\r\n\r\n{{}}",
        "a folded header": f"{cancel}X: a\r\n  b: c\r\nContent-Length : 0\r\n\r\n",
        "a bare line feed in a header": f"{cancel}X: a\nOrigin: b\r\n\0: c\r\n\r\n",
        "no host": f"POST /api/v1/tasks/{task}/cancel HTTP/1.1\r\nContent-Type: {JSON}\r\n\r\n",
        "no host, HTTP/1.0": f"POST /api/v1/tasks/{task}/cancel HTTP/1.0\r\nContent-Type: {JSON}\r\n\r\n",
        "no version": f"GET /api/v1/tasks/{task}\r\n\r\n",
        "no HTTP": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "another protocol": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }
    statuses = {what: office.web.raw(data.encode("latin-1"), hang_up=True) for what, data in sent.items()}
    assert {what: status for what, status in statuses.items() if status not in (None, 400, 405, 505)} == {}
    assert everything(office.database) == before
    assert office.web.raw(f"{cancel}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()) == 200, "well-formed"
    assert everything(office.database) != before


def test_connections_that_say_nothing_are_closed_and_make_room(office: Office, figure: Figures) -> None:
    """As many as there may be, in two kinds: nothing at all, and half a request."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(office.web.address, timeout=10)) for _ in range(300)]
        for connection in silent[::2]:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        assert office.web.get("/livez").status == 503, "the checker sees what they do"
        begun = time.monotonic()
        until(lambda: office.web.get("/livez").status == 200, seconds=40, what="room for others")
        figure("F29", "room again after 300 silent connections", time.monotonic() - begun, at_most=2 * IDLE_SECONDS)


def test_unknown_methods_do_nothing(office: Office) -> None:
    task = office.later()
    before = everything(office.database)
    targets = ("/tasks", f"/tasks/{task}", f"/tasks/{task}/cancel", f"/api/v1/tasks/{task}", "/static/style.css", "/*")
    known = {("DELETE", f"/api/v1/tasks/{task}"), ("POST", f"/tasks/{task}/cancel")}
    answers = {
        f"{method} {target}": office.web.send(method, target)
        for method in METHODS
        for target in targets
        if (method, target) not in known
    }
    answers |= {
        f"GET {action}, {name}": office.web.get(f"{base}/tasks/{task}/{action}", {name: "POST"})
        for action in ("cancel", "kill", "retry")
        for base in ("", "/api/v1")
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    }
    assert not not_refused(answers, 404, 405)
    assert everything(office.database) == before


def test_paths_of_files_lead_to_no_file(office: Office) -> None:
    paths = (
        "..%2f..%2fapp.py",
        "../app.py",
        "%2e%2e/app.py",
        "..\\app.py",
        "%00",
        "style.css%00",
        "x" * 300,
        "",
        "%ff",
    )
    assert not not_refused({path: office.web.get(f"/static/{path}") for path in paths}, 404)
    assert office.web.get("/static/style.css").status == 200


def test_patterns_that_cost_too_much_are_refused(office: Office, logged: str, figure: Figures) -> None:
    answers = {}
    for what, pattern in PATTERNS.items():
        for path in (f"/tasks/{logged}", f"/api/v1/tasks/{logged}/log"):
            answers[f"{what} {path}"] = office.web.get(f"{path}?grep={quote(pattern)}")
    assert not not_refused(answers, 400)
    fine = {one: office.web.get(f"/api/v1/tasks/{logged}/log?grep={quote(one)}") for one in HARMLESS_PATTERNS}
    assert not not_refused(fine, 200)
    assert b'"' + b"a" * 60 + b'"' in fine["a{60}$"].body
    figure("F29", f"longest answer to {len(answers)} costly patterns", slowest(answers.values()), at_most=QUICK_SECONDS)


def test_others_are_answered_while_catastrophic_patterns_are_searched_for(
    office: Office, logged: str, figure: Figures
) -> None:
    answers: dict[str, Answer] = {}

    def search(target: str) -> None:
        answers[target] = office.web.get(target)

    targets = [
        f"{path}?grep={quote(p)}" for p in CATASTROPHES for path in (f"/tasks/{logged}", f"/api/v1/tasks/{logged}/log")
    ]
    threads = [threading.Thread(target=search, args=[target], daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    others = []
    while any(thread.is_alive() for thread in threads):
        others.append(office.web.get("/api/v1/tasks?limit=1"))
    for thread in threads:
        thread.join(ANSWER_SECONDS)
    assert len(others) > 1
    assert all(answer.status == 200 for answer in others)
    assert {target: answers[target].status for target in targets} == dict.fromkeys(targets, 200)
    assert all(answer.whole for answer in answers.values())
    assert b"a" * 60 in answers[targets[1]].body
    what = f"{len(targets)} catastrophic patterns at once"
    figure("F29", f"{what}: longest answer", slowest(answers.values()), at_most=10.0)
    figure("F29", f"{what}: longest answer to others meanwhile", slowest(others), at_most=QUICK_SECONDS)


def test_half_a_character_in_a_log_is_shown(office: Office, logged: str) -> None:
    shown = office.web.get(f"/tasks/{logged}")
    assert shown.status == 200
    assert "half a pair ?" in shown.text


def test_nothing_that_was_asked_was_a_defect(office: Office, logged: str) -> None:
    """The last of these tests: errors that the web face did not expect are in its log."""
    assert logged
    assert [line for line in office.web.log() if line["level"] >= contract.LEVEL_ERROR] == []
    assert office.web.process.poll() is None


@pytest.mark.parametrize("body", HUGE_NUMBERS, ids=["a duration", "a size"])
def test_a_number_beyond_all_numbers_is_no_defect(office: Office, body: str) -> None:
    answer = office.web.send("POST", "/api/v1/tasks", {"Content-Type": JSON}, body)
    assert not not_refused({body: answer}, 400)


# --- F30: hostile sites ---------------------------------------------------------------------------------------------

FOREIGN_PAGES: Mapping[str, Mapping[str, str]] = {
    "another site's page": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "a browser that says no more": {"Origin": "https://evil.example", "Sec-Fetch-Site": ""},
    "a page of no origin": {"Origin": "null", "Sec-Fetch-Site": ""},
    "a page that hides its origin": {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    "another port of this machine": {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": ""},
    "another port, said so": {"Origin": "", "Sec-Fetch-Site": "same-site"},
    "another name of this machine": {"Origin": "http://localhost:{port}", "Sec-Fetch-Site": ""},
    "a name that begins like ours": {"Origin": "http://{host}.evil.example", "Sec-Fetch-Site": ""},
    "a name that ends like ours": {"Origin": "http://evil.example#{host}", "Sec-Fetch-Site": ""},
    "ours as a user's name": {"Origin": "http://{host}@evil.example", "Sec-Fetch-Site": ""},
    "several origins": {"Origin": "http://{host} http://evil.example", "Sec-Fetch-Site": ""},
    "another scheme": {"Origin": "chrome-extension://{host}", "Sec-Fetch-Site": ""},
    "an address as a site": {"Sec-Fetch-Site": "SAME-ORIGIN, cross-site"},
}
WRONG_TYPES = ("text/plain", "multipart/form-data; boundary=x", JSON, "", "application/x-www-form-urlencoded2")
HOSTS = (
    "evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "localhost.evil.example", "evil-localhost",
    "", "127.0.0.1:{port}@evil.example", "evil.example#127.0.0.1:{port}", "127.0.0.1:{port}, evil.example",
    "127.0.0.1:{port} evil.example", "127.0.0.1.nip.io:{port}", "2130706433:{port}", "0x7f000001", "127.1:{port}",
    "[::1].evil.example", "[evil.example]", "127.0.0.1:{port}/evil.example", "127.0.0.1:999999", "127.0.0.1:x", "\xe9",
)  # fmt: skip
FORWARDED = {
    "X-Forwarded-Host": "evil.example", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https",
    "Forwarded": "for=127.0.0.1;host=evil.example", "X-Original-URL": "/livez", "X-Rewrite-URL": "/livez",
}  # fmt: skip


def filled(text: str, web: Web) -> str:
    return text.format(host=web.host, port=web.address[1])


def test_a_form_from_any_other_page_is_not_carried_out(office: Office, figure: Figures) -> None:
    """With the right form key, as if it had leaked: the origin alone refuses it."""
    task = office.later()
    key = office.web.get(f"/tasks/{task}").form_key
    before = everything(office.database)
    answers = {}
    for what, said in FOREIGN_PAGES.items():
        headers = {name: filled(value, office.web) for name, value in said.items()}
        for action in ("cancel", "kill", "retry", "remove"):
            answers[f"{what} {action}"] = office.web.form(f"/tasks/{task}/{action}", {"form_key": key}, headers)
        as_json = {"Content-Type": JSON} | {name: value for name, value in headers.items() if value}
        for method, path in (("POST", f"/{task}/cancel"), ("POST", f"/{task}/kill"), ("DELETE", f"/{task}")):
            answers[f"{what} API {method} {path}"] = office.web.send(method, f"/api/v1/tasks{path}", as_json)
        answers[f"{what} API"] = office.web.send("POST", "/api/v1/tasks", as_json, '{"job":"lines"}')
        answers[f"{what} sign-in"] = office.web.form("/sign-in", {"token": "x"}, headers)
    assert not not_refused(answers, 403)
    changes = sum(
        one != other for one, other in zip(everything(office.database).values(), before.values(), strict=True)
    )
    figure("F30", f"changes by {len(answers)} requests of foreign pages", changes, "", exactly=0)


def test_the_same_form_from_a_page_of_ours_is_carried_out(office: Office) -> None:
    task = office.later()
    before = everything(office.database)
    answer = office.web.form(f"/tasks/{task}/cancel", {"form_key": office.web.get(f"/tasks/{task}").form_key})
    assert answer.status == 303
    assert office.status(task) == "canceled"
    assert everything(office.database) != before


def test_a_form_without_the_key_of_this_session_is_not_carried_out(office: Office) -> None:
    task = office.later()
    key = office.web.get(f"/tasks/{task}").form_key
    before = everything(office.database)
    forms: dict[str, dict[str, str]] = {
        "none": {}, "empty": {"form_key": ""}, "wrong": {"form_key": "0" * 64}, "cut": {"form_key": key[:-1]},
        "longer": {"form_key": key + "0"}, "upper case": {"form_key": key.upper()},
        "not ASCII": {"form_key": "é\ud7ff"}, "another name": {"key": key}, "an operator": {"form_key[$ne]": "x"},
    }  # fmt: skip
    answers = {what: office.web.form(f"/tasks/{task}/cancel", form) for what, form in forms.items()}
    assert not not_refused(answers, 403)
    with serving(office.fleet, name="second") as other:
        foreign = other.get(f"/tasks/{task}").form_key
    assert office.web.form(f"/tasks/{task}/cancel", {"form_key": foreign}).status == 403, "another process's"
    kinds = {
        kind: office.web.form(f"/tasks/{task}/cancel", {"form_key": key}, {"Content-Type": kind})
        for kind in WRONG_TYPES
    }
    assert not not_refused(kinds, 415)
    calls = {
        kind: office.web.send("POST", f"/api/v1/tasks/{task}/cancel", {"Content-Type": kind} if kind else {}, "{}")
        for kind in (*WRONG_TYPES, FORM)
        if kind != JSON
    }
    assert not not_refused(calls, 415)
    assert everything(office.database) == before


def test_a_foreign_host_sees_and_changes_nothing(office: Office, figure: Figures) -> None:
    """DNS rebinding: the attacker's name leads to this server, so that its pages are of the same origin."""
    task = office.later()
    key = office.web.get(f"/tasks/{task}").form_key
    before = everything(office.database)
    answers = {}
    for given in HOSTS:
        host = filled(given, office.web)
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        for path in ("/", "/tasks", f"/tasks/{task}", "/api/v1/tasks", f"/tasks/{task}/log.txt", "/livez", "/sign-in"):
            answers[f"{host} {path}"] = office.web.get(path, {"Host": host})
        answers[f"{host} form"] = office.web.form(f"/tasks/{task}/cancel", {"form_key": key}, own)
        answers[f"{host} API"] = office.web.send("POST", f"/api/v1/tasks/{task}/kill", own | {"Content-Type": JSON})
    right = ("Host", office.web.host)
    for hosts in ([right, ("Host", "evil.example")], [("Host", "evil.example"), right], [right, right]):
        answers[f"{hosts} GET"] = office.web.send("GET", "/api/v1/tasks", hosts)
        answers[f"{hosts} POST"] = office.web.send(
            "POST", f"/api/v1/tasks/{task}/kill", [*hosts, ("Content-Type", JSON)]
        )
    assert not not_refused(answers, 400)
    assert not [asked for asked, answer in answers.items() if b"secret word" in answer.body or b"lines" in answer.body]
    figure(
        "F30",
        f"changes by {len(answers)} requests to foreign hosts",
        everything(office.database) != before,
        "",
        exactly=0,
    )
    known = {
        host: office.web.get("/api/v1/tasks?limit=1", {"Host": host}) for host in ("localhost", "[::1]:1", "10.0.0.1")
    }
    assert not not_refused(known, 200)


def test_a_target_with_a_host_of_its_own_changes_nothing(office: Office) -> None:
    task = office.later()
    before = everything(office.database)
    targets = (
        "http://evil.example",
        office.web.origin,
        "//evil.example",
        f"https://{office.web.host}",
        "evil.example:80",
    )
    headers = {"Content-Type": JSON}
    posts = {one: office.web.send("POST", f"{one}/api/v1/tasks/{task}/kill", headers) for one in targets}
    gets = {f"GET {one}": office.web.get(f"{one}/api/v1/tasks/{task}") for one in targets}
    assert not not_refused(posts | gets, 400, 403, 404)
    assert not [asked for asked, answer in gets.items() if b"secret word" in answer.body]
    assert everything(office.database) == before


def test_headers_of_a_proxy_that_is_not_there_are_ignored(office: Office) -> None:
    task = office.later()
    seen = office.web.get(f"/tasks/{task}/", FORWARDED)
    assert seen.headers.get("location", office.web.origin).startswith(office.web.origin)
    told = office.web.send(
        "POST", f"/api/v1/tasks/{task}/cancel", FORWARDED | {"Content-Type": JSON, "Origin": "http://evil.example"}
    )
    assert told.status == 403
    assert office.status(task) == "scheduled"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_lead_here_and_load_nothing(office: Office, logged: str, site: str) -> None:
    """A picture whose address is a search would keep this machine busy for whoever looks at a page anywhere."""
    loads = (
        ("no-cors", "image"),
        ("cors", "empty"),
        ("navigate", "iframe"),
        ("no-cors", "script"),
        ("websocket", "empty"),
    )
    headers = [{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest} for mode, dest in loads]
    paths = ("/tasks", f"/tasks/{logged}?grep=a", f"/api/v1/tasks/{logged}/log?grep=a", f"/tasks/{logged}/log.txt")
    answers = {f"{path} {said}": office.web.get(path, said) for path in paths for said in headers}
    assert not not_refused(answers, 403)
    visit = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert office.web.get("/tasks", visit).status == 200


def test_every_answer_has_the_strict_policy(office: Office, logged: str) -> None:
    paths = (
        "/", "/tasks", f"/tasks/{logged}", f"/tasks/{logged}/log.txt", f"/tasks/{logged}/log.ndjson.gz", "/nothing",
        "/sign-in", "/livez", "/static/style.css", "/static/nothing", "/api/v1/tasks", f"/api/v1/tasks/{logged}/log",
        f"/api/v1/tasks/{logged}/log?raw=1", "/api/v1/nothing", "/tasks?nothing=1", "/tasks/nothing",
    )  # fmt: skip
    answers = {path: office.web.get(path) for path in paths}
    answers |= {"POST": office.web.send("POST", "/tasks"), "host": office.web.get("/", {"Host": "evil.example"})}
    for asked, answer in answers.items():
        policy = dict(one.strip().split(" ", 1) for one in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'", asked
        assert policy["script-src"] == "'self'", asked
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'", asked
        assert policy["form-action"] == "'self'", asked
        assert "unsafe" not in answer.headers["content-security-policy"], asked
        assert answer.headers["x-content-type-options"] == "nosniff", asked
        assert answer.headers["cache-control"] == "no-store", asked
        assert "access-control-allow-origin" not in answer.headers, asked
        assert "server" not in answer.headers, asked


# --- F31: without a token, or with less than one --------------------------------------------------------------------


@dataclass
class Guarded(Office):
    """tokens: secrets by name."""

    tokens: dict[str, str]

    def add(self, name: str, *options: str) -> str:
        self.tokens[name] = self.fleet.cli("token", "add", name, *options).stdout.strip()
        return self.tokens[name]


@pytest.fixture(scope="module")
def guarded(make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], jobs: Path) -> Iterator[Guarded]:
    with make_fleet(jobs=jobs) as fleet, serving(fleet, log_level="trace") as web:
        made = Guarded(fleet, web, mongo_client[fleet.settings["database"]], {})
        made.add("writer")
        made.add("reader", "--read-only")
        yield made


Send = Callable[[str, str], Answer]
Where = tuple[str, str]  # method, path


def routes(fleet: Fleet) -> list[Where]:
    """Every method and path that the application has, its own files apart."""
    found: list[Where] = []
    for one in create(fleet.client, local=True).routes:
        if isinstance(one, Mount):
            assert one.path == "/static", "files of another folder are served"
            continue
        assert isinstance(one, Route), f"{one} is of a kind that nothing here looks at"
        found += [(method, one.path) for method in one.methods or ()]
    return found


def changing(found: Iterable[Where]) -> list[Where]:
    return [(method, path) for method, path in found if method not in ("GET", "HEAD")]


def let_in(found: Iterable[Where], send: Send, exempt: set[str]) -> list[str]:
    """The routes that did not refuse: 401 and 403, or the way to the sign-in page."""
    wrong = []
    for method, path in found:
        answer = send(method, path)
        away = answer.status == 303 and answer.headers.get("location") == "/sign-in"
        if path not in exempt and not (answer.status in (401, 403) or away):
            wrong.append(f"{method} {path} -> {answer.status}")
    return wrong


def with_headers(guarded: Guarded, task: str, headers: Mapping[str, str], form: str = "") -> Send:
    """A well-formed request to any route, as a program below /api and as a form of ours elsewhere."""

    def send(method: str, path: str) -> Answer:
        target = path.format(task=task)
        api = path.startswith("/api/")
        own = {"Content-Type": JSON} if api else {"Content-Type": FORM, "Origin": guarded.web.origin}
        if method in ("GET", "HEAD"):
            return guarded.web.send(method, target, headers)
        body = ('{"job":"lines"}' if path == "/api/v1/tasks" else "") if api else form
        return guarded.web.send(method, target, {**own, **headers}, body)

    return send


def test_the_checker_of_routes_goes_red(guarded: Guarded) -> None:
    """A route that somebody adds and nobody protects, reading or changing."""

    def unprotected(method: str, path: str) -> Answer:
        return Answer(200 if path == "/api/v1/new" else 401, {}, b"", 0.0)

    known = routes(guarded.fleet)
    assert not let_in(known, unprotected, READ_BY_ANYBODY)
    assert let_in([*known, ("POST", "/api/v1/new")], unprotected, READ_BY_ANYBODY) == ["POST /api/v1/new -> 200"]
    assert let_in([("GET", "/api/v1/new")], unprotected, READ_BY_ANYBODY)
    elsewhere = Answer(303, {"location": "/tasks"}, b"", 0.0)
    assert let_in([("POST", "/x")], lambda *_: elsewhere, set())


def test_the_routes_that_change_something_are_all_known(guarded: Guarded) -> None:
    """Ten ways; each is tried below with every kind of wrong token."""
    found = changing(routes(guarded.fleet))
    assert {("POST", "/tasks/{task}/cancel"), ("DELETE", "/api/v1/tasks/{task}"), ("POST", "/api/v1/tasks")} <= set(
        found
    )
    assert len(found) >= 10


def test_nobody_gets_in_without_a_good_token(guarded: Guarded, figure: Figures) -> None:
    task = guarded.later()
    over, gone = guarded.add("over", "--expires", "1h"), guarded.add("gone")
    cookies = {name: guarded.web.sign_in(guarded.tokens[name]) for name in ("over", "gone", "writer")}
    ended = guarded.web.sign_in(guarded.tokens["writer"])
    assert guarded.web.call("GET", "/tasks", over).status == guarded.web.call("GET", "/tasks", gone).status == 200
    assert all(guarded.web.get("/tasks", {"Cookie": cookie}).status == 200 for cookie in cookies.values())
    long_ago = guarded.database.tokens.find_one({"_id": "over"})["created_at"].replace(year=2001)
    guarded.database.tokens.update_one({"_id": "over"}, {"$set": {"expires_at": long_ago}})
    guarded.fleet.cli("token", "rm", "gone")
    page = guarded.web.get("/tasks", {"Cookie": ended})
    assert guarded.web.form("/sign-out", {"form_key": page.form_key}, {"Cookie": ended}).status == 303

    writer = guarded.tokens["writer"]
    session = cookies["writer"].partition("=")[2]
    nobody = {
        "no token": {},
        "a wrong token": {"Authorization": f"Bearer slot_{'x' * 43}"},
        "an expired token": {"Authorization": f"Bearer {over}"},
        "a removed token": {"Authorization": f"Bearer {gone}"},
        "a part of a token": {"Authorization": f"Bearer {writer[:-1]}"},
        "another case": {"Authorization": f"Bearer {writer.swapcase()}"},
        "no secret": {"Authorization": "Bearer"},
        "no scheme": {"Authorization": writer},
        "another scheme": {"Authorization": f"Basic {writer}"},
        "a name": {"Authorization": "Bearer writer"},
        "an operator": {"Authorization": 'Bearer {"$ne": null}'},
        "a long one": {"Authorization": f"Bearer {'x' * 20_000}"},
        "bytes": {"Authorization": "Bearer \xff\xfe"},
        "a session as a token": {"Authorization": f"Bearer {session}"},
        "a token as a session": {"Cookie": f"slotsched={writer}"},
        "an expired token's session": {"Cookie": cookies["over"]},
        "a removed token's session": {"Cookie": cookies["gone"]},
        "a session that was ended": {"Cookie": ended},
        "a wrong session": {"Cookie": f"slotsched={'x' * 43}"},
        "an empty session": {"Cookie": "slotsched="},
        "the hash of a session": {
            "Cookie": f"slotsched={guarded.database.tokens.find_one({'parent': 'writer'})['hash']}"
        },
        "the hash of a token": {
            "Authorization": f"Bearer {guarded.database.tokens.find_one({'_id': 'writer'})['hash']}"
        },
    }
    found, before = routes(guarded.fleet), everything(guarded.database)
    seen = {
        what: let_in(found, with_headers(guarded, task, headers), READ_BY_ANYBODY) for what, headers in nobody.items()
    }
    assert {what: wrong for what, wrong in seen.items() if wrong} == {}
    asked = guarded.web.get(f"/api/v1/tasks?token={writer}")
    assert asked.status == 401, "a token in an address ends in the logs of proxies"
    assert asked.headers["www-authenticate"].startswith("Bearer")
    assert everything(guarded.database) == before
    figure(
        "F31",
        f"answers beyond a refusal to {len(nobody)} wrong tokens at {len(found)} routes",
        sum(map(len, seen.values())),
        "",
        exactly=0,
    )


def test_a_session_ends_by_the_clock(guarded: Guarded) -> None:
    cookie = guarded.web.sign_in(guarded.tokens["writer"])
    assert guarded.web.get("/tasks", {"Cookie": cookie}).status == 200
    sessions = {"parent": {"$exists": True}}
    guarded.database.tokens.update_many(sessions, [{"$set": {"expires_at": {"$toDate": 1_000_000_000_000}}}])
    assert guarded.web.get("/tasks", {"Cookie": cookie}).status == 303
    guarded.database.tokens.delete_many(sessions)  # or the server does, in the middle of another test


def test_a_token_that_may_look_changes_nothing(guarded: Guarded, figure: Figures) -> None:
    """At any route of the application, by its token or its session with the right form key."""
    open_task, ended = guarded.later(), guarded.later()
    guarded.fleet.client.cancel(ended)
    token = {"Authorization": f"Bearer {guarded.tokens['reader']}"}
    session = {"Cookie": guarded.web.sign_in(guarded.tokens["reader"])}
    page = guarded.web.get(f"/tasks/{open_task}", session)
    assert page.status == 200
    assert "/cancel" not in page.text
    form = f"form_key={page.form_key}"
    found = [one for one in changing(routes(guarded.fleet)) if one[1] not in CHANGED_BY_ANYBODY | OF_ONES_OWN_SESSION]
    before, answers = everything(guarded.database), {}
    for task in (open_task, ended):
        for method, path in found:
            headers = token if path.startswith("/api/") else session
            answers[f"{method} {path} {task}"] = with_headers(guarded, task, headers, form)(method, path)
    assert not not_refused(answers, 403)
    assert all(b"may look, and change nothing" in answer.body for answer in answers.values())
    assert guarded.web.get(f"/api/v1/tasks/{open_task}", token).status == 200
    figure(
        "F31",
        f"changes by {len(answers)} requests that may only look",
        everything(guarded.database) != before,
        "",
        exactly=0,
    )


def test_a_whole_token_changes_something_at_each_of_these_routes(guarded: Guarded) -> None:
    """Or the test before this one would prove nothing."""
    token = {"Authorization": f"Bearer {guarded.tokens['writer']}"}
    session = {"Cookie": guarded.web.sign_in(guarded.tokens["writer"])}
    form = f"form_key={guarded.web.get('/tasks', session).form_key}"
    for method, path in changing(routes(guarded.fleet)):
        if path in CHANGED_BY_ANYBODY | OF_ONES_OWN_SESSION:
            continue
        task = guarded.later()
        if path.endswith(("/retry", "/remove")) or method == "DELETE":
            guarded.fleet.client.cancel(task)
        before = everything(guarded.database)
        answer = with_headers(guarded, task, token if path.startswith("/api/") else session, form)(method, path)
        assert answer.status in (200, 201, 204, 303), f"{method} {path}: {answer.status} {answer.text}"
        assert everything(guarded.database) != before, f"{method} {path}"


def test_another_sessions_form_key_is_refused(guarded: Guarded) -> None:
    task = guarded.later()
    one, other = (guarded.web.sign_in(guarded.tokens["writer"]) for _ in range(2))
    key = guarded.web.get("/tasks", {"Cookie": other}).form_key
    assert guarded.web.form(f"/tasks/{task}/cancel", {"form_key": key}, {"Cookie": one}).status == 403
    assert guarded.status(task) == "scheduled"
    assert guarded.web.form(f"/tasks/{task}/cancel", {"form_key": key}, {"Cookie": other}).status == 303


def test_the_cookie_is_for_this_server_and_no_script(guarded: Guarded) -> None:
    answer = guarded.web.form("/sign-in", {"token": guarded.tokens["writer"]})
    cookie = SimpleCookie(answer.headers["set-cookie"])["slotsched"]
    assert cookie["httponly"] is True
    assert cookie["samesite"].lower() in ("lax", "strict")
    assert cookie["path"] == "/"
    assert cookie["domain"] == ""
    assert 0 < int(cookie["max-age"]) <= 12 * 3600
    assert len(cookie.value) >= 43
    assert guarded.tokens["writer"] not in answer.headers["set-cookie"]


def test_the_owner_is_who_has_the_token(guarded: Guarded) -> None:
    """Whatever a caller says of itself."""
    writer = guarded.tokens["writer"]
    made = guarded.web.call("POST", "/tasks", writer, {"job": "lines", "in": "1h"})
    assert guarded.web.call("GET", f"/tasks/{made.json['id']}", writer).json["owner"] == "writer"
    assert guarded.web.call("POST", "/tasks", writer, {"job": "lines", "owner": "root"}).status == 400
    assert guarded.web.call("POST", "/tasks", writer, [{"job": "lines", "owner": "root"}]).status == 400


def leaked(secrets: Iterable[str], places: Mapping[str, bytes]) -> list[str]:
    """Where one of the secrets stands."""
    return [
        f"{secret[:9]}... in {where}" for where, data in places.items() for secret in secrets if secret.encode() in data
    ]


def test_no_secret_is_in_a_log_or_the_database(guarded: Guarded, figure: Figures) -> None:
    secrets = [*guarded.tokens.values(), guarded.web.sign_in(guarded.tokens["writer"]).partition("=")[2]]
    for secret in secrets:  # wherever a caller may put one
        guarded.web.get(f"/tasks/{secret}?grep={secret}", {"Authorization": f"Bearer {secret}", "X": secret})
        guarded.web.form("/sign-in", {"token": secret, "more": secret})
        guarded.web.send("POST", "/api/v1/tasks", {"Content-Type": JSON, "Authorization": f"Bearer {secret}"}, "{")
    assert guarded.fleet.cli("token", "ls", "-o", "json").returncode == 0
    places = {path.name: path.read_bytes() for path in guarded.fleet.folder.rglob("*") if path.is_file()}
    for name in guarded.database.list_collection_names():
        places[name] = b"".join(bson.encode(one) for one in guarded.database[name].find())
    assert {"web.log", "web.err", "tokens", "tasks"} <= set(places)
    assert leaked([guarded.tokens["writer"]], places | {"seen": f"token={guarded.tokens['writer']}".encode()}), (
        "the checker"
    )
    figure("F31", f"secrets in {len(places)} logs, files and collections", len(leaked(secrets, places)), "", exactly=0)


def test_it_is_open_only_on_this_machine_and_only_until_a_token_is_made(make_fleet: FleetMaker, jobs: Path) -> None:
    with make_fleet(jobs=jobs) as fleet:
        for everywhere in ("0.0.0.0:0", "[::]:0"):
            refused = fleet.cli("web", "--web-listen", everywhere, check=False)
            assert refused.returncode == contract.EXIT_REFUSED
            assert "slotsched token add" in refused.stderr
            assert "Traceback" not in refused.stderr
        with serving(fleet) as web:
            assert web.get("/tasks").status == web.call("GET", "/tasks").status == 200
            fleet.cli("token", "add", "first", "--expires", "1s")
            assert web.get("/tasks").status == 303
            assert web.call("GET", "/tasks").status == 401
            until(lambda: b"expired" in fleet.cli("token", "ls").stdout.encode(), what="the token to expire")
            assert web.call("GET", "/tasks").status == 401, "an expired token opened the door again"
        with serving(fleet, listen="0.0.0.0:0") as web:
            assert web.call("GET", "/tasks").status == 401
            fleet.cli("token", "rm", "first", "--yes")
            assert web.call("GET", "/tasks").status == 401, "removing the last token opened it to everybody"
            assert web.get("/tasks").status == 303
