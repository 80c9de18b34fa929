"""The checker of the fault suite goes red for every kind of violation, and for nothing else."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest
from checker import Evidence, judge
from fleet import Mark
from proc_sampler import Sighting

from slotsched.model import Attempt, InstanceRef, LogRef, Reason, RetryPolicy, Status, Task

TASK, OTHER = "a" * 24, "b" * 24
NOW = dt.datetime(2026, 11, 21, tzinfo=dt.UTC)
ONE = InstanceRef(id="1", name="one")


def mark(event: str, at: float, *, task: str = TASK, fence: int = 1, slots: int = 1, instance: str = "one") -> Mark:
    return Mark(event=event, task=task, attempt=fence, fence=fence, pid=9, slots=slots, instance=instance, at=at)


def lines(*moments: float) -> bytes:
    return b"".join(b"line %d %.2f\n" % (number, at) for number, at in enumerate(moments, 1))


def logged(said: bytes) -> bytes:
    messages = said.decode().splitlines()
    return b"".join(
        json.dumps({"level": 30, "time": 1, "stream": "stdout", "msg": one}).encode() + b"\n" for one in messages
    )


def attempt(fence: int = 1, reason: Reason | None = Reason.EXIT, *, uploaded: bool = True) -> Attempt:
    return Attempt(
        number=fence,
        fence=fence,
        instance=ONE,
        started_at=NOW,
        ended_at=NOW if reason else None,
        reason=reason,
        log=LogRef(store="s", key="k", uploaded=uploaded),
    )


def task(*attempts: Attempt, task_id: str = TASK, status: Status = Status.COMPLETED, retries: int = 0) -> Task:
    return Task(
        id=task_id,
        job="say",
        args={},
        status=status,
        due_at=NOW,
        created_at=NOW,
        attempts=attempts,
        attempt=len(attempts),
        fence=max((one.fence for one in attempts), default=0),
        retry=RetryPolicy(limit=retries),
    )


SAID = lines(10.0, 11.0, 12.0)
SOUND = Evidence(
    acknowledged=[TASK],
    tasks={TASK: task(attempt())},
    marks=[mark("start", 10.0), mark("end", 12.5)],
    sightings={(TASK, "1"): Sighting("one", 1, 10.1, 12.4)},
    said={(TASK, 1): SAID},
    logs={(TASK, 1): logged(SAID)},
    capacity={"one": 2},
)
# An attempt killed at 12.5, and its retry.
RETRIED = replace(
    SOUND,
    tasks={TASK: task(attempt(1, Reason.LOST), attempt(2), retries=1)},
    marks=[mark("start", 10.0), mark("start", 20.0, fence=2), mark("end", 20.5, fence=2)],
    said={(TASK, 1): SAID, (TASK, 2): lines(20.0)},
    logs={(TASK, 1): logged(SAID[:-9]), (TASK, 2): logged(lines(20.0))},
)


def kinds(evidence: Evidence) -> set[str]:
    return {kind for kind, found in judge(evidence).kinds().items() if found}


@pytest.mark.parametrize("evidence", [SOUND, RETRIED], ids=["completed", "retried after a loss"])
def test_a_sound_run_is_green(evidence: Evidence) -> None:
    verdict = judge(evidence)
    assert verdict.violations == 0, verdict.report()
    assert verdict.attempts == sum(one.event == "start" for one in evidence.marks)


# --- lost -------------------------------------------------------------------------------------------


def test_an_acknowledged_task_that_the_store_does_not_know_is_lost() -> None:
    assert kinds(replace(SOUND, acknowledged=[TASK, OTHER])) == {"lost"}


def test_a_completed_task_whose_script_never_ended_is_lost() -> None:
    assert "lost" in kinds(replace(SOUND, marks=SOUND.marks[:1]))


def test_the_end_of_another_attempt_does_not_count() -> None:
    marks = [*RETRIED.marks[:2], mark("end", 12.5, fence=1)]
    assert "lost" in kinds(replace(RETRIED, marks=marks))


def test_a_task_that_never_ends_is_told() -> None:
    assert kinds(replace(SOUND, tasks={TASK: task(attempt(), status=Status.PENDING)})) == {"not ended"}


def test_an_attempt_without_an_end_in_an_ended_task_is_told() -> None:
    tasks = {TASK: task(attempt(1, None), attempt(2), retries=1)}
    assert kinds(replace(RETRIED, tasks=tasks)) == {"not ended"}


# --- doubled ----------------------------------------------------------------------------------------


def test_two_starts_under_one_claim_are_a_double() -> None:
    assert "doubled" in kinds(replace(SOUND, marks=[*SOUND.marks, mark("start", 13.0)]))


def test_a_second_start_of_a_task_without_retries_is_a_double() -> None:
    assert "doubled" in kinds(replace(RETRIED, tasks={TASK: task(attempt(1, Reason.LOST), attempt(2))}))


def test_a_start_under_a_claim_that_was_given_back_is_a_double() -> None:
    assert "doubled" in kinds(replace(RETRIED, tasks={TASK: task(attempt(2), retries=1)}))


def test_two_attempts_alive_together_are_a_double_by_the_sampler() -> None:
    seen = {(TASK, "1"): Sighting("one", 1, 10.1, 20.3)}
    assert kinds(replace(RETRIED, sightings=seen, capacity={"one": 9})) == {"doubled"}


def test_two_attempts_alive_together_are_a_double_by_what_they_said() -> None:
    said = lines(10.0, 15.0, 20.4)
    logs = {**RETRIED.logs, (TASK, 1): logged(said)}
    assert kinds(replace(RETRIED, said={**RETRIED.said, (TASK, 1): said}, logs=logs, capacity={"one": 9})) == {
        "doubled"
    }


# --- overcommitted ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "found"), [(1, set()), (2, {"overcommitted"})])
def test_more_slots_than_there_are_at_any_moment_are_told(slots: int, found: set[str]) -> None:
    both = replace(
        SOUND,
        acknowledged=[TASK, OTHER],
        tasks={TASK: task(attempt()), OTHER: task(attempt(), task_id=OTHER)},
        marks=[*SOUND.marks, mark("start", 12.0, task=OTHER, slots=slots), mark("end", 13.0, task=OTHER, slots=slots)],
        said={**SOUND.said, (OTHER, 1): b""},
        logs={**SOUND.logs, (OTHER, 1): b""},
    )
    assert kinds(both) == found
    elsewhere = [replace(one, instance="two") if one.task == OTHER else one for one in both.marks]
    assert kinds(replace(both, marks=elsewhere, capacity={"one": 2, "two": 2})) == set()


def test_a_process_that_outlives_its_script_holds_its_slots() -> None:
    marks = [*SOUND.marks, mark("start", 13.0, task=OTHER, slots=2), mark("end", 14.0, task=OTHER, slots=2)]
    lingering = replace(
        SOUND,
        tasks={TASK: task(attempt()), OTHER: task(attempt(), task_id=OTHER)},
        marks=marks,
        sightings={(TASK, "1"): Sighting("one", 1, 10.1, 13.5)},
        said={**SOUND.said, (OTHER, 1): b""},
        logs={**SOUND.logs, (OTHER, 1): b""},
    )
    assert kinds(lingering) == {"overcommitted"}


# --- logs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "log",
    [
        None,
        logged(SAID)[:-60],
        logged(SAID).replace(b"line 2", b"line 7"),
        logged(SAID) + logged(b"line 4 13.00\n"),
        b"",
    ],
    ids=["missing", "cut", "changed", "more than was said", "empty"],
)
def test_the_log_of_a_script_that_ended_must_be_whole(log: bytes | None) -> None:
    if log is not None and log and not log.endswith(b"\n"):
        log = log[: log.rfind(b"\n") + 1]
    assert kinds(replace(SOUND, logs={} if log is None else {(TASK, 1): log})) == {"logs incomplete"}


@pytest.mark.parametrize(
    ("said", "kept", "found"),
    [
        (SAID, SAID, set()),
        (SAID, lines(10.0, 11.0), set()),  # the last one was in the pipe
        (lines(10.0, 11.0), SAID, set()),  # killed between the line and its copy
        (SAID, b"", {"logs incomplete"}),
        (SAID, lines(10.0).replace(b"line 1", b"line 2"), {"logs incomplete"}),
        (SAID, lines(10.0, 11.5, 12.0), {"logs incomplete"}),
    ],
)
def test_the_log_of_a_killed_attempt_must_reach_to_the_kill(said: bytes, kept: bytes, found: set[str]) -> None:
    killed = replace(
        SOUND,
        tasks={TASK: task(attempt(1, Reason.LOST), status=Status.FAILED)},
        marks=SOUND.marks[:1],
        said={(TASK, 1): said},
        logs={(TASK, 1): logged(kept)},
    )
    assert kinds(killed) == found


def test_a_log_that_its_task_does_not_know_of_is_told() -> None:
    tasks = {TASK: task(attempt(uploaded=False))}
    assert kinds(replace(SOUND, tasks=tasks)) == {"logs incomplete"}


def test_the_report_counts_and_names_what_was_found() -> None:
    report = judge(replace(SOUND, acknowledged=[TASK, OTHER])).report()
    assert "lost: 1" in report
    assert OTHER in report
    assert "doubled: 0" in report
