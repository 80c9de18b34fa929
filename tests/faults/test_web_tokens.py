"""F31: without a token, or with less than one, nobody gets further than the sign-in page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, until
from starlette.routing import Mount, Route
from web_office import Office, everything, not_refused
from web_user import FORM, JSON, Answer, serving

from slotsched import contract
from slotsched.web.app import create

READ_BY_ANYBODY = {"/sign-in", "/livez", "/readyz"}
CHANGED_BY_ANYBODY = {"/sign-in"}
OF_ONES_OWN_SESSION = {"/sign-out"}


@dataclass
class Guarded(Office):
    """tokens: secrets by name."""

    tokens: dict[str, str]

    def add(self, name: str, *options: str) -> str:
        self.tokens[name] = self.fleet.cli("token", "add", name, *options).stdout.strip()
        return self.tokens[name]


@pytest.fixture(scope="module")
def guarded(
    make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], hostile_jobs: Path
) -> Iterator[Guarded]:
    with make_fleet(jobs=hostile_jobs) as fleet, serving(fleet, log_level="trace") as web:
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


def test_it_is_open_only_on_this_machine_and_only_until_a_token_is_made(
    make_fleet: FleetMaker, hostile_jobs: Path
) -> None:
    with make_fleet(jobs=hostile_jobs) as fleet:
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
