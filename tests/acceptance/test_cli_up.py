"""`up`: everything on this machine with one command; other terminals find it by themselves."""

from __future__ import annotations

import os
import signal
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
