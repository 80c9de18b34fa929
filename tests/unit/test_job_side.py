"""What a script imports, without slotsched around it and with files and a pipe in its place."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slotsched import contract
from slotsched.execution import read_progress
from slotsched.job import Cancel, Log, Task, _record
from slotsched.model import Progress
from slotsched.process.capture import is_log_line


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    paths = {
        contract.ENV_ARGS: contract.IO_ARGS,
        contract.ENV_PROGRESS: contract.IO_PROGRESS,
        contract.ENV_RESULT: contract.IO_RESULT,
        contract.ENV_STATE: contract.IO_STATE,
        contract.ENV_STATE_OUT: contract.IO_STATE_OUT,
    }
    for variable, name in paths.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    return Task()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(contract.TASK_PREFIX):
            monkeypatch.delenv(name)


# --- by hand ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
def test_by_hand_everything_is_empty_and_nothing_fails() -> None:
    task = Task()
    assert (task.id, task.job, task.trigger, task.instance) == ("", "", "", "")
    assert (task.attempt, task.fence, task.slots) == (0, 0, 0)
    assert (task.deadline, task.last_completed_at, task.last_started_at) == (None, None, None)
    assert task.args == {}
    task.progress(0.5, "half")
    task.result({"a": 1})
    assert task.state() is None
    task.state({"at": 3})
    assert task.state() == {"at": 3}


@pytest.mark.usefixtures("alone")
def test_by_hand_log_lines_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.info("shrunk", file=Path("0.png"))
    try:
        int("boo")
    except ValueError:
        log.exception("failed")
    shown = capsys.readouterr().err
    assert "INFO  shrunk  file=0.png\n" in shown
    assert "ERROR failed\nTraceback" in shown
    assert "ValueError: invalid literal" in shown


def test_cancel_passes_through_except_exception_and_ends_a_script_with_its_code() -> None:
    assert not issubclass(Cancel, Exception)
    code = "from slotsched import Cancel\ntry:\n    raise Cancel('no')\nexcept Exception:\n    pass"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (contract.SCRIPT_CANCELED, b"")
    assert str(Cancel("no pictures")) == "no pictures"


# --- task -------------------------------------------------------------------------------------------


def test_identity_comes_from_the_environment(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(contract.ENV_ID, "a" * 24)
    monkeypatch.setenv(contract.ENV_ATTEMPT, "2")
    monkeypatch.setenv(contract.ENV_DEADLINE, "2026-11-21T06:30:00.250Z")
    monkeypatch.setenv(contract.ENV_LAST_COMPLETED_AT, "")
    assert (task.id, task.attempt, task.last_completed_at) == ("a" * 24, 2, None)
    assert task.deadline == dt.datetime(2026, 11, 21, 6, 30, 0, 250_000, tzinfo=dt.UTC)


def test_arguments_have_the_types_of_the_job(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"folder": "/a", "days": ["2026-01-02"], "n": 3, "gone": None}
    (tmp_path / contract.IO_ARGS).write_text(json.dumps(given))
    monkeypatch.setenv(contract.ENV_TYPES, "folder=path days=list:date gone=path other=path")
    assert task.args == {"folder": Path("/a"), "days": [dt.date(2026, 1, 2)], "n": 3, "gone": None}


def test_progress_is_readable_at_any_moment_and_the_last_call_counts(task: Task, tmp_path: Path) -> None:
    for n in range(1, 5001):
        task.progress(n / 5000, f"picture {n}")
    assert read_progress(tmp_path) == Progress(fraction=1.0, message="picture 5000")
    assert (tmp_path / contract.IO_PROGRESS).stat().st_size < 70_000


def test_progress_that_shows_the_same_is_not_written_again(task: Task, tmp_path: Path) -> None:
    for n in range(10_000):
        task.progress(n / 10_000_000, "same")
    assert (tmp_path / contract.IO_PROGRESS).read_text().count("\n") == 11


def test_progress_takes_whatever_it_is_given(task: Task, tmp_path: Path) -> None:
    task.progress(7, "too\nmuch \ud800")
    assert read_progress(tmp_path) == Progress(fraction=1.0, message="too much ?")
    task.progress(None, "counting")
    assert read_progress(tmp_path) == Progress(message="counting")
    for message in ("1 of 20 files", "0.5 done", "50% done", "1", "? what", ""):
        task.progress(None, message)
        assert read_progress(tmp_path) == Progress(message=message)


def test_progress_on_a_full_or_missing_disk_does_not_end_the_script(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(contract.ENV_PROGRESS, "/nowhere/at/all")
    task.progress(0.5)


def test_a_result_is_json_with_paths_and_dates_as_text(task: Task, tmp_path: Path) -> None:
    task.result({"folder": Path("/a"), "day": dt.date(2026, 1, 2), "pair": (1, 2)})
    found = json.loads((tmp_path / contract.IO_RESULT).read_text())
    assert found == {"folder": "/a", "day": "2026-01-02", "pair": [1, 2]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {1}}, r"the result is not JSON: a set \(\{1\}\)"),
        (float("nan"), "the result is not JSON: Out of range"),
        ("x" * (1 << 20), "the result is more than 1 MiB"),
        ("\ud800", "the result holds text that is not Unicode"),
    ],
)
def test_a_result_that_cannot_be_stored_fails_clearly(task: Task, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        task.result(value)


def test_state_reads_the_last_run_and_saves_for_the_next(task: Task, tmp_path: Path) -> None:
    assert task.state() is None
    (tmp_path / contract.IO_STATE).write_text('{"offset": 7}')
    other = Task()
    assert other.state() == {"offset": 7}
    other.state({"offset": 9})
    assert json.loads((tmp_path / contract.IO_STATE_OUT).read_text()) == {"offset": 9}
    assert json.loads((tmp_path / contract.IO_STATE).read_text()) == {"offset": 7}


# --- log --------------------------------------------------------------------------------------------


class Pipe:
    """The log pipe, as the supervisor gives it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._data = b""
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        while data := os.read(self.reading, 65536):
            self._data += data

    def lines(self) -> list[dict[str, Any]]:
        os.close(self.writing)
        self._thread.join(10)
        os.close(self.reading)
        self.writing = -1
        assert self._data.endswith(b"\n") or not self._data
        return [json.loads(line) for line in self._data.splitlines()]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    made = Pipe()
    monkeypatch.setenv(contract.ENV_LOG_FD, str(made.writing))
    yield made
    if made.writing >= 0:
        made.lines()


def test_each_level_writes_its_pino_line(pipe: Pipe) -> None:
    log = Log()
    before = time.time() * 1000 - 1
    for write in (log.debug, log.info, log.warn, log.warning, log.error, log.fatal):
        write("message", n=1)
    lines = pipe.lines()
    assert [line["level"] for line in lines] == [20, 30, 40, 40, 50, 60]
    assert all(line["msg"] == "message" and line["n"] == 1 for line in lines)
    assert all(isinstance(line["time"], int) and before <= line["time"] <= time.time() * 1000 for line in lines)


def test_fields_that_the_record_needs_itself_get_an_underscore(pipe: Pipe) -> None:
    Log().info("m", level="x", time=1, msg="y", stream="z", self=3)
    [line] = pipe.lines()
    assert (line["level"], line["msg"], line["level_"], line["msg_"], line["stream_"]) == (30, "m", "x", "y", "z")
    assert "stream" not in line
    assert line["self"] == 3


@pytest.mark.parametrize("name", ["level", "time", "msg", "stream", "part", "eol", "bytes", "truncated"])
def test_a_line_stays_a_log_line_whatever_its_fields_are_called(name: str) -> None:
    line = _record(contract.LEVEL_ERROR, "m", {name: True, "n": 1})
    assert is_log_line(line.removesuffix(b"\n"))
    assert json.loads(line).items() >= {"level": contract.LEVEL_ERROR, f"{name}_": True, "n": 1}.items()


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_values_that_are_not_json_are_written_as_text(pipe: Pipe) -> None:
    log = Log()
    circle: list[Any] = []
    circle.append(circle)
    log.info("m", path=Path("/a"), nan=float("nan"), keys={(1, 2): 3}, bad=Unprintable())
    log.info("m", circle=circle, lone="\ud800", n=1)
    log.info(Unprintable())
    first, second, third = pipe.lines()
    assert (first["path"], first["nan"], first["bad"]) == ("/a", "nan", "<Unprintable>")
    assert (second["n"], second["lone"]) == (1, "?")
    assert third["msg"] == "<Unprintable>"


def test_an_exception_is_logged_with_type_message_and_stack(pipe: Pipe) -> None:
    log = Log()
    try:
        int("boo")
    except ValueError:
        log.exception("failed", n=1)
    log.exception("outside")  # noqa: LOG004 - what happens then is the question
    failed, outside = pipe.lines()
    assert (failed["err"]["type"], failed["n"]) == ("ValueError", 1)
    assert failed["err"]["message"].startswith("invalid literal")
    assert "Traceback" in failed["err"]["stack"]
    assert "err" not in outside


@pytest.mark.parametrize("fields", [{"text": "x" * 100_000}, {f"f{n}": "y" * 3000 for n in range(100)}])
def test_a_record_too_long_for_the_log_is_shortened_and_says_so(pipe: Pipe, fields: dict[str, Any]) -> None:
    Log().info("z" * 100_000, **fields)
    [line] = pipe.lines()
    assert len(json.dumps(line)) < 65_536
    assert "more characters" in line["msg"]


def test_lines_of_many_threads_stay_whole_whatever_their_length(pipe: Pipe) -> None:
    log = Log()

    def work(name: int) -> None:
        for n in range(50):
            log.info("x" * (n * 400), thread=name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(pipe.lines()) == 200


def test_a_closed_pipe_does_not_end_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setenv(contract.ENV_LOG_FD, str(writing))
    os.close(reading)
    log = Log()
    log.info("nobody reads")
    log.info("still not")
    os.close(writing)
    log.info("not even a descriptor")
    log.info("readable now")


def test_a_descriptor_that_is_not_the_log_pipe_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "data").open("wb") as file:
        monkeypatch.setenv(contract.ENV_LOG_FD, str(file.fileno()))
        Log().info("a child that inherited the variable but not the pipe")
    assert (tmp_path / "data").read_bytes() == b""
    assert "a child that" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["", "x", "-1", "999999"])
def test_a_descriptor_that_is_none_falls_back_to_stderr(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(contract.ENV_LOG_FD, number)
    Log().warn("here")
    assert "WARN  here" in capsys.readouterr().err


def test_a_fork_while_another_thread_logs_does_not_hang_the_child(pipe: Pipe) -> None:
    code = (
        "import os, threading\nfrom slotsched import log\n"
        "run = True\n"
        "def work():\n    while run: log.info('x' * 3000)\n"
        "thread = threading.Thread(target=work); thread.start()\n"
        "for n in range(20):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n        log.info('from a child'); os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "run = False\nthread.join()\n"
    )
    env = {**os.environ, contract.ENV_LOG_FD: str(pipe.writing)}
    subprocess.run([sys.executable, "-c", code], env=env, pass_fds=[pipe.writing], timeout=30, check=True)


def test_the_script_side_imports_little() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom slotsched import task, log, Cancel\n"
        "print(*(set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert set(shown.stdout.split()) == {"slotsched", "slotsched.job", "slotsched.contract", "__future__"}
