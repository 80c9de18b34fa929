"""Telling how a task ended: what a command and an address get, and what is said where they do not take it."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slotsched.model import Status, Task, read_notify
from slotsched.scheduler.notifying import NotTold, post, run_command

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TASK = Task(id="a" * 24, job="dump", args={"n": 1}, status=Status.FAILED, due_at=NOW, created_at=NOW)


@dataclass
class Receiver:
    """A server on the loopback that answers as it is told and keeps what it got."""

    url: str
    answers: list[int] = field(default_factory=list)
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known.got.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(known.answers.pop(0) if known.answers else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = Receiver(url=f"http://127.0.0.1:{server.server_port}/secret-path")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield known
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_command_gets_the_tasks_object_and_none_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    out = tmp_path / "out"
    run_command(["/bin/sh", "-c", f"cat > {out}; env > {out}.env"], TASK)
    assert json.loads(out.read_text()) == TASK.to_object()
    environment = (tmp_path / "out.env").read_text()
    assert f"SLOTSCHED_TASK_ID={TASK.id}\n" in environment
    assert "AWS" not in environment


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/program"], "/no/such/program: .*No such file"),
        (["/bin/sh", "-c", "echo no mailer >&2; exit 3"], "/bin/sh ended with 3: no mailer"),
        (["sleep", "60"], "sleep was not done after 0.2 s"),
    ],
)
def test_a_command_that_does_not_take_it_is_told_of(command: list[str], why: str) -> None:
    with pytest.raises(NotTold, match=why):
        run_command(command, TASK, seconds=0.2 if command[0] == "sleep" else 10)


def test_an_address_gets_the_tasks_object(receiver: Receiver) -> None:
    post(receiver.url, TASK)
    assert receiver.got == [("application/json", TASK.to_object())]


def test_an_address_that_is_not_there_is_tried_again(receiver: Receiver) -> None:
    receiver.answers = [503, 500]
    post(receiver.url, TASK, pauses=(0.01, 0.01))
    assert len(receiver.got) == 3


@pytest.mark.parametrize(("answer", "tries"), [(404, 1), (302, 1), (503, 2)])
def test_an_address_that_refuses_is_told_of_without_its_secret(receiver: Receiver, answer: int, tries: int) -> None:
    receiver.answers = [answer] * 5
    with pytest.raises(NotTold) as refused:
        post(receiver.url, TASK, pauses=(0.01,))
    assert str(refused.value) == f"127.0.0.1 answered {answer}"
    assert len(receiver.got) == tries


def test_nobody_at_the_address_is_told_of() -> None:
    with pytest.raises(NotTold, match=r"^127\.0\.0\.1: .*refused"):
        post("http://127.0.0.1:9/", TASK, pauses=())


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("https://x.org/hook", {"url": "https://x.org/hook", "on": ["failure"]}),
        ({"command": ["mail", "ann"]}, {"command": ["mail", "ann"], "on": ["failure"]}),
        ({"url": "http://x", "on": ["success", "failure"]}, {"url": "http://x", "on": ["success", "failure"]}),
        ({"url": "http://x", "on": "canceled"}, {"url": "http://x", "on": ["canceled"]}),
    ],
)
def test_whom_to_tell_is_an_address_or_a_command(given: Any, read: Any) -> None:
    assert read_notify(given) == read
    assert read_notify(read) == read


@pytest.mark.parametrize(
    "given",
    [
        3,
        "x.org",
        "file:///etc/passwd",
        "http://",
        "http://x y",
        {},
        {"command": []},
        {"command": "ls"},
        {"command": ["a\0"]},
        {"url": "http://x", "command": ["a"]},
        {"url": "http://x", "on": []},
        {"url": "http://x", "to": "y"},
        {"url": "http://x:99999999"},
    ],
)
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_notify(given)
