"""Jobs, instances, database, settings, doctor, completion by the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_user import CLI_JOBS, User
from fleet import until

from slotsched import contract


@pytest.fixture(scope="module")
def user(make_fleet) -> Iterator[User]:
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8, tags="ssd", resources="gpu=2")
        yield User(fleet)


def test_instances_are_listed_with_their_slots(user: User) -> None:
    header, row = user.ok("instance", "ls").splitlines()
    assert header.split()[:4] == ["NAME", "STATE", "SLOTS", "USED"]
    assert row.split()[:4] == ["big-1", "up", "8", "0"]
    assert "gpu=2" in row
    assert user.json("instance", "ls")[0]["capacity"]["slots"] == 8


def test_a_draining_instance_takes_nothing_until_it_is_resumed(user: User) -> None:
    assert user.ok("instance", "drain", "big-1").startswith("big-1 drains")
    task = user.ok("enqueue", "backup")
    assert "draining" in user.ok("instance", "ls")
    assert user.ok("why", task) == "every instance that could run it is draining (big-1)"
    assert user.json("task", "show", task)["status"] == "pending"
    assert user.ok("instance", "resume", "big-1") == "big-1 takes tasks again"
    assert user.run("wait", task, "--timeout", "30s").code == contract.EXIT_OK


def test_an_instances_slots_can_be_changed(user: User) -> None:
    assert user.ok("instance", "slots", "big-1", "3") == "big-1 will offer 3 slots"
    until(lambda: user.json("instance", "ls")[0]["capacity"]["slots"] == 3, what="3 slots")
    user.ok("instance", "slots", "big-1", "8")
    until(lambda: user.json("instance", "ls")[0]["capacity"]["slots"] == 8, what="8 slots")


def test_jobs_are_listed_from_the_folder_and_from_instances(user: User) -> None:
    rows = {row["name"]: row for row in user.json("job", "ls")}
    assert rows["resize"]["slots"] == 4
    assert rows["resize"]["local"] is True
    assert rows["reports/daily"]["instances"] == ["big-1"]
    empty = user.fleet.folder / "empty"
    elsewhere = {row["name"]: row for row in json.loads(user.ok("job", "ls", "--jobs-dir", str(empty), "-o", "json"))}
    assert elsewhere["resize"]["local"] is False
    shown = user.ok("job", "show", "resize", "--jobs-dir", str(empty))
    assert "folder=PATH" in shown
    assert "width=INTEGER  default 1280" in shown


def test_a_machine_without_scripts_can_enqueue(user: User) -> None:
    empty = str(user.fleet.folder / "empty")
    done = user.run("enqueue", "backup", "code=x", "--jobs-dir", empty)
    assert (done.code, done.err) == (contract.EXIT_USAGE, 'code: "x" is not an integer\n')
    assert user.run("enqueue", "backup", "--jobs-dir", empty, "--wait").code == contract.EXIT_OK
    near = user.run("enqueue", "bakup", "--jobs-dir", empty)
    assert near.code == contract.EXIT_NOT_FOUND
    assert 'Did you mean "backup"?' in near.err


def test_a_disabled_job_waits_and_says_so(user: User) -> None:
    assert user.ok("job", "disable", "backup") == "backup disabled"
    done = user.run("enqueue", "backup")
    assert done.err == 'queued, but job "backup" is disabled; it will wait\n'
    task = done.out.strip()
    assert "disabled" in user.ok("job", "ls")
    assert user.ok("job", "enable", "backup") == "backup enabled"
    assert user.run("wait", task, "--timeout", "30s").code == contract.EXIT_OK


def test_a_job_disabled_in_its_file_waits_and_says_so(user: User) -> None:
    done = user.run("enqueue", "reports/daily")
    assert done.err == 'queued, but job "reports/daily" is disabled; it will wait\n'
    assert user.ok("why", "@last") == 'job "reports/daily" is disabled'
    assert 'job "reports/daily" is disabled' in user.ok("ps")
    user.ok("cancel", "@last")


def test_job_files_are_checked(user: User) -> None:
    assert "ok  resize  4 slots" in user.ok("job", "check").splitlines()
    assert user.ok("job", "check", "resize") == "ok  resize  4 slots"


def test_without_a_store_the_folders_jobs_are_still_listed(user: User) -> None:
    done = user.run("job", "ls", "--mongodb-uri", "mongodb://127.0.0.1:9", "--store-timeout", "300ms")
    assert done.code == contract.EXIT_OK
    assert "resize" in done.out
    assert done.err.startswith("only the local folder is shown: cannot reach")


def test_the_database_is_prepared_measured_and_pruned(user: User) -> None:
    assert user.ok("db", "init").endswith(": ready")
    task = user.run("enqueue", "backup", "--wait").out.strip()
    assert user.json("db", "stats")["tasks"]["documents"] > 0
    until(lambda: user.json("task", "show", task)["attempts"][0]["log"]["uploaded"], what="the upload")
    said = user.ok("db", "prune", "--older-than", "1d")
    assert said == "0 tasks and 0 logs deleted that ended more than 1d ago"
    until(lambda: not user.ok("db", "prune", "--older-than", "1s").startswith("0 tasks"), what="something to prune")
    until(lambda: user.run("task", "show", task).code == contract.EXIT_NOT_FOUND, what="the task to be pruned")


def test_an_age_that_would_delete_too_much_or_is_no_date_deletes_nothing(user: User) -> None:
    task = user.run("enqueue", "backup", "--wait").out.strip()
    until(lambda: user.json("task", "show", task)["attempts"][0]["log"]["uploaded"], what="the upload")
    just_ended = "'0' would delete what has just ended; it must be at least "
    for words, environ, said in (
        (["--older-than", "800000d"], {}, "--older-than: '800000d' is more than 36600 days\n"),
        (["--older-than", "0"], {}, f"--older-than: {just_ended}1 s\n"),
        ([], {"SLOTSCHED_KEEP": "0"}, f"SLOTSCHED_KEEP: {just_ended}60 s\n"),
    ):
        done = user.run("db", "prune", *words, env=environ)
        assert (done.code, done.out, done.err) == (contract.EXIT_USAGE, "", said)
    assert user.ok("db", "prune", "--older-than", "36600d").startswith("0 tasks and 0 logs deleted")
    assert user.json("task", "show", task)["status"] == "completed"


def test_by_hand_too_a_log_outlasts_its_day_with_its_task(user: User) -> None:
    """A task of a job with a keep of its own lost its logs as soon as their day was old."""
    task = user.run("enqueue", "backup", "--wait").out.strip()
    logs = Path(user.fleet.settings["log_store"]) / "2020" / "01" / "01"
    for name in (task, "0" * 24):
        (logs / name).mkdir(parents=True)
        (logs / name / "1.ndjson.gz").write_bytes(b"")
    said = user.ok("db", "prune", "--older-than", "1d")
    assert said == "0 tasks and 1 logs deleted that ended more than 1d ago"
    assert [path.name for path in logs.iterdir()] == [task]


def test_settings_are_shown_with_their_origin_and_without_passwords(user: User) -> None:
    uri = "mongodb://ann:secret@127.0.0.1:9"
    shown = user.ok("config", "show", "--origin", "--mongodb-uri", uri, env={"SLOTSCHED_SLOTS": "3"})
    assert "secret" not in shown
    assert re.search(r"^mongodb_uri +mongodb://ann:\*\*\*@127\.0\.0\.1:9 +--mongodb-uri$", shown, re.MULTILINE)
    assert re.search(r"^slots +3 +SLOTSCHED_SLOTS$", shown, re.MULTILINE)
    assert re.search(r"^drain_timeout +1m +default$", shown, re.MULTILINE)
    assert user.ok("config", "path").splitlines()[-1].endswith("/etc/slotsched/slotsched.toml")


def test_doctor_finds_everything_in_order(user: User) -> None:
    done = user.run("doctor")
    assert done.code == contract.EXIT_OK, done.out
    names = {line[6:19].strip() for line in done.out.splitlines()}
    assert {"settings", "store", "clock", "instances", "log store", "containment", "jobs", "slots", "disk"} <= names
    assert re.search(r"^ok +store +mongodb \S+, replica set \S+, change streams on, \S+ ms$", done.out, re.MULTILINE)


def test_doctor_tells_what_the_machine_offers(user: User) -> None:
    said = user.run("doctor", "--slots", "6", "--memory", "3G", "--resources", "gpu=2,license=1", "--tags", "ssd").out
    offered = r"6, as set \(\d+ usable CPUs?\); memory 3\.0 GiB; 2 gpu; 1 license; ssd"
    assert re.search(rf"^ok +slots +{offered}$", said, re.MULTILINE), said


def test_doctor_says_what_fails_and_what_to_do_and_goes_on(user: User) -> None:
    (user.fleet.folder / "file").write_text("")
    done = user.run(
        "doctor",
        "--mongodb-uri", "mongodb://127.0.0.1:9",
        "--store-timeout", "300ms",
        "--log-store", str(user.fleet.folder / "file" / "logs"),
        "--jobs-dir", "/nowhere",
        env={"SLOTSCHED_SLOT": "3"},
    )  # fmt: skip
    assert done.code == contract.EXIT_FAILED
    assert re.search(r"^FAIL +store +cannot reach mongodb://127\.0\.0\.1:9", done.out, re.MULTILINE)
    assert re.search(r"^FAIL +log store .* -> ", done.out, re.MULTILINE)
    assert re.search(r"^warn +jobs +/nowhere does not exist +-> slotsched job new hello", done.out, re.MULTILINE)
    assert re.search(r"^warn +settings +SLOTSCHED_SLOT is no setting.* -> ", done.out, re.MULTILINE)
    assert re.search(r"^ok +slots ", done.out, re.MULTILINE)
    found = user.run("doctor", "-o", "json", "--mongodb-uri", "mongodb://127.0.0.1:9", "--store-timeout", "300ms")
    assert {check["level"] for check in json.loads(found.out)} >= {"ok", "FAIL"}


def test_bash_completes_jobs_and_their_arguments(user: User) -> None:
    bin_folder = user.fleet.folder / "bin"
    bin_folder.mkdir()
    command = bin_folder / "slotsched"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m slotsched "$@"\n')
    command.chmod(0o755)
    script = user.fleet.folder / "completion.bash"
    script.write_text(user.ok("completion", "bash"))

    def complete(line: str) -> list[str]:
        asked = f"""
            source {script}
            COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=($COMP_LINE); compopt() {{ :; }}
            _slotsched_complete; printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        env = user.environment(PATH=f"{bin_folder}:{Path('/usr/bin')}:/bin")
        done = subprocess.run(
            ["bash", "-c", asked],
            env=env,
            cwd=user.fleet.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("slotsched enq") == ["enqueue"]
    assert complete("slotsched enqueue re") == ["reports/daily", "resize"]
    assert complete("slotsched enqueue resize wi") == ["width="]
    assert complete("slotsched instance ") == ["ls", "drain", "resume", "slots"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script(user: User, shell: str) -> None:
    assert "_SLOTSCHED_COMPLETE" in user.ok("completion", shell)
