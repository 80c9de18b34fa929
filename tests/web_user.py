"""A real `slotsched web` for a fleet, and a client that sends exactly what it is told, well-formed or not."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest
from cli_user import CLI_JOBS, User
from fleet import SLOTSCHED, Fleet, FleetMaker, until

from slotsched import contract

if TYPE_CHECKING:
    from playwright.sync_api import Browser

JSON = "application/json"
CHROMIUM = Path("/usr/bin/chromium")
FORM = "application/x-www-form-urlencoded"
ANSWER_SECONDS = 30.0  # no answer takes longer, or the test fails
MOST_ANSWER_BYTES = 64 << 20
MOST_MEMORY_BYTES = 4 << 30  # of address space: what an attack may cost the machine that the tests run on
_FORM_KEY = re.compile(r'name="form_key" value="([0-9a-f]+)"')


@dataclass(frozen=True)
class Answer:
    """headers: names in lower case. seconds: from the first byte sent to the last one received. whole: as announced."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    whole: bool = True

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form_key(self) -> str:
        """What a form of this page carries."""
        found = _FORM_KEY.search(self.text)
        assert found is not None, f"no form on this page: {self.status} {self.text[:500]}"
        return found[1]


@dataclass
class Web:
    """One `slotsched web`. output: its own log."""

    url: str
    process: subprocess.Popen[bytes]
    output: Path
    address: tuple[str, int] = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address = (parts.hostname, parts.port)

    @property
    def host(self) -> str:
        """What a browser sends as `Host`."""
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def origin(self) -> str:
        return f"http://{self.host}"

    def log(self) -> list[dict[str, Any]]:
        """Its own log so far; lines that are no JSON fail."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | str = b"",
        *,
        seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """One request on a connection of its own. `Host` is right unless given; nothing is added but the length."""
        given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        data = body.encode() if isinstance(body, str) else body
        if not any(name.lower() == "host" for name, _ in given):
            given.insert(0, ("Host", self.host))
        begun = time.monotonic()
        connection = http.client.HTTPConnection(*self.address, timeout=seconds)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in given:
                connection.putheader(name, value)
            if data or method not in ("GET", "HEAD"):
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it has all
                connection.send(data)
            response = connection.getresponse()
            whole = True
            try:
                got = response.read(MOST_ANSWER_BYTES)
            except http.client.IncompleteRead as cut:
                got, whole = cut.partial, False
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, got, time.monotonic() - begun, whole)
        finally:
            connection.close()

    def raw(self, data: bytes, *, hang_up: bool = False, seconds: float = ANSWER_SECONDS) -> int | None:
        """The status that these bytes are answered with; None where the connection is closed without a word.

        hang_up: nothing follows, and the server can see that.
        """
        with socket.create_connection(self.address, timeout=seconds) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(data)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    got += piece
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", got)
        return None if found is None else int(found[1])

    def get(self, target: str, headers: Mapping[str, str] | None = None, **how: Any) -> Answer:
        return self.send("GET", target, headers or {}, **how)

    def form(self, target: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Answer:
        """A form sent from a page of ours; headers replace what a browser would say of it, empty ones leave it out."""
        said = {"Content-Type": FORM, "Origin": self.origin, "Sec-Fetch-Site": "same-origin"} | dict(headers or {})
        return self.send(
            "POST", target, {name: value for name, value in said.items() if value or name == "Host"}, urlencode(fields)
        )

    def call(self, method: str, target: str, token: str | None = None, body: Any = None) -> Answer:
        """A program's call of the API."""
        headers = {"Content-Type": JSON} | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.send(method, f"/api/v1{target}", headers, b"" if body is None else json.dumps(body))

    def sign_in(self, token: str) -> str:
        """The `Cookie` header of a new session."""
        answer = self.form("/sign-in", {"token": token})
        assert answer.status == 303, answer.text
        return answer.headers["set-cookie"].partition(";")[0]

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        self.process.terminate()
        return self.process.wait(20)


@contextlib.contextmanager
def serving(fleet: Fleet, *, listen: str = "127.0.0.1:0", name: str = "web", **settings: str) -> Iterator[Web]:
    """A web face of the fleet's database, listening; ended with the block."""
    output = fleet.folder / f"{name}.log"
    extra = {f"SLOTSCHED_{key.upper()}": value for key, value in settings.items()}
    with output.open("wb") as log, (fleet.folder / f"{name}.err").open("wb") as said:
        process = subprocess.Popen(
            [*SLOTSCHED, "web", "--web-listen", listen],
            env=fleet.environment(SLOTSCHED_STATE_DIR=str(fleet.folder / "state-cli"), **extra),
            cwd=fleet.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=said,
        )
    resource.prlimit(process.pid, resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))

    def url() -> str | None:
        assert process.poll() is None, output.with_suffix(".err").read_text()
        whole = [json.loads(line) for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return next((line["url"] for line in whole if line["msg"] == "listening"), None)

    try:
        yield Web(until(url, seconds=30, what="the web face to listen") or "", process, output)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def staffed(make_fleet: FleetMaker) -> Iterator[tuple[User, Web]]:
    """One instance on the command line's jobs, and its web face, which has nothing to warn of and ends as it should."""
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        with serving(fleet) as web:
            yield User(fleet), web
            assert [line for line in web.log() if line["level"] >= contract.LEVEL_WARN] == []
            assert web.stop() == 0


@contextlib.contextmanager
def browsing(*options: str) -> Iterator[Browser]:
    """The machine's own Chromium. One that is missing fails the test in CI, and skips it loudly elsewhere."""
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        missing = f"no {CHROMIUM}: nothing was tried in a real browser"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])
        try:
            yield browser
        finally:
            browser.close()
