"""The command tree: settings as flags, usage errors, help, exit codes that need no database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import typer

from slotsched import contract
from slotsched.cli.app import run
from slotsched.cli.base import take_flags
from slotsched.cli.completion import candidates
from slotsched.cli.tree import build
from slotsched.errors import UsageError

FLAGS = {"--database": "database", "--jobs-dir": "jobs_dir"}


@pytest.fixture(autouse=True)
def _nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def groups() -> Iterator[tuple[str, typer.core.TyperGroup]]:
    root = build()
    yield "slotsched", root
    for name, command in root.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield name, command


@pytest.mark.parametrize(
    ("words", "rest", "found"),
    [
        (["--database", "x", "-o", "id"], ["-o", "id"], {"database": "x"}),
        (["--database=x=y", "a"], ["a"], {"database": "x=y"}),
        (["a", "--", "--database", "x"], ["a", "--", "--database", "x"], {}),
        (["--data", "x"], ["--data", "x"], {}),
    ],
)
def test_settings_are_taken_from_among_the_words(words: list[str], rest: list[str], found: dict[str, str]) -> None:
    assert take_flags(words, FLAGS) == (rest, found)


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="--database requires a value"):
        take_flags(["ps", "--database"], FLAGS)


@pytest.mark.parametrize("setting", ["database", "s3_region"])
@pytest.mark.parametrize("before", [True, False])
def test_a_setting_may_stand_before_or_after_the_command(
    setting: str, before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    flag, command = f"--{setting.replace('_', '-')}", ["config", "show", "-o", "json", "--origin"]
    assert run([flag, "mine", *command] if before else [*command, flag, "mine"]) == contract.EXIT_OK
    assert json.loads(capsys.readouterr().out)[setting] == {"value": "mine", "origin": flag}


def test_settings_are_shown_without_secrets_and_with_sizes_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "mongodb://ann:s3cr3t@h/?tlsCertificateKeyFilePassword=s3cr3t&replicaSet=rs0"
    assert run(["config", "show", "--mongodb-uri", uri]) == contract.EXIT_OK
    out = capsys.readouterr().out
    assert "mongodb://ann:***@h/?tlsCertificateKeyFilePassword=***&replicaSet=rs0" in out
    assert "100.0 MiB" in out


def test_a_check_of_a_folder_that_is_not_there_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "check"]) == contract.EXIT_NOT_FOUND
    assert "there is no folder" in capsys.readouterr().err


def test_a_stderr_that_takes_nothing_does_not_change_the_exit_code() -> None:
    command = f'exec "{sys.executable}" -m slotsched enqueue 2>/dev/full'
    env = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (contract.EXIT_USAGE, b"")


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", contract.EXIT_OK, ""),
        ("2>&-", contract.EXIT_OK, ""),
        (">/dev/full", contract.EXIT_FAILED, "the answer cannot be written: No space left on device\n"),
    ],
)
def test_a_stdout_that_takes_nothing_is_no_crash(redirection: str, code: int, said: str) -> None:
    command = f'exec "{sys.executable}" -m slotsched config show {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("run greet --args -", contract.EXIT_USAGE, "--args: not JSON: Expecting value"),
        ("enqueue --from-jsonl -", contract.EXIT_OK, "no lines, nothing to enqueue\n"),
        ("schedule import-crontab -", contract.EXIT_OK, "0 jobs made\n"),
    ],
)
def test_a_closed_stdin_is_an_empty_one(words: str, code: int, said: str) -> None:
    folder = Path("jobs")
    folder.mkdir()
    (folder / "greet.py").write_text("def main() -> None: ...\n")
    for redirection in ("<&-", "</dev/null"):
        command = f'exec "{sys.executable}" -m slotsched {words} {redirection}'
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr[: len(said)]) == (code, "", said)
        assert len(done.stderr.splitlines()) == 1


def test_json_is_json_whatever_the_encoding_of_the_terminal() -> None:
    folder = Path("jobs")
    folder.mkdir()
    (folder / "greet.py").write_text('"""Grüße ✓"""\ndef main() -> None: ...\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "slotsched", "job", "show", "greet", "-o", "json"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout.decode("latin-1"))["facts"]["description"] == "Grüße ✓"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["enqeue"], "Did you mean 'enqueue'?"),
        (["ps", "--stauts", "x"], "--status"),
        (["ps", "-o", "yaml"], '"yaml" is none of table, wide, json'),
        (["ps", "--status", "done"], '"done" is none of'),
        (["enqueue"], "name the job"),
        (["enqueue", "x", "--at", "03:00", "--in", "1h"], "exclude each other"),
        (["enqueue", "x", "--at", "soon"], '--at: "soon" is not a time'),
        (["enqueue", "x", "--timeout", "1m"], "--timeout needs --wait"),
        (["enqueue", "x", "--wait", "--timeout", "5min"], "--timeout: '5min' is not a duration"),
        (["enqueue", "--from-jsonl", "-", "--wait", "--timeout", "5min"], "--timeout: '5min' is not a duration"),
        (["logs", "abcd", "-n", "9" * 20], f"{'9' * 20} is more than 2147483647"),
        (["ps", "-n", "9" * 20], f"{'9' * 20} is more than 2147483647"),
        (["ps", "--jobs-dir", "~nosuchuser/x"], "--jobs-dir: '~nosuchuser/x': nobody knows the home folder"),
        (["logs", "abcd", "--raw", "--json"], "--raw gives exact bytes"),
        (["logs", "abcd", "--stream", "stdout"], "--stream needs --raw"),
        (["logs", "abcd", "--grep", "("], "--grep: "),
        (["logs", "abcd", "--level", "loud"], '--level: no level "loud"'),
        (["retry"], "name the tasks"),
        (["retry", "--failed"], "--failed needs --since"),
        (["wait"], "Missing argument"),
        (["instance", "slots", "a", "0"], "0 is less than 1"),
        (["ps", "-n", "many"], '"many" is not a whole number'),
        (["enqueue", "x", "--priority", "high"], '"high" is not a number'),
        (["job", "new", "Bad Name"], "is no job name"),
        (["--lease", "3", "ps"], "No such option"),
        (["config", "show", "--lease", "soon"], "--lease: 'soon' is not a duration"),
    ],
)
def test_malformed_words_are_answered_in_a_sentence_with_exit_2(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words) == contract.EXIT_USAGE
    out, err = capsys.readouterr()
    assert sentence in err
    assert "Traceback" not in err
    assert out == ""


def test_a_command_that_is_missing_shows_the_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job"]) == contract.EXIT_USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "enable" in err


def test_every_command_says_in_one_line_what_it_does() -> None:
    for group_name, group in groups():
        for name, command in group.commands.items():
            text = command.get_short_help_str(limit=200)
            assert text, f"{group_name} {name}"
            assert len(text) <= 64, f"{group_name} {name}: {text}"


def test_every_option_and_argument_says_what_it_is() -> None:
    for group_name, group in groups():
        for name, command in group.commands.items():
            for parameter in command.params:
                assert getattr(parameter, "help", ""), f"{group_name} {name} {parameter.name}"


def test_every_command_is_in_a_section_of_the_help() -> None:
    _, root = next(groups())
    listed = [name for names in root.sections.values() for name in names]  # type: ignore[attr-defined]
    assert sorted(listed) == sorted(root.commands)


def complete(*words: str) -> list[str]:
    return [value for value, _ in candidates(build(), words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enq"], ["enqueue"]),
        (["job", "en"], ["enable"]),
        (["enqueue", "re"], ["reports/daily", "resize"]),
        (["enqueue", "resize", "wi"], ["width="]),
        (["enqueue", "resize", "width=3", ""], ["folder="]),
        (["enqueue", "resize", "--fo"], ["--follow"]),
        (["ps", "--status", "fa"], ["failed"]),
        (["ps", "-o", "js"], ["json", "jsonl"]),
    ],
)
def test_a_shell_completes(words: Sequence[str], expected: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "reports"
    folder.mkdir(parents=True)
    (folder / "daily.sh").write_text("#!/bin/sh\n")
    (folder.parent / "_helper.py").write_text("")
    (folder.parent / "resize.py").write_text("def main(folder: str, width: int = 3): ...\n")
    assert complete(*words) == expected
