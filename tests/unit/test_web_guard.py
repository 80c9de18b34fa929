"""Which hosts are answered, which pages may change or load something, and what every answer tells a browser."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from slotsched.web.guard import HEADERS, Guard

HOSTS = ("slots.example", "Machine.Local", "rooted.example.")
Pairs = Sequence[tuple[str, str]]


@dataclass
class Seen:
    """What the guard sent, and whether it let the application see the call."""

    reached: bool = False
    messages: list[Any] = field(default_factory=list)

    @property
    def status(self) -> int:
        status: int = self.messages[0]["status"]
        return status

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}


def ask(headers: Pairs, method: str = "GET", kind: str = "http", own: dict[str, str] | None = None) -> Seen:
    """A call with exactly these headers. own: what the application's answer says of itself."""
    seen = Seen()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.reached = True
        await PlainTextResponse("fine", headers=own)(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.messages.append(message)

    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {"type": kind, "method": method, "path": "/", "query_string": b"", "headers": pairs}
    asyncio.run(Guard(application, hosts=HOSTS)(scope, receive, send))
    return seen


KNOWN = [
    "localhost",
    "localhost:8686",
    "LOCALHOST:1",
    "localhost.",
    "localhost.:8686",
    "127.0.0.1",
    "127.0.0.1:8686",
    "10.1.2.3:80",
    "[::1]",
    "[::1]:8686",
    "[FE80::1]:65535",
    "[::ffff:127.0.0.1]:1",
    "slots.example",
    "SLOTS.example:443",
    "slots.example.",
    "machine.local",
    "MACHINE.LOCAL.:5",
    "rooted.example",
    "rooted.example.",
]
FOREIGN = [
    "",
    " ",
    ":8686",
    "evil.example",
    "evil.example:8686",
    "localhost.evil.example",
    "notlocalhost",
    "sub.slots.example",
    "slots.example.evil",
    "localhost:",
    "localhost:x",
    "localhost:123456",
    "localhost:1:2",
    "localhost/",
    "localhost/@evil.example",
    "user@localhost",
    "localhost@evil.example",
    "evil.example@localhost:8686",
    "evil.example#localhost",
    "evil.example?localhost",
    "http://localhost",
    "localhost evil.example",
    "localhost,evil.example",
    "localhost\t",
    "127.0.0.1.evil.example",
    "127.0.0.1.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.256",
    "::1",
    "[::1",
    "::1]",
    "[]",
    "[::1%eth0]",
    "[::1]x",
    "[::1]:",
    "[localhost]",
    "[evil.example]",
    "lo\xe7alhost",
    "localhost\x00",
    "*",
    "localhost:\xb2",
]


@pytest.mark.parametrize("host", KNOWN)
def test_a_known_name_and_every_address_is_answered(host: str) -> None:
    seen = ask([("Host", host)])
    assert (seen.status, seen.reached) == (200, True)


@pytest.mark.parametrize("host", FOREIGN)
def test_another_host_is_told_which_setting_allows_names_and_nothing_else(host: str) -> None:
    seen = ask([("Host", host)])
    assert (seen.status, seen.reached) == (400, False)
    body = b"".join(message.get("body", b"") for message in seen.messages)
    assert b"web_hosts" in body


@pytest.mark.parametrize(
    "headers",
    [[], [("Host", "localhost"), ("Host", "localhost")], [("Host", "localhost"), ("Host", "evil.example")]],
    ids=["none", "the same twice", "two"],
)
def test_one_host_has_to_be_named(headers: Pairs) -> None:
    seen = ask(headers)
    assert (seen.status, seen.reached) == (400, False)


def test_a_forwarded_host_does_not_count() -> None:
    assert not ask([("Host", "evil.example"), ("X-Forwarded-Host", "localhost")]).reached
    assert ask([("Host", "localhost"), ("X-Forwarded-Host", "evil.example")]).reached


# --- who sends --------------------------------------------------------------------------------------
OURS: dict[str, Pairs] = {
    "a program": [("Host", "localhost:8686")],
    "our page": [
        ("Host", "localhost:8686"), ("Origin", "http://localhost:8686"), ("Sec-Fetch-Site", "same-origin"),
    ],
    "our page behind TLS": [("Host", "slots.example"), ("Origin", "https://slots.example")],
    "our page, its host in other letters": [("Host", "SLOTS.example"), ("Origin", "http://Slots.Example")],
    "our page at an address": [("Host", "[::1]:8686"), ("Origin", "http://[::1]:8686")],
    "typed by hand": [("Host", "localhost"), ("Sec-Fetch-Site", "none")],
}  # fmt: skip
THEIRS: dict[str, Pairs] = {
    "another site": [("Origin", "https://evil.example")],
    "another port": [("Origin", "http://localhost:1")],
    "no port": [("Origin", "http://localhost")],
    "another name of this machine": [("Origin", "http://127.0.0.1:8686")],
    "another scheme": [("Origin", "ftp://localhost:8686")],
    "no scheme": [("Origin", "localhost:8686")],
    "nothing": [("Origin", "")],
    "a file or a sandbox": [("Origin", "null")],
    "ours as its user": [("Origin", "http://localhost:8686@evil.example")],
    "ours as its beginning": [("Origin", "http://localhost:8686.evil.example")],
    "ours as its path": [("Origin", "http://evil.example/localhost:8686")],
    "two": [("Origin", "http://localhost:8686, https://evil.example")],
    "ours with a slash": [("Origin", "http://localhost:8686/")],
    "cross-site": [("Sec-Fetch-Site", "cross-site")],
    "same-site": [("Sec-Fetch-Site", "same-site")],
    "a site unheard of": [("Sec-Fetch-Site", "")],
    "ours, says one of two": [("Origin", "http://localhost:8686"), ("Sec-Fetch-Site", "cross-site")],
}
CHANGING = ["POST", "DELETE", "PUT", "PATCH", "OPTIONS", "post", "ANYTHING"]


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("who", OURS)
def test_a_change_by_a_page_of_ours_or_by_a_program_is_let_through(who: str, method: str) -> None:
    assert ask(OURS[who], method).reached


@pytest.mark.parametrize("method", CHANGING)
@pytest.mark.parametrize("who", THEIRS)
def test_a_change_by_a_page_of_another_site_is_not_carried_out(who: str, method: str) -> None:
    seen = ask([("Host", "localhost:8686"), *THEIRS[who]], method)
    assert (seen.status, seen.reached) == (403, False)
    assert "access-control-allow-origin" not in seen.headers


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_link_leads_here_and_its_page_loads_nothing(site: str, method: str) -> None:
    here = [("Host", "localhost"), ("Sec-Fetch-Site", site)]
    link = [("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    assert ask([*here, *link], method).reached
    for mode, destination in (("navigate", "iframe"), ("no-cors", "script"), ("cors", "empty"), ("no-cors", "image")):
        seen = ask([*here, ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", destination)], method)
        assert (seen.status, seen.reached) == (403, False), destination
    assert not ask(here, method).reached


# --- what a browser is told -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "method", "status"),
    [
        ([("Host", "localhost")], "GET", 200),
        ([("Host", "evil.example")], "GET", 400),
        ([("Host", "localhost"), ("Origin", "null")], "POST", 403),
    ],
    ids=["an answer", "a foreign host", "a foreign page"],
)
def test_every_answer_has_the_headers_that_bind_a_browser(headers: Pairs, method: str, status: int) -> None:
    seen = ask(headers, method)
    assert seen.status == status
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= seen.headers.items()


def test_an_answer_may_say_otherwise_of_itself_and_says_it_once() -> None:
    seen = ask([("Host", "localhost")], own={"Cache-Control": "private"})
    names = [name for name, _ in seen.messages[0]["headers"]]
    assert seen.headers["cache-control"] == "private"
    assert len(names) == len(set(names))


def test_nothing_but_http_is_spoken() -> None:
    seen = ask([("Host", "localhost")], kind="websocket")
    assert (seen.reached, seen.messages) == (False, [])
