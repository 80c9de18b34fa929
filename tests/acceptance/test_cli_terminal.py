"""What a person sees: colours, widths, bars; on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from cli_user import CLI_JOBS, User

from slotsched import contract


@pytest.fixture(scope="module")
def user(make_fleet) -> Iterator[User]:
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        yield User(fleet)


def test_enqueue_echoes_what_was_understood(user: User) -> None:
    with user.terminal("enqueue", "resize", "folder=/p", "--in", "10m") as terminal:
        done = terminal.end()
    expected = (
        r"task [0-9a-f]{8} scheduled for \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \(in \S+\)  resize  4 slots  max 30m\n"
    )
    assert re.fullmatch(expected, done.out)
    user.ok("cancel", "@last")


def test_follow_shows_a_bar_that_goes_away(user: User) -> None:
    with user.terminal("enqueue", "slow", "steps=9", "--follow", columns=100) as terminal:
        terminal.until("% step")
        assert "━" in terminal.raw
        done = terminal.end()
    assert done.code == contract.EXIT_OK
    assert re.search(r"task [0-9a-f]{8} queued  slow  1 slot  max 1m\n", done.out)
    assert re.search(r"started on big-1, waited \S+", done.out)
    assert re.search(r"completed in \S+\s*$", done.out)
    assert "\x1b[32mcompleted" in terminal.raw


def test_ctrl_c_while_following_says_how_to_rejoin(user: User) -> None:
    with user.terminal("enqueue", "slow", "steps=200", "--follow") as terminal:
        terminal.until("step 1")
        terminal.interrupt()
        done = terminal.end()
    assert done.code == contract.EXIT_INTERRUPTED
    assert re.search(r"the task goes on; rejoin with: slotsched logs -f [0-9a-f]{8}\n$", done.out)
    user.ok("kill", "@last")


@pytest.mark.parametrize("columns", [80, 160])
def test_a_table_fits_the_terminal(user: User, columns: int) -> None:
    task = user.ok("enqueue", "huge", "--slots", "99")
    with user.terminal("ps", columns=columns) as terminal:
        lines = terminal.end().out.splitlines()
    user.ok("cancel", task)
    assert all(len(line) <= columns for line in lines)
    row = next(line for line in lines if line.startswith(task[-8:]))
    assert "no instance that is up" in row
    assert ("largest: big-1, 8)" in row) is (columns == 160)


def test_colours_are_for_terminals_that_want_them(user: User) -> None:
    user.run("enqueue", "backup", "code=3", "--wait")
    for env, colored in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with user.terminal("task", "ls", "--status", "failed", env=env) as terminal:
            terminal.end()
        assert ("\x1b[31mfailed" in terminal.raw) is colored


def test_watch_redraws_and_leaves_the_screen_as_it_was(user: User) -> None:
    task = user.ok("enqueue", "backup", "--in", "1h")
    with user.terminal("ps", "-w") as terminal:
        terminal.until("Ctrl-C ends")
        terminal.until("scheduled")
        user.ok("cancel", task)
        terminal.until("0 tasks")
        terminal.interrupt()
        done = terminal.end()
    assert done.code == contract.EXIT_INTERRUPTED
    assert terminal.raw.startswith("\x1b[?1049h")
    assert terminal.raw.endswith("\x1b[?1049l")


def test_watch_shows_no_more_than_fits_the_lowest_terminal(user: User) -> None:
    tasks = [user.ok("enqueue", "backup", "--in", "1h") for _ in range(3)]
    for height in ("2", "3"):
        with user.terminal("ps", "-w", env={"LINES": height, "COLUMNS": "80"}) as terminal:
            assert "1+ tasks" in terminal.until("tasks")
            terminal.interrupt()
            terminal.end()
    user.ok("cancel", *tasks)


def test_terminal_sequences_in_a_log_do_nothing(user: User) -> None:
    jobs = user.fleet.folder / "evil"
    jobs.mkdir()
    (jobs / "evil.sh").write_text(
        "#!/bin/sh\n# /// script\n# [tool.slotsched]\n# ///\nprintf '\\033]0;owned\\007\\033[2Jhello\\n'\n"
    )
    (jobs / "evil.sh").chmod(0o755)
    with user.terminal("run", "evil", "--jobs-dir", str(jobs)) as terminal:
        terminal.end()
    user.fleet.start("evil-1", slots=1, jobs_dir=str(jobs))
    task = user.run("enqueue", "evil", "--jobs-dir", str(jobs), "--wait").out.strip()
    with user.terminal("logs", task) as terminal:
        done = terminal.end()
    assert "hello" in done.out
    assert "owned" not in terminal.raw
    assert "\x1b[2J" not in terminal.raw


def test_a_bulk_enqueue_says_how_many(user: User) -> None:
    file = user.fleet.folder / "tasks.jsonl"
    file.write_text('{"job": "backup"}\n' * 3000)
    with user.terminal("enqueue", "--from-jsonl", str(file), "--in", "1h") as terminal:
        done = terminal.end()
    assert done.code == contract.EXIT_OK
    assert "enqueue ━" in done.out
    assert re.search(r"3000 tasks queued, [0-9a-f]{8} to [0-9a-f]{8}\n$", done.out)
