"""What is said to people who mistype, ask for what is not there, or are too late: a sentence, and an exit code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_user import CLI_JOBS, User
from fleet import SLOTSCHED

from slotsched import contract


@pytest.fixture(scope="module")
def user(make_fleet) -> Iterator[User]:
    """Somebody with one instance of 8 slots."""
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        yield User(fleet)


@pytest.fixture(scope="module")
def failed(user: User) -> list[str]:
    """Two tasks that have failed."""
    return [user.run("enqueue", "backup", "code=3", "--wait").out.strip() for _ in range(2)]


MISTAKES = [
    (["enqueue", "resise"], 'no job "resise" in cli_jobs/ (8 files). Did you mean "resize"?', contract.EXIT_NOT_FOUND),
    (["enqueue", "nothing-like-it"], 'no job "nothing-like-it" in cli_jobs/ (8 files).', contract.EXIT_NOT_FOUND),
    (["enqueue", "../resize"], 'no job "../resize"', contract.EXIT_NOT_FOUND),
    (["enqueue", "/etc/passwd"], 'no job "/etc/passwd"', contract.EXIT_NOT_FOUND),
    (
        ["enqueue", "resize", "widht=3"],
        'resize has no argument "widht" (folder, width). Did you mean "width"?',
        contract.EXIT_USAGE,
    ),
    (["enqueue", "resize", "width=big"], 'width: "big" is not an integer', contract.EXIT_USAGE),
    (["enqueue", "resize"], "resize needs folder=PATH", contract.EXIT_USAGE),
    (["enqueue", "resize", "folder"], '"folder" is not key=value', contract.EXIT_USAGE),
    (["enqueue", "resize", "--args", "[1]"], "--args: not a JSON object", contract.EXIT_USAGE),
    (["enqueue", "resize", "--args", "{folder"], "--args: not JSON", contract.EXIT_USAGE),
    (["enqueue", "resize", "--args", "@/nowhere"], "--args: ", contract.EXIT_USAGE),
    (["enqueue", "huge", "--slots", "0"], "slots: 0 is not a whole number of at least 1", contract.EXIT_USAGE),
    (["enqueue", "huge", "--slots", "-1"], "slots: -1 is not a whole number", contract.EXIT_USAGE),
    (["enqueue", "huge", "--max-time", "0"], "no task runs without limit", contract.EXIT_USAGE),
    (["enqueue", "huge", "--in", "-5m"], "is not a duration", contract.EXIT_USAGE),
    (["logs", "ffffffff"], 'no task "ffffffff"', contract.EXIT_NOT_FOUND),
    (["logs", "abc"], "is too short", contract.EXIT_NOT_FOUND),
    (["logs", "nothing"], 'no task "nothing"', contract.EXIT_NOT_FOUND),
    (["instance", "drain", "big-2"], 'no instance "big-2"', contract.EXIT_NOT_FOUND),
    (["job", "show", "bakup"], 'Did you mean "backup"?', contract.EXIT_NOT_FOUND),
    (["job", "disable", "bakup"], 'Did you mean "backup"?', contract.EXIT_NOT_FOUND),
    (["job", "new", "backup"], 'job "backup" exists: ', contract.EXIT_REFUSED),
    (["run", "resise"], 'Did you mean "resize"?', contract.EXIT_NOT_FOUND),
    (["run", "resize", "width=big"], 'width: "big" is not an integer', contract.EXIT_USAGE),
]


@pytest.mark.parametrize(("words", "sentence", "code"), MISTAKES, ids=[" ".join(words) for words, _, _ in MISTAKES])
def test_a_mistake_is_answered_with_a_sentence(user: User, words: list[str], sentence: str, code: int) -> None:
    done = user.run(*words)
    assert sentence in done.err
    assert done.code == code
    assert done.out == ""
    assert "Traceback" not in done.err


def test_none_of_these_mistakes_stored_anything(user: User) -> None:
    assert user.json("task", "ls", "--job", "resize") == []


def test_a_task_that_fits_nowhere_is_queued_with_a_warning(user: User) -> None:
    done = user.run("enqueue", "huge", "--slots", "4096")
    task = done.out.strip()
    assert re.fullmatch(r"[0-9a-f]{24}", task)
    warning = "queued, but no instance that is up has 4096 slots (largest: big-1, 8); it will wait\n"
    assert done.err == warning
    assert user.run("why", task).out == "no instance that is up has 4096 slots (largest: big-1, 8)\n"
    user.run("cancel", task)
    user.run("task", "rm", task)


def test_an_ambiguous_id_names_what_it_could_be(user: User, failed: list[str]) -> None:
    done = user.run("logs", failed[0][:4])
    assert done.code == contract.EXIT_NOT_FOUND
    shown = [f"{task[-8:]} backup" for task in failed]
    assert f'"{failed[0][:4]}" is ambiguous: {", ".join(shown)}' in done.err


def test_canceling_what_has_ended_says_since_when_and_what_to_do(user: User, failed: list[str]) -> None:
    short = failed[0][-8:]
    done = user.run("cancel", short)
    assert done.code == contract.EXIT_REFUSED
    expected = rf"{short} already failed \S+ ago; nothing to cancel\. To run it again: slotsched retry {short}\n"
    assert re.fullmatch(expected, done.err)


def test_of_several_tasks_the_wrong_ones_are_said_and_the_others_are_done(user: User, failed: list[str]) -> None:
    waiting = user.ok("enqueue", "huge", "--in", "1h")
    done = user.run("cancel", failed[0], waiting, "ffffffff")
    assert done.out == f"{waiting[-8:]} canceled\n"
    assert len(done.err.splitlines()) == 2
    assert done.code == contract.EXIT_REFUSED


def test_a_running_task_cannot_be_retried_or_removed(user: User) -> None:
    waiting = user.ok("enqueue", "huge", "--in", "1h")
    for command in (["retry", waiting], ["task", "rm", waiting]):
        done = user.run(*command)
        assert done.code == contract.EXIT_REFUSED
        assert "only a task that has ended" in done.err
    user.run("cancel", waiting)


def test_a_key_taken_by_other_arguments_is_refused(user: User) -> None:
    first = user.ok("enqueue", "backup", "code=0", "--key", "nightly")
    assert user.ok("enqueue", "backup", "code=0", "--key", "nightly") == first
    done = user.run("enqueue", "backup", "code=1", "--key", "nightly")
    assert done.code == contract.EXIT_REFUSED
    assert "nightly" in done.err


def test_a_store_that_does_not_answer_says_how_to_start_one(user: User) -> None:
    done = user.run("ps", "--mongodb-uri", "mongodb://ann:secret@127.0.0.1:9", "--store-timeout", "1s")
    assert done.code == contract.EXIT_STORE_UNREACHABLE
    assert re.search(r"cannot reach mongodb://ann:\*\*\*@127\.0\.0\.1:9 \(.*refused.*\) after 1 s\.", done.err)
    assert "slotsched up" in done.err
    assert "secret" not in done.err


def test_a_broken_job_file_is_shown_by_file_and_line(user: User, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "resize.py").write_text(
        '# /// script\n# [tool.slotsched]\n# max_time = "1m"\n# slot = 3\n# ///\ndef main() -> None: ...\n'
    )
    (jobs / "good.py").write_text("def main() -> None: ...\n")
    done = user.run("job", "check", "--jobs-dir", str(jobs))
    assert done.code == contract.EXIT_FAILED
    assert done.out == 'ok  good  1 slot\nresize.py:4: unknown key "slot", did you mean "slots"?\n'
    refused = user.run("enqueue", "resize", "--jobs-dir", str(jobs))
    assert refused.code == contract.EXIT_FAILED
    assert "resize.py:4: unknown key" in refused.err


def test_who_cannot_be_asked_is_told_so(user: User, failed: list[str]) -> None:
    """Also without any stdin."""
    for redirection in ("<&-", "</dev/null"):
        command = f"exec {' '.join(SLOTSCHED)} retry --failed --since 1h {redirection}"
        done = subprocess.run(
            ["sh", "-c", command],
            env=user.environment(),
            cwd=user.fleet.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (contract.EXIT_USAGE, "")
        assert re.fullmatch(r"Run \d failed tasks since .* again\? Nobody can be asked here; add --yes\n", done.stderr)


def test_a_mistyped_variable_is_pointed_out(user: User) -> None:
    done = user.run("config", "show", env={"SLOTSCHED_SLOT": "3"})
    assert done.code == contract.EXIT_OK
    assert done.err == "warning: SLOTSCHED_SLOT is no setting, did you mean SLOTSCHED_SLOTS?\n"


def test_a_mistyped_setting_in_a_file_is_refused(user: User) -> None:
    file = user.fleet.folder / "home" / ".config" / "slotsched" / "slotsched.toml"
    file.parent.mkdir(parents=True)
    file.write_text('databse = "x"\n')
    done = user.run("ps")
    file.unlink()
    assert done.code == contract.EXIT_USAGE
    assert done.err == f'{file}: unknown setting "databse", did you mean "database"?\n'
