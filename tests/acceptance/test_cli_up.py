"""`up`: everything on this machine with one command; other terminals find it by themselves."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from cli_user import CLI_JOBS, User
from fleet import Fleet, until

from slotsched import contract
from slotsched.embedded import Mongod


@pytest.fixture
def user(tmp_path: Path) -> User:
    """Somebody who has set nothing at all but where the jobs are."""
    return User(Fleet(tmp_path, {"jobs_dir": str(CLI_JOBS)}, CLI_JOBS))


@pytest.mark.timeout(120)
def test_up_starts_everything_and_the_next_terminal_finds_it(user: User) -> None:
    with user.terminal("up", "--slots", "8", "--name", "here", columns=120) as up:
        up.until("next:", seconds=60)
        up.until("up", seconds=30)
        shown = up.text
        assert "data in " in shown
        assert f"jobs:   {CLI_JOBS}  (" in shown
        assert "slots:  8" in shown
        done = user.run("enqueue", "resize", "folder=/p", "--wait")
        assert done.code == contract.EXIT_OK, done.err
        assert "pictures of /p" in user.ok("logs", "@last")
        up.process.send_signal(signal.SIGINT)
        assert up.end(seconds=60).code == contract.EXIT_OK
    after = user.run("ps", "--store-timeout", "300ms")
    assert after.code == contract.EXIT_STORE_UNREACHABLE
    assert "slotsched up" in after.err


@pytest.mark.timeout(120)
def test_the_pages_are_there_until_it_has_ended_however_that_is(user: User) -> None:
    with user.terminal("up", "--slots", "8", "--web-listen", f"127.0.0.1:{free_port()}", columns=120) as up:
        shown = up.until("listening", seconds=60)
        url = re.search(r"http://127\.0\.0\.1:\d+/", shown)
        assert url is not None
        with urllib.request.urlopen(f"{url[0]}tasks", timeout=10) as answer:
            assert "No task yet" in answer.read().decode()
        up.process.kill()
        up.process.wait(10)
        until(lambda: not answers(url[0]), what="the end of the pages")
    with user.terminal("up", "--slots", "8", "--web-listen", f"127.0.0.1:{free_port()}", columns=120) as up:
        up.until("listening", seconds=60)
        up.process.send_signal(signal.SIGINT)
        assert up.end(seconds=60).code == contract.EXIT_OK


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.timeout(120)
def test_without_its_port_the_pages_are_missing_and_all_else_goes_on(user: User) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with user.terminal("up", "--slots", "8", "--web-listen", where, columns=120) as up:
            up.until(f"cannot listen on {where}", seconds=60)
            assert user.run("enqueue", "resize", "folder=/p", "--wait", seconds=60).code == contract.EXIT_OK
            up.process.send_signal(signal.SIGINT)
            assert up.end(seconds=60).code == contract.EXIT_OK


@pytest.mark.timeout(120)
def test_a_second_up_leaves_the_first_ones_database_alone(user: User) -> None:
    with user.terminal("up", "--slots", "8", columns=120) as up:
        up.until("next:", seconds=60)
        second = user.run("up", seconds=60)
        assert second.code == contract.EXIT_REFUSED
        assert "another scheduler" in second.err
        assert user.run("enqueue", "resize", "folder=/p", "--wait").code == contract.EXIT_OK
        up.process.send_signal(signal.SIGINT)
        assert up.end(seconds=60).code == contract.EXIT_OK


@pytest.mark.timeout(120)
def test_up_starts_its_database_again_when_that_dies(user: User) -> None:
    with user.terminal("up", "--slots", "8", columns=120) as up:
        up.until("next:", seconds=60)
        mongod = Mongod(Path(user.environment()["SLOTSCHED_STATE_DIR"]) / "mongod")
        before = mongod.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        up.until("mongod ended; starting it again", seconds=30)
        until(lambda: mongod.pid not in (None, before), what="another mongod")
        assert user.run("enqueue", "resize", "folder=/p", "--wait", seconds=90).code == contract.EXIT_OK
        up.process.send_signal(signal.SIGINT)
        assert up.end(seconds=60).code == contract.EXIT_OK
    assert mongod.pid is None
