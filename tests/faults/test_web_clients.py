"""F29: what a hostile client gets from the web face is a refusal, at once, and nothing is changed.

Requests go over a socket, well-formed or not; what they did is judged from the database, behind the web face's back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from urllib.parse import quote

import pytest
from figures import Figures
from fleet import until
from web_office import QUICK_SECONDS, Office, everything, not_refused, slowest
from web_user import ANSWER_SECONDS, FORM, JSON, Answer

from slotsched.web.patience import IDLE_SECONDS

BIG = 2**63
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


def test_operators_in_a_query_are_refused_or_are_texts(attacked: Office, figure: Figures) -> None:
    task = attacked.later()
    ask = attacked.web.get
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
def test_a_time_that_no_clock_shows_is_no_defect(attacked: Office, name: str, moment: str) -> None:
    """Refused, or so far away that it leaves all or nothing."""
    for page in ("/tasks", "/api/v1/tasks"):
        assert not not_refused({name: attacked.web.get(f"{page}?{name}={moment}")}, 200, 400)


def test_ids_are_texts(attacked: Office) -> None:
    attacked.later()
    before = everything(attacked.database)
    targets = [quote(one, safe="%$*") for one in IDS]
    answers = {}
    for target in targets:
        for path in (f"/tasks/{target}", f"/api/v1/tasks/{target}", f"/api/v1/tasks/{target}/log"):
            answers[path] = attacked.web.get(path)
        for action in ("cancel", "kill", "retry"):
            path = f"/api/v1/tasks/{target}/{action}"
            answers[f"POST {path}"] = attacked.web.send("POST", path, {"Content-Type": JSON})
        answers[f"DELETE {target}"] = attacked.web.send("DELETE", f"/api/v1/tasks/{target}", {"Content-Type": JSON})
    assert not not_refused(answers, 404)
    assert not [asked for asked, answer in answers.items() if "x-owned" in answer.headers]
    assert everything(attacked.database) == before


def test_bodies_that_are_no_tasks_store_none(attacked: Office, figure: Figures) -> None:
    before = everything(attacked.database)
    headers = {"Content-Type": JSON}
    answers = {
        f"{number} {body[:80]!r}": attacked.web.send("POST", "/api/v1/tasks", headers, body)
        for number, body in enumerate(BODIES)
    }
    assert not not_refused({a: b for a, b in answers.items() if b.status != 404}, 400)
    assert all(b"no job" in answer.body for answer in answers.values() if answer.status == 404)
    for body in FORMS:
        assert attacked.web.send("POST", "/sign-in", {"Content-Type": FORM}, body).status == 400, body
    assert everything(attacked.database) == before
    figure("F29", f"longest answer to {len(BODIES)} hostile bodies", slowest(answers.values()), at_most=QUICK_SECONDS)


def test_a_good_body_is_stored(attacked: Office) -> None:
    """Or the refusals above would prove nothing; texts that look like operators are texts."""
    body = json.dumps({"job": "lines", "in": "1h", "args": {"word": "$where", "items": [{"$ne": None}]}})
    answer = attacked.web.send("POST", "/api/v1/tasks", {"Content-Type": JSON}, body)
    assert answer.status == 201
    assert attacked.fleet.client.get(answer.json["id"]).args == {"word": "$where", "items": [{"$ne": None}]}


def test_what_is_too_large_is_not_read_to_its_end(attacked: Office) -> None:
    task = attacked.later()
    before = everything(attacked.database)
    send = attacked.web.send
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
    long, line = "x" * (1 << 20), f"GET /tasks HTTP/1.1\r\nConnection: close\r\nHost: {attacked.web.host}\r\n"
    heads = {
        "header": f"{line}X: {long}\r\n\r\n",
        "headers": line + "".join(f"X{number}: y\r\n" for number in range(100_000)) + "\r\n",
        "address": f"GET /{long} HTTP/1.1\r\nHost: {attacked.web.host}\r\n\r\n",
        "cookie": f"{line}Cookie: slotsched={long}\r\n\r\n",
        "a head without end": f"{line}X: {long}",
    }
    statuses = {what: attacked.web.raw(head.encode()) for what, head in heads.items()}
    assert {what: status for what, status in statuses.items() if status not in (None, 400, 414, 431)} == {}
    assert everything(attacked.database) == before


def test_requests_that_are_none_are_refused_and_change_nothing(attacked: Office) -> None:
    task = attacked.later()
    before = everything(attacked.database)
    host = f"Host: {attacked.web.host}\r\n"
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
    statuses = {what: attacked.web.raw(data.encode("latin-1"), hang_up=True) for what, data in sent.items()}
    assert {what: status for what, status in statuses.items() if status not in (None, 400, 405, 505)} == {}
    assert everything(attacked.database) == before
    assert attacked.web.raw(f"{cancel}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}".encode()) == 200, (
        "well-formed"
    )
    assert everything(attacked.database) != before


def test_connections_that_say_nothing_are_closed_and_make_room(attacked: Office, figure: Figures) -> None:
    """As many as there may be, in two kinds: nothing at all, and half a request."""
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(attacked.web.address, timeout=10)) for _ in range(300)]
        for connection in silent[::2]:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        assert attacked.web.get("/livez").status == 503, "the checker sees what they do"
        begun = time.monotonic()
        until(lambda: attacked.web.get("/livez").status == 200, seconds=40, what="room for others")
        figure("F29", "room again after 300 silent connections", time.monotonic() - begun, at_most=2 * IDLE_SECONDS)


def test_unknown_methods_do_nothing(attacked: Office) -> None:
    task = attacked.later()
    before = everything(attacked.database)
    targets = ("/tasks", f"/tasks/{task}", f"/tasks/{task}/cancel", f"/api/v1/tasks/{task}", "/static/style.css", "/*")
    known = {("DELETE", f"/api/v1/tasks/{task}"), ("POST", f"/tasks/{task}/cancel")}
    answers = {
        f"{method} {target}": attacked.web.send(method, target)
        for method in METHODS
        for target in targets
        if (method, target) not in known
    }
    answers |= {
        f"GET {action}, {name}": attacked.web.get(f"{base}/tasks/{task}/{action}", {name: "POST"})
        for action in ("cancel", "kill", "retry")
        for base in ("", "/api/v1")
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
    }
    assert not not_refused(answers, 404, 405)
    assert everything(attacked.database) == before


def test_paths_of_files_lead_to_no_file(attacked: Office) -> None:
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
    assert not not_refused({path: attacked.web.get(f"/static/{path}") for path in paths}, 404)
    assert attacked.web.get("/static/style.css").status == 200


def test_patterns_that_cost_too_much_are_refused(attacked: Office, logged_task: str, figure: Figures) -> None:
    answers = {}
    for what, pattern in PATTERNS.items():
        for path in (f"/tasks/{logged_task}", f"/api/v1/tasks/{logged_task}/log"):
            answers[f"{what} {path}"] = attacked.web.get(f"{path}?grep={quote(pattern)}")
    assert not not_refused(answers, 400)
    fine = {one: attacked.web.get(f"/api/v1/tasks/{logged_task}/log?grep={quote(one)}") for one in HARMLESS_PATTERNS}
    assert not not_refused(fine, 200)
    assert b'"' + b"a" * 60 + b'"' in fine["a{60}$"].body
    figure("F29", f"longest answer to {len(answers)} costly patterns", slowest(answers.values()), at_most=QUICK_SECONDS)


def test_others_are_answered_while_catastrophic_patterns_are_searched_for(
    attacked: Office, logged_task: str, figure: Figures
) -> None:
    answers: dict[str, Answer] = {}

    def search(target: str) -> None:
        answers[target] = attacked.web.get(target)

    targets = [
        f"{path}?grep={quote(p)}"
        for p in CATASTROPHES
        for path in (f"/tasks/{logged_task}", f"/api/v1/tasks/{logged_task}/log")
    ]
    threads = [threading.Thread(target=search, args=[target], daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    others = []
    while any(thread.is_alive() for thread in threads):
        others.append(attacked.web.get("/api/v1/tasks?limit=1"))
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


def test_half_a_character_in_a_log_is_shown(attacked: Office, logged_task: str) -> None:
    shown = attacked.web.get(f"/tasks/{logged_task}")
    assert shown.status == 200
    assert "half a pair ?" in shown.text


@pytest.mark.parametrize("body", HUGE_NUMBERS, ids=["a duration", "a size"])
def test_a_number_beyond_all_numbers_is_no_defect(attacked: Office, body: str) -> None:
    answer = attacked.web.send("POST", "/api/v1/tasks", {"Content-Type": JSON}, body)
    assert not not_refused({body: answer}, 400)
