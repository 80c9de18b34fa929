"""A task's life by the command line: enqueue, look, wait, end, again; off a terminal."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
from collections.abc import Iterator

import bson
import pymongo
import pytest
from cli_user import CLI_JOBS, User
from fleet import SLOTSCHED, until

from slotsched import contract


@pytest.fixture(scope="module")
def user(make_fleet) -> Iterator[User]:
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        yield User(fleet)


def test_enqueue_prints_the_full_id_and_nothing_else(user: User) -> None:
    done = user.run("enqueue", "resize", "folder=/pics", "width=640")
    assert re.fullmatch(r"[0-9a-f]{24}\n", done.out)
    assert done.err == ""
    task = user.json("task", "show", done.out.strip())
    assert (task["job"], task["args"]) == ("resize", {"folder": "/pics", "width": 640})
    assert task["needs"]["slots"] == 4


def test_arguments_may_come_as_json_with_words_over_it(user: User) -> None:
    given = '{"folder": "/a", "width": 1}'
    file = user.fleet.folder / "args.json"
    file.write_text(given)
    ids = [
        user.ok("enqueue", "resize", "width=2", "--args", given),
        user.ok("enqueue", "resize", "width=2", "--args", f"@{file}"),
        user.ok("enqueue", "resize", "width=2", "--args", "-", stdin=given),
    ]
    assert [user.json("task", "show", task)["args"] for task in ids] == [{"folder": "/a", "width": 2}] * 3


def test_every_option_reaches_the_task(user: User) -> None:
    task = user.json(
        "enqueue", "resize", "folder=/a", "--in", "1h", "--slots", "2", "--memory", "64M", "--max-time", "5m",
        "--priority", "3", "--retries", "2", "--tag", "a", "--tag", "b", "--key", "k1",
    )  # fmt: skip
    assert task["status"] == "scheduled"
    assert task["needs"] == {"slots": 2, "memory": 64 << 20, "resources": {}, "tags": [], "exclusive": False}
    assert (task["max_time"], task["priority"], task["retry"]["limit"]) == (300.0, 3, 2)
    assert (task["tags"], task["key"]) == (["a", "b"], "k1")
    user.ok("cancel", task["id"])


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("0", contract.EXIT_OK, "completed"),
        ("3", contract.EXIT_FAILED, "exit code 3"),
        ("100", contract.EXIT_CANCELED, "the job canceled itself"),
    ],
)
def test_wait_ends_as_the_task_did(user: User, code: str, exit_code: int, said: str) -> None:
    done = user.run("enqueue", "backup", f"code={code}", "--wait")
    assert done.code == exit_code
    assert re.fullmatch(r"[0-9a-f]{24}\n", done.out)
    assert said in done.err
    assert user.run("wait", done.out.strip()).code == exit_code


def test_wait_of_several_ends_as_the_worst(user: User) -> None:
    ids = [user.ok("enqueue", "backup", f"code={code}") for code in (0, 100, 3)]
    assert user.run("wait", *ids).code == contract.EXIT_FAILED
    assert user.run("wait", ids[0], ids[1]).code == contract.EXIT_CANCELED
    done = user.run("wait", ids[0], ids[0])
    assert done.code == contract.EXIT_OK
    assert re.fullmatch(rf"{ids[0][-8:]} backup completed in \S+\n", done.out)


def test_follow_shows_the_log_beside_the_answer(user: User) -> None:
    done = user.run("enqueue", "resize", "folder=/p", "--follow")
    assert re.fullmatch(r"[0-9a-f]{24}\n", done.out)
    for line in (r"\S+ started on big-1, waited \S+", r"\S+ INFO  pictures of /p", r"\S+ DEBUG shrunk  file=half.png"):
        assert re.search(f"^{line}$", done.err, re.MULTILINE), done.err
    assert re.search(r'completed in \S+  result \{"width": 1280\}\n$', done.err)
    assert "\x1b" not in done.err


def test_with_json_the_answer_of_wait_is_the_ended_task(user: User) -> None:
    task = user.json("enqueue", "resize", "folder=/p", "--wait")
    assert (task["status"], task["result"], task["exit_code"]) == ("completed", {"width": 1280}, 0)
    assert task["attempts"][0]["instance"]["name"] == "big-1"


def test_a_timeout_ends_the_waiting_not_the_task(user: User) -> None:
    done = user.run("enqueue", "slow", "steps=150", "--wait", "--timeout", "300ms")
    task = done.out.strip()
    assert done.code == contract.EXIT_TIMEOUT
    assert done.err == f"{task[-8:]} has not ended in time; it goes on\n"
    assert user.run("wait", task, "--timeout", "100ms").code == contract.EXIT_TIMEOUT
    assert user.json("task", "show", task)["status"] in ("pending", "running")
    user.ok("kill", task)
    assert user.run("wait", task).code == contract.EXIT_CANCELED


def test_ctrl_c_ends_the_waiting_not_the_task_and_says_how_to_rejoin(user: User) -> None:
    with user.start("enqueue", "slow", "steps=200", "--follow") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        task = process.stdout.readline().strip()
        while "step 0" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(20)
    assert process.returncode == contract.EXIT_INTERRUPTED
    assert said.endswith(f"\nthe task goes on; rejoin with: slotsched logs -f {task[-8:]}\n")
    assert "Traceback" not in said
    assert user.json("task", "show", task)["status"] == "running"
    user.ok("kill", task)


def test_cancel_of_what_has_not_started_is_at_once_and_for_good(user: User) -> None:
    task = user.ok("enqueue", "backup", "--in", "1h")
    assert user.ok("cancel", task) == f"{task[-8:]} canceled"
    shown = user.json("task", "show", task)
    assert (shown["status"], shown["reason"], shown["started_at"]) == ("canceled", "canceled", None)


@pytest.mark.parametrize(("command", "word"), [("cancel", "end"), ("kill", "die")])
def test_a_running_task_is_ended_by_its_instance(user: User, command: str, word: str) -> None:
    task = user.ok("enqueue", "deaf")
    until(lambda: "ready" in user.run("logs", task).out, what="the task to run")
    assert user.ok(command, task) == f"{task[-8:]} asked to {word} on big-1"
    done = user.run("wait", task)
    assert done.code == contract.EXIT_CANCELED
    assert user.json("task", "show", task)["reason"] == "canceled"


def test_retry_makes_a_new_task_and_leaves_the_old_one(user: User) -> None:
    old = user.run("enqueue", "backup", "code=3", "--tag", "t", "--wait").out.strip()
    new = user.ok("retry", old)
    task = user.json("task", "show", new)
    assert (task["retry_of"], task["args"], task["tags"], task["trigger"]) == (old, {"code": 3}, ["t"], f"retry:{old}")
    assert user.json("task", "show", old)["status"] == "failed"
    assert user.ok("task", "show", "@last", "-o", "id") == new


def test_retry_of_all_failed_ones_does_not_double_them(user: User) -> None:
    old = user.run("enqueue", "backup", "code=4", "--tag", "bulk", "--wait").out.strip()
    unasked = user.run("retry", "--failed", "--since", "1h", "--tag", "bulk")
    assert unasked.code == contract.EXIT_USAGE
    assert re.search(r"Run 1 failed task since .* again\? .*--yes", unasked.err)
    first = user.run("retry", "--failed", "--since", "1h", "--tag", "bulk", "--yes")
    assert first.code == contract.EXIT_OK
    new = first.out.strip()
    assert user.json("task", "show", new)["retry_of"] == old
    user.run("wait", new)
    again = user.ok("retry", "--failed", "--since", "1h", "--tag", "bulk", "--yes")
    assert user.json("task", "show", again)["retry_of"] == new


def test_a_key_gives_the_first_task_again(user: User) -> None:
    first = user.ok("enqueue", "backup", "--key", "once")
    done = user.run("enqueue", "backup", "--key", "once")
    assert (done.code, done.out) == (contract.EXIT_OK, f"{first}\n")


def test_a_dry_run_checks_everything_and_stores_nothing(user: User) -> None:
    before = user.ok("task", "ls", "-n", "0", "-o", "id")
    done = user.run("enqueue", "resize", "folder=/p", "--in", "10m", "--dry-run")
    assert done.code == contract.EXIT_OK
    assert re.search(r"due: +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ \(in \S+\)", done.out)
    assert user.run("enqueue", "resize", "--dry-run").code == contract.EXIT_USAGE
    assert user.ok("task", "ls", "-n", "0", "-o", "id") == before


def test_a_time_that_is_past_is_now_and_no_better_place_in_the_queue(user: User) -> None:
    done = user.run("enqueue", "backup", "--at", "2020-01-01T00:00Z", "--wait")
    assert done.code == contract.EXIT_OK
    assert "is past: it is due at once" in done.err
    task = user.json("task", "show", "@last")
    assert task["due_at"] == task["created_at"]


def test_ps_shows_what_is_not_finished_with_the_reason(user: User) -> None:
    wide = user.ok("enqueue", "huge", "--slots", "99")
    later = user.ok("enqueue", "backup", "--in", "1h")
    header, *rows = user.ok("ps").splitlines()
    assert header.split() == ["ID", "JOB", "STATUS", "SLOTS", "INSTANCE", "PROGRESS", "WAITED", "RAN", "WHY"]
    found = {row.split()[0]: row for row in rows}
    assert found[wide[-8:]].endswith("no instance that is up has 99 slots (largest: big-1, 8)")
    assert re.search(r"scheduled +1 .* not due until \d{4}-\S+ \S+ \S+ \(in 59m5\ds\)$", found[later[-8:]])
    assert user.ok("ps", "-o", "id").splitlines() == [later, wide]
    for task in (wide, later):
        user.ok("cancel", task)
    assert user.ok("ps") == ""
    assert wide in user.ok("ps", "-a", "-o", "id")


def test_task_ls_filters(user: User) -> None:
    ended = user.run("enqueue", "backup", "code=5", "--tag", "filtered", "--wait").out.strip()
    assert user.ok("task", "ls", "--tag", "filtered", "--status", "failed", "-o", "id") == ended
    assert user.ok("task", "ls", "--tag", "filtered", "--reason", "exit", "-o", "id") == ended
    assert user.ok("task", "ls", "--tag", "filtered", "--since", "1h", "-o", "id") == ended
    assert user.ok("task", "ls", "--tag", "filtered", "--until", "1h", "-o", "id") == ""
    assert user.ok("task", "ls", "--tag", "filtered", "--job", "resize", "-o", "id") == ""
    assert user.ok("task", "ls", "--tag", "filtered", "--instance", "big-1", "-o", "id") == ended
    assert user.json("task", "ls", "--tag", "filtered")[0]["id"] == ended


@pytest.mark.parametrize("output", ["table", "json", "jsonl", "id"])
def test_a_longer_list_says_that_there_is_more(user: User, output: str) -> None:
    tag = f"many-{output}"
    ids = [user.ok("enqueue", "backup", "--tag", tag) for _ in range(2)]
    words = ["task", "ls", "--tag", tag, "-o", output]
    done = user.run(*words, "-n", "1")
    assert (ids[1][-8:] in done.out, ids[0][-8:] in done.out) == (True, False)
    assert done.err == "the newest 1 are shown; -n 0 shows all\n"
    for limit in ("0", "2"):
        assert user.run(*words, "-n", limit).err == ""
        assert all(task[-8:] in user.ok(*words, "-n", limit) for task in ids)


def test_a_piped_watch_has_one_header_and_a_line_for_every_change(user: User) -> None:
    with user.start("ps", "-w", "--tag", "watched") as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:3] == ["ID", "JOB", "STATUS"]
        task = user.ok("enqueue", "backup", "--in", "1h", "--tag", "watched")
        assert process.stdout.readline().split()[:3] == [task[-8:], "backup", "scheduled"]
        user.ok("cancel", task)
        other = user.ok("enqueue", "backup", "--in", "1h", "--tag", "watched")
        lines = []
        while not lines or lines[-1][0] != other[-8:]:  # the first one's time may have changed before its end
            lines.append(process.stdout.readline().split())
        assert lines[-1][1:3] == ["backup", "scheduled"]
        assert ["ID"] not in [line[:1] for line in lines]
    user.ok("cancel", other)


def test_what_is_waited_for_beside_the_answer_is_told_on_stderr(user: User) -> None:
    lines = '{"job": "backup"}\n{"job": "backup", "args": {"code": 3}}\n'
    done = user.run("enqueue", "--from-jsonl", "-", "--wait", "-o", "json", stdin=lines)
    assert done.code == contract.EXIT_FAILED
    first, second = (one["id"] for one in json.loads(done.out))
    expected = [rf"{first[-8:]} backup completed in \S+", rf"{second[-8:]} backup failed in \S+: exit code 3"]
    said = "".join(sorted(done.err.splitlines(keepends=True), key=lambda line: second[-8:] in line))
    assert re.fullmatch("".join(f"{line}\n" for line in expected), said)
    user.ok("schedule", "add", "backup", "--every", "1d", "--name", "daily")
    run = user.run("schedule", "run", "daily", "--wait")
    assert run.code == contract.EXIT_OK
    assert re.fullmatch(r"[0-9a-f]{24}\n", run.out)
    assert re.fullmatch(rf"{run.out.strip()[-8:]} backup completed in \S+\n", run.err)


def test_a_document_that_holds_what_json_lacks_is_shown_as_json(user: User) -> None:
    task = user.ok("enqueue", "backup", "--in", "1h", "--tag", "odd")
    odd = {"n": math.nan, "d": bson.Decimal128("1.5"), "b": b"\xff"}
    with pymongo.MongoClient(user.fleet.settings["mongodb_uri"]) as client:
        tasks = client[user.fleet.settings["database"]].tasks
        tasks.update_one({"_id": bson.ObjectId(task)}, {"$set": {"args": odd}})
    shown = {"n": None, "d": "1.5", "b": "b'\\xff'"}
    assert user.json("task", "show", task)["args"] == shown
    assert user.json("task", "ls", "--tag", "odd")[0]["args"] == shown
    assert json.loads(user.ok("task", "ls", "--tag", "odd", "-o", "jsonl"))["args"] == shown
    user.ok("cancel", task)


def test_a_removed_task_is_gone(user: User) -> None:
    task = user.run("enqueue", "backup", "--wait").out.strip()
    assert user.ok("task", "rm", task) == f"{task[-8:]} removed"
    assert user.run("task", "show", task).code == contract.EXIT_NOT_FOUND


def test_an_id_may_be_any_end_or_beginning_that_is_unique(user: User) -> None:
    task = user.ok("enqueue", "backup")
    for text in (task, task[-8:], task[-8:].upper(), task[:-1], "@last"):
        assert user.ok("task", "show", text, "-o", "id") == task


def test_why_of_an_ended_task_says_how_it_ended(user: User) -> None:
    task = user.run("enqueue", "backup", "code=3", "--wait").out.strip()
    assert user.ok("why", task) == "failed: exit code 3"


def test_a_reader_who_goes_away_is_no_error_to_talk_about(user: User) -> None:
    ids = [user.ok("enqueue", "backup")]
    user.run("wait", *ids)
    command = f'{" ".join(SLOTSCHED)} task ls -n 0 -o json | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command],
        env=user.environment(),
        cwd=user.fleet.folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout == "141\n"


def test_the_last_task_belongs_to_the_user_not_to_the_state_directory(user: User) -> None:
    task = user.ok("enqueue", "backup", "--state-dir", str(user.fleet.folder / "elsewhere"))
    assert user.ok("task", "show", "@last", "-o", "id") == task
    home = user.fleet.folder / "newcomer"
    home.mkdir()
    done = user.run("why", "@last", env={"HOME": str(home)})
    assert (done.code, done.err) == (
        contract.EXIT_NOT_FOUND,
        "@last: you have not enqueued anything on this machine yet\n",
    )
    assert list(home.iterdir()) == []
