"""`enqueue --from-jsonl`: all, or none and a report of every bad line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest
from cli_user import CLI_JOBS, User

from slotsched import contract


@pytest.fixture
def user(make_fleet) -> Iterator[User]:
    """No instance is up: tasks stay where they are."""
    with make_fleet(jobs=CLI_JOBS) as fleet:
        yield User(fleet)


def jsonl(lines: Iterable[object]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_ten_thousand_lines_are_ten_thousand_tasks(user: User) -> None:
    lines = jsonl({"job": "backup", "args": {"code": n % 7}} for n in range(10_000))
    done = user.run("enqueue", "--from-jsonl", "-", stdin=lines)
    assert done.code == contract.EXIT_OK, done.err
    ids = done.out.split()
    assert len(set(ids)) == 10_000
    assert user.json("task", "show", ids[9_999])["args"] == {"code": 9_999 % 7}
    assert user.json("db", "stats")["tasks"]["documents"] == 10_000


def test_bad_lines_are_all_reported_and_nothing_is_stored(user: User) -> None:
    lines: list[object] = [{"job": "backup", "args": {"code": n}} for n in range(10_000)]
    lines[6] = {"job": "bakup"}
    lines[41] = {"job": "backup", "args": {"code": "x"}}
    lines[100] = {"job": "backup", "slot": 2}
    lines[5000] = [1]
    text = jsonl(lines).replace(json.dumps(lines[9999]), "{broken")
    file = user.fleet.folder / "tasks.jsonl"
    file.write_text(text)
    done = user.run("enqueue", "--from-jsonl", str(file))
    assert done.code == contract.EXIT_USAGE
    assert done.out == ""
    said = done.err.splitlines()
    assert said[0].startswith('line 7: no job "bakup"')
    assert said[1] == 'line 42: code: "x" is not an integer'
    assert said[2] == 'line 101: unknown key "slot", did you mean "slots"?'
    assert said[3] == "line 5001: not a JSON object"
    assert said[4].startswith("line 10000: not JSON: ")
    assert said[5] == "5 of 10000 lines refused, nothing was stored"
    assert user.ok("ps", "-o", "id") == ""


def test_very_many_bad_lines_are_summed_up(user: User) -> None:
    done = user.run("enqueue", "--from-jsonl", "-", stdin="x\n" * 500)
    said = done.err.splitlines()
    assert len(said) == 22
    assert said[20].startswith("... and 480 more: lines 21, 22, ")
    assert said[21] == "500 of 500 lines refused, nothing was stored"


def test_with_a_job_each_line_is_its_arguments_over_the_common_ones(user: User) -> None:
    lines = jsonl([{"width": 1}, {"folder": "/b"}])
    done = user.run("enqueue", "resize", "folder=/a", "--retries", "0", "--tag", "t", "--from-jsonl", "-", stdin=lines)
    assert done.code == contract.EXIT_OK, done.err
    tasks = [user.json("task", "show", task) for task in done.out.split()]
    assert [task["args"] for task in tasks] == [{"folder": "/a", "width": 1}, {"folder": "/b"}]
    assert [(task["retry"]["limit"], task["tags"]) for task in tasks] == [(0, ["t"])] * 2


def test_a_line_may_say_everything_that_an_option_may(user: User) -> None:
    line = {"job": "backup", "in": "1h", "slots": 2, "priority": 5, "key": "k", "tags": ["x"], "retries": 1}
    done = user.run("enqueue", "--from-jsonl", "-", stdin=jsonl([line, line]))
    first, second = done.out.split()
    assert first == second
    assert done.err == "1 of them were there already, by their key\n"
    task = user.json("task", "show", first)
    assert (task["status"], task["needs"]["slots"], task["priority"], task["key"]) == ("scheduled", 2, 5, "k")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_no_lines_are_no_tasks(user: User, text: str) -> None:
    done = user.run("enqueue", "--from-jsonl", "-", stdin=text)
    assert (done.code, done.out, done.err) == (contract.EXIT_OK, "", "no lines, nothing to enqueue\n")


def test_a_dry_run_of_lines_stores_nothing(user: User) -> None:
    done = user.run("enqueue", "backup", "--from-jsonl", "-", "--dry-run", stdin=jsonl([{}, {}]))
    assert (done.code, done.err) == (contract.EXIT_OK, "would enqueue 2 tasks\n")
    assert user.ok("ps", "-o", "id") == ""


def test_a_wrong_timeout_is_refused_before_anything_is_stored(user: User) -> None:
    for words in (["backup"], ["--from-jsonl", "-"], ["backup", "--follow"]):
        done = user.run("enqueue", *words, "--wait", "--timeout", "5min", stdin=jsonl([{"job": "backup"}]))
        assert (done.code, done.out) == (contract.EXIT_USAGE, "")
        assert done.err == "--timeout: '5min' is not a duration such as 90, 10m or 1h30m\n"
    user.ok("schedule", "add", "backup", "--every", "1d", "--name", "daily")
    done = user.run("schedule", "run", "daily", "--wait", "--timeout", "5min")
    assert (done.code, done.out) == (contract.EXIT_USAGE, "")
    assert user.ok("task", "ls", "-o", "id") == ""


def test_what_cannot_be_read_is_said(user: User) -> None:
    assert "--from-jsonl: " in user.run("enqueue", "--from-jsonl", "/nowhere").err
    assert user.run("enqueue", "--from-jsonl", "-", stdin=b"\xff\n").code == contract.EXIT_USAGE
