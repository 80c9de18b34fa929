"""F30: what pages of other sites, and names that are made to lead here, get from the web face: nothing.

Requests say of themselves what a browser would; what they did is judged from the database, behind the web face's back.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from figures import Figures
from web_office import Office, everything, not_refused
from web_user import FORM, JSON, Web, serving

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


def test_a_form_from_any_other_page_is_not_carried_out(attacked: Office, figure: Figures) -> None:
    """With the right form key, as if it had leaked: the origin alone refuses it."""
    task = attacked.later()
    key = attacked.web.get(f"/tasks/{task}").form_key
    before = everything(attacked.database)
    answers = {}
    for what, said in FOREIGN_PAGES.items():
        headers = {name: filled(value, attacked.web) for name, value in said.items()}
        for action in ("cancel", "kill", "retry", "remove"):
            answers[f"{what} {action}"] = attacked.web.form(f"/tasks/{task}/{action}", {"form_key": key}, headers)
        bare = {name: value for name, value in headers.items() if value}
        as_json = {"Content-Type": JSON} | bare
        for method, path in (("POST", f"/{task}/cancel"), ("POST", f"/{task}/kill"), ("DELETE", f"/{task}")):
            answers[f"{what} API {method} {path}"] = attacked.web.send(method, f"/api/v1/tasks{path}", as_json)
        answers[f"{what} API DELETE without a type"] = attacked.web.send("DELETE", f"/api/v1/tasks/{task}", bare)
        answers[f"{what} API"] = attacked.web.send("POST", "/api/v1/tasks", as_json, '{"job":"lines"}')
        answers[f"{what} sign-in"] = attacked.web.form("/sign-in", {"token": "x"}, headers)
    assert not not_refused(answers, 403)
    changes = sum(
        one != other for one, other in zip(everything(attacked.database).values(), before.values(), strict=True)
    )
    figure("F30", f"changes by {len(answers)} requests of foreign pages", changes, "", exactly=0)


def test_the_same_form_from_a_page_of_ours_is_carried_out(attacked: Office) -> None:
    task = attacked.later()
    before = everything(attacked.database)
    answer = attacked.web.form(f"/tasks/{task}/cancel", {"form_key": attacked.web.get(f"/tasks/{task}").form_key})
    assert answer.status == 303
    assert attacked.status(task) == "canceled"
    assert everything(attacked.database) != before


def test_a_form_without_the_key_of_this_session_is_not_carried_out(attacked: Office) -> None:
    task = attacked.later()
    key = attacked.web.get(f"/tasks/{task}").form_key
    before = everything(attacked.database)
    forms: dict[str, dict[str, str]] = {
        "none": {}, "empty": {"form_key": ""}, "wrong": {"form_key": "0" * 64}, "cut": {"form_key": key[:-1]},
        "longer": {"form_key": key + "0"}, "upper case": {"form_key": key.upper()},
        "not ASCII": {"form_key": "é\ud7ff"}, "another name": {"key": key}, "an operator": {"form_key[$ne]": "x"},
    }  # fmt: skip
    answers = {what: attacked.web.form(f"/tasks/{task}/cancel", form) for what, form in forms.items()}
    assert not not_refused(answers, 403)
    with serving(attacked.fleet, name="second") as other:
        foreign = other.get(f"/tasks/{task}").form_key
    assert attacked.web.form(f"/tasks/{task}/cancel", {"form_key": foreign}).status == 403, "another process's"
    kinds = {
        kind: attacked.web.form(f"/tasks/{task}/cancel", {"form_key": key}, {"Content-Type": kind})
        for kind in WRONG_TYPES
    }
    assert not not_refused(kinds, 415)
    calls = {
        kind: attacked.web.send("POST", f"/api/v1/tasks/{task}/cancel", {"Content-Type": kind} if kind else {}, "{}")
        for kind in (*WRONG_TYPES, FORM)
        if kind != JSON
    }
    assert not not_refused(calls, 415)
    assert everything(attacked.database) == before


def test_a_foreign_host_sees_and_changes_nothing(attacked: Office, figure: Figures) -> None:
    """DNS rebinding: the attacker's name leads to this server, so that its pages are of the same origin."""
    task = attacked.later()
    key = attacked.web.get(f"/tasks/{task}").form_key
    before = everything(attacked.database)
    answers = {}
    for given in HOSTS:
        host = filled(given, attacked.web)
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        for path in ("/", "/tasks", f"/tasks/{task}", "/api/v1/tasks", f"/tasks/{task}/log.txt", "/livez", "/sign-in"):
            answers[f"{host} {path}"] = attacked.web.get(path, {"Host": host})
        answers[f"{host} form"] = attacked.web.form(f"/tasks/{task}/cancel", {"form_key": key}, own)
        answers[f"{host} API"] = attacked.web.send("POST", f"/api/v1/tasks/{task}/kill", own | {"Content-Type": JSON})
    right = ("Host", attacked.web.host)
    for hosts in ([right, ("Host", "evil.example")], [("Host", "evil.example"), right], [right, right]):
        answers[f"{hosts} GET"] = attacked.web.send("GET", "/api/v1/tasks", hosts)
        answers[f"{hosts} POST"] = attacked.web.send(
            "POST", f"/api/v1/tasks/{task}/kill", [*hosts, ("Content-Type", JSON)]
        )
    assert not not_refused(answers, 400)
    assert not [asked for asked, answer in answers.items() if b"secret word" in answer.body or b"lines" in answer.body]
    figure(
        "F30",
        f"changes by {len(answers)} requests to foreign hosts",
        everything(attacked.database) != before,
        "",
        exactly=0,
    )
    known = {
        host: attacked.web.get("/api/v1/tasks?limit=1", {"Host": host}) for host in ("localhost", "[::1]:1", "10.0.0.1")
    }
    assert not not_refused(known, 200)


def test_a_target_with_a_host_of_its_own_changes_nothing(attacked: Office) -> None:
    task = attacked.later()
    before = everything(attacked.database)
    targets = (
        "http://evil.example",
        attacked.web.origin,
        "//evil.example",
        f"https://{attacked.web.host}",
        "evil.example:80",
    )
    headers = {"Content-Type": JSON}
    posts = {one: attacked.web.send("POST", f"{one}/api/v1/tasks/{task}/kill", headers) for one in targets}
    gets = {f"GET {one}": attacked.web.get(f"{one}/api/v1/tasks/{task}") for one in targets}
    assert not not_refused(posts | gets, 400, 403, 404)
    assert not [asked for asked, answer in gets.items() if b"secret word" in answer.body]
    assert everything(attacked.database) == before


def test_headers_of_a_proxy_that_is_not_there_are_ignored(attacked: Office) -> None:
    task = attacked.later()
    seen = attacked.web.get(f"/tasks/{task}/", FORWARDED)
    assert seen.headers.get("location", attacked.web.origin).startswith(attacked.web.origin)
    told = attacked.web.send(
        "POST", f"/api/v1/tasks/{task}/cancel", FORWARDED | {"Content-Type": JSON, "Origin": "http://evil.example"}
    )
    assert told.status == 403
    assert attacked.status(task) == "scheduled"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_lead_here_and_load_nothing(attacked: Office, logged_task: str, site: str) -> None:
    """A picture whose address is a search would keep this machine busy for whoever looks at a page anywhere."""
    loads = (
        ("no-cors", "image"),
        ("cors", "empty"),
        ("navigate", "iframe"),
        ("no-cors", "script"),
        ("websocket", "empty"),
    )
    headers = [{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest} for mode, dest in loads]
    paths = (
        "/tasks",
        f"/tasks/{logged_task}?grep=a",
        f"/api/v1/tasks/{logged_task}/log?grep=a",
        f"/tasks/{logged_task}/log.txt",
    )
    answers = {f"{path} {said}": attacked.web.get(path, said) for path in paths for said in headers}
    assert not not_refused(answers, 403)
    visit = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert attacked.web.get("/tasks", visit).status == 200


def test_every_answer_has_the_strict_policy(attacked: Office, logged_task: str) -> None:
    task, called = f"/tasks/{logged_task}", f"/api/v1/tasks/{logged_task}"
    paths = (
        "/", "/tasks", task, f"{task}/log.txt", f"{task}/log.ndjson.gz", "/nothing", "/sign-in", "/livez",
        "/static/style.css", "/static/nothing", "/api/v1/tasks", f"{called}/log", f"{called}/log?raw=1",
        "/api/v1/nothing", "/tasks?nothing=1", "/tasks/nothing",
    )  # fmt: skip
    answers = {path: attacked.web.get(path) for path in paths}
    answers |= {"POST": attacked.web.send("POST", "/tasks"), "host": attacked.web.get("/", {"Host": "evil.example"})}
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
