"""`logs`: an attempt's log chosen, rendered, raw, followed."""

from __future__ import annotations

import datetime as dt
import json
import signal
from collections.abc import Iterator

import pytest
from cli_user import CLI_JOBS, User

from slotsched import contract


@pytest.fixture(scope="module")
def user(make_fleet) -> Iterator[User]:
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        yield User(fleet)


@pytest.fixture(scope="module")
def talk(user: User) -> str:
    """A task of two attempts that spoke in two voices on several levels."""
    done = user.run("enqueue", "talk", "--wait")
    assert done.code == contract.EXIT_OK, done.err
    return done.out.strip()


def messages(text: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in text.splitlines()]


def test_a_log_is_shown_with_its_levels_and_fields(user: User, talk: str) -> None:
    shown = messages(user.ok("logs", talk))
    assert "DEBUG quiet word  n=1" in shown
    assert "WARN  to the other" in shown
    assert "\x1b" not in "".join(shown)


def test_levels_and_patterns_choose_lines(user: User, talk: str) -> None:
    assert set(messages(user.ok("logs", talk, "--level", "warn"))) == {"WARN  loud word", "WARN  to the other"}
    assert messages(user.ok("logs", talk, "--grep", "^plain w")) == ["INFO  plain word"]
    assert user.ok("logs", talk, "--grep", "nothing like it") == ""
    assert user.ok("logs", talk, "--attempt", "1", "--grep", r"\bn=1\b").endswith("quiet word  n=1")
    refused = user.run("logs", talk, "--grep", "x" * 1001)
    assert (refused.code, refused.err) == (
        contract.EXIT_USAGE,
        "--grep: the pattern has 1001 characters; 1000 are allowed\n",
    )


def test_the_last_lines(user: User, talk: str) -> None:
    everything = user.ok("logs", talk).splitlines()
    assert user.ok("logs", talk, "-n", "2").splitlines() == everything[-2:]
    assert user.ok("logs", talk, "-n", "0") == ""
    assert messages(user.ok("logs", talk, "-n", "1", "--level", "debug", "--grep", "word")) == ["WARN  loud word"]


def test_raw_gives_the_bytes_of_each_stream(user: User, talk: str) -> None:
    out = user.run("logs", talk, "--raw", "--stream", "stdout").out
    assert out.encode("utf-8", "surrogateescape") == b"raw \xff\x00 bytes, no end"
    assert user.run("logs", talk, "--raw", "--stream", "stderr").out == "to the other\n"


def test_json_is_what_is_stored_one_object_a_line(user: User, talk: str) -> None:
    lines = [json.loads(line) for line in user.ok("logs", talk, "--json").splitlines()]
    assert {"level", "time", "msg"} <= set(lines[0])
    assert any(line.get("n") == 1 for line in lines)


def test_every_attempt_has_its_own_log(user: User, talk: str) -> None:
    assert "quiet word" in user.ok("logs", talk, "--attempt", "1")
    done = user.run("logs", talk, "--attempt", "3")
    assert done.code == contract.EXIT_NOT_FOUND
    assert "no attempt 3 (1, 2)" in done.err


def test_following_shows_lines_while_they_come_and_ends_with_the_task(user: User) -> None:
    task = user.ok("enqueue", "slow", "steps=12")
    with user.start("logs", "-f", task) as process:
        assert process.stdout is not None
        assert "step 0" in process.stdout.readline()
        seen = dt.datetime.now(dt.UTC)
        rest = process.stdout.read()
        process.wait(30)
    assert process.returncode == contract.EXIT_OK
    assert messages(rest) == [f"INFO  step {n}" for n in range(1, 12)]
    assert dt.datetime.fromisoformat(user.json("task", "show", task)["ended_at"]) > seen


@pytest.mark.parametrize("command", [("logs", "@last"), ("logs", "-f", "@last"), ("enqueue", "spells", "--follow")])
def test_the_pieces_of_a_long_line_are_one_line_without_control_sequences(user: User, command: list[str]) -> None:
    user.ok("enqueue", "spells", "--wait")
    done = user.run(*command)
    lines = [line for line in (done.out + done.err).splitlines() if "long" in line]
    assert [line.split(" ", 1)[1] for line in lines] == ["INFO  " + "long" * 50_000]


def test_ctrl_c_says_that_a_task_goes_on_only_where_it_does(user: User) -> None:
    ended, running = user.run("enqueue", "spells", "--wait").out.strip(), user.ok("enqueue", "slow", "steps=250")
    for words, task, is_running in ((["logs"], ended, False), (["logs", "-f"], running, True)):
        with user.start(*words, task) as process:
            assert process.stdout is not None
            process.stdout.read(1)  # a long log fills the pipe, and the rest waits for its reader
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == contract.EXIT_INTERRUPTED
        rejoin = f"\nthe task goes on; rejoin with: slotsched logs -f {task[-8:]}\n"
        assert err == (rejoin if is_running else "")
    user.ok("kill", running)


def test_a_task_that_never_started_has_no_log(user: User) -> None:
    task = user.ok("enqueue", "backup", "--in", "1h")
    user.ok("cancel", task)
    done = user.run("logs", task)
    assert done.code == contract.EXIT_NOT_FOUND
    assert "has no log" in done.err
