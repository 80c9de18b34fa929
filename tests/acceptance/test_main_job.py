"""How a task can end, what is recorded of it, and that its instance goes on: one instance, the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from fleet import Fleet, boottime, processes_of, until
from proc_sampler import with_command_line

from slotsched.model import Task

FULL_WIDTH = 8  # of the shared instance: nothing runs beside such a task, so tasks run in the order of the queue


@dataclass(frozen=True)
class Ending:
    """What the script is asked to do, and what must be recorded."""

    args: Mapping[str, int]
    status: str
    reason: str
    exit_code: int | None = None
    signal: int | None = None


ENDINGS = {
    "exit 0": Ending({}, "completed", "exit", exit_code=0),
    "exit 1": Ending({"code": 1}, "failed", "exit", exit_code=1),
    "exit 100": Ending({"code": 100}, "canceled", "canceled_by_job", exit_code=100),
    "exit 7": Ending({"code": 7}, "failed", "exit", exit_code=7),
    "exit 255": Ending({"code": 255}, "failed", "exit", exit_code=255),
    "SIGSEGV": Ending({"signal": 11}, "failed", "signal", signal=11),
    "SIGKILL": Ending({"signal": 9}, "failed", "signal", signal=9),
}


@pytest.fixture(scope="module")
def ended(shared: Fleet) -> dict[str, tuple[Task, Task]]:
    """Per way to end: the task that ended so, and the next one in the queue, each as wide as the instance."""
    lines = [
        {"job": "work", "args": args, "slots": FULL_WIDTH} for ending in ENDINGS.values() for args in (ending.args, {})
    ]
    ids = shared.enqueue_many(lines)
    assert shared.cli("wait", *ids, check=False).returncode == 1, "the worst of them failed"
    tasks = shared.ended(*ids)
    return dict(zip(ENDINGS, zip(tasks[::2], tasks[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", ENDINGS)
def test_an_end_is_recorded_with_its_code_or_signal_and_the_instance_runs_the_next_task(
    name: str, ended: dict[str, tuple[Task, Task]], shared: Fleet
) -> None:
    task, following = ended[name]
    expected = ENDINGS[name]
    assert (task.status, task.reason) == (expected.status, expected.reason)
    assert (task.exit_code, task.signal) == (expected.exit_code, expected.signal)
    assert task.last_attempt is not None
    assert (task.last_attempt.exit_code, task.last_attempt.signal) == (expected.exit_code, expected.signal)
    assert following.status == "completed"
    (end,) = [mark for mark in shared.witness.marks("end") if mark.task == task.id]
    (start,) = shared.witness.starts(following.id)
    assert end.at < start.at


def test_uncaught_exceptions_of_main_and_of_a_thread_are_in_the_log_and_only_mains_fails_the_task(
    shared: Fleet,
) -> None:
    raised, survived = shared.ended(*shared.enqueue_many([{"job": "crash"}, {"job": "crash", "args": {"main": False}}]))
    assert (raised.status, raised.reason, raised.exit_code) == ("failed", "exit", 1)
    assert survived.status == "completed"
    log = shared.cli("logs", raised.id, "--raw", "--stream", "stderr").stdout
    assert "Traceback (most recent call last)" in log
    assert 'crash.py", line' in log
    assert "RuntimeError: nobody catches this" in log
    assert "RuntimeError: the thread's own trouble" in log
    assert "RuntimeError: the thread's own trouble" in shared.cli("logs", survived.id).stdout


def test_a_job_that_is_done_before_its_max_time_completes_at_once(shared: Fleet) -> None:
    (task,) = shared.ended(shared.enqueue("work", "seconds=1", "--max-time", "3s"))
    assert task.status == "completed"
    assert task.started_at is not None
    assert task.ended_at is not None
    assert 1.0 <= (task.ended_at - task.started_at).total_seconds() < 1.5
    (start,) = shared.witness.starts(task.id)
    assert shared.witness.wait_for("end", task.id).at - start.at < 1.5


def test_max_time_ends_a_job_that_ignores_sigterm_with_all_its_descendants(shared: Fleet) -> None:
    mark = f"deaf-{shared.folder.name}-max-time"
    task_id = shared.enqueue("deaf", f"mark={mark}", "--max-time", "2s")
    start = shared.witness.wait_for("start", task_id)
    until(lambda: len(with_command_line(mark)) == 2, what="the child and the daemon")
    term = shared.witness.wait_for("term", task_id)
    assert 0.5 < term.at - start.at < 2.5, "the start is written some time after the script began"
    until(lambda: not processes_of(task_id), what="the tree's death")
    assert boottime() - start.at < 4.0, "max time + grace + 1 s"
    assert with_command_line(mark) == [], "nor has the daemon without an environment survived"
    (task,) = shared.ended(task_id, seconds=2)
    assert (task.status, task.reason) == ("failed", "timeout")
    assert task.started_at is not None
    assert task.ended_at is not None
    assert (task.ended_at - task.started_at).total_seconds() < 4.0
