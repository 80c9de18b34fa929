"""`up`: everything on this machine with one command; other terminals find it by themselves."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from cli_user import CLI_JOBS, User
from fleet import Fleet

from slotsched import contract


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
