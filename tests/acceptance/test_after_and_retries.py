"""Tasks that wait for tasks, tasks that are tried again, and tasks there is only one of: as a user sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, FleetMaker, boottime, until
from fleet_fixtures import LEASE_SECONDS, POLL_SECONDS

from slotsched import contract

NOT_BEFORE = 0.75  # of a retry's delay: chance spreads it by a quarter both ways


def end_of(fleet: Fleet, task_id: str) -> float:
    return fleet.witness.wait_for("end", task_id).at


class Gate:
    """What tasks of the job `gate` wait for."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "open"
        self.word = f"file={self.file}"

    def open(self) -> float:
        """CLOCK_BOOTTIME of the moment."""
        now = boottime()
        self.file.touch()
        return now


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.open()


# --- after -----------------------------------------------------------------------------------------
def test_a_task_after_another_runs_once_when_that_one_has_completed(shared: Fleet, gate: Gate) -> None:
    first = shared.enqueue("gate", gate.word)
    second = shared.enqueue("work", "--after", first[-8:])
    shown = shared.task(second)
    assert (shown["status"], shown["parents"], shown["trigger"]) == ("waiting", [first], f"after:{first}")
    assert re.search(rf"waits for {first[-8:]} gate \(\w+\) to complete", shared.cli("why", second).stdout)
    assert f"waits for {first[-8:]}" in shared.cli("ps").stdout
    assert shared.witness.starts(second) == []
    gate.open()
    before, after = shared.ended(first, second)
    assert (before.status, after.status) == ("completed", "completed")
    [start] = shared.witness.starts(second)
    waited = start.at - end_of(shared, first)
    print(f"the second began {waited * 1000:.0f} ms after the first one's end")
    assert 0 < waited < POLL_SECONDS
    assert after.due_at >= before.ended_at  # type: ignore[operator]


@pytest.mark.parametrize(("words", "status"), [(("code=3",), "failed"), (("code=100",), "canceled")])
def test_a_chain_behind_a_task_that_did_not_complete_is_canceled(
    shared: Fleet, words: tuple[str, ...], status: str
) -> None:
    first = shared.enqueue("work", "seconds=0.5", *words)
    second = shared.enqueue("work", "--after", first)
    third = shared.enqueue("work", "--after", second)
    tasks = shared.ended(first, second, third)
    assert [task.status for task in tasks] == [status, "canceled", "canceled"]
    assert [task.reason for task in tasks[1:]] == ["upstream", "upstream"]
    assert f"{first[-8:]} {status}" in shared.cli("task", "show", second).stdout
    assert shared.cli("wait", third, check=False).returncode == contract.EXIT_CANCELED
    assert shared.witness.starts(second) == shared.witness.starts(third) == []


def test_a_chain_behind_a_task_that_a_person_cancels_is_canceled(shared: Fleet) -> None:
    first = shared.enqueue("work", "seconds=30")
    second = shared.enqueue("work", "--after", first)
    shared.witness.wait_for("start", first)
    shared.cli("cancel", first)
    _, task = shared.ended(first, second)
    assert (task.status, task.reason) == ("canceled", "upstream")
    assert shared.witness.starts(second) == []


def test_a_waiting_task_can_be_canceled_and_takes_what_waits_for_it_along(shared: Fleet, gate: Gate) -> None:
    first = shared.enqueue("gate", gate.word)
    second = shared.enqueue("work", "--after", first)
    third = shared.enqueue("work", "--after", second)
    assert shared.cli("cancel", second).stdout == f"{second[-8:]} canceled\n"
    gate.open()
    tasks = shared.ended(first, second, third)
    assert [task.status for task in tasks] == ["completed", "canceled", "canceled"]
    assert [task.reason for task in tasks[1:]] == ["canceled", "upstream"]


@pytest.mark.parametrize(
    ("when", "code", "status"),
    [
        ("failure", 1, "completed"),
        ("failure", 0, "canceled"),
        ("any", 1, "completed"),
        ("any", 100, "completed"),
        ("success", 1, "canceled"),
    ],
)
def test_when_says_how_the_other_must_end(shared: Fleet, when: str, code: int, status: str) -> None:
    first = shared.enqueue("work", f"code={code}", "seconds=0.2")
    second = shared.enqueue("work", "--after", first, "--when", when)
    (task,) = shared.ended(second)
    assert task.status == status


def test_a_task_waits_for_all_its_parents_and_runs_once(shared: Fleet) -> None:
    parents = [shared.client.enqueue("work", {"seconds": 0.3 * n}) for n in range(5)]
    joined = shared.client.enqueue("work", after=parents, tags=["joined"])
    assert joined.status == "waiting"
    assert joined.wait(30).status == "completed"
    [start] = shared.witness.starts(joined.id)
    assert start.at > max(end_of(shared, parent.id) for parent in parents)


def test_what_has_ended_already_keeps_nobody_waiting(shared: Fleet) -> None:
    good = shared.client.enqueue("work")
    bad = shared.client.enqueue("work", {"code": 2})
    shared.ended(good.id, bad.id)
    begun = boottime()
    behind_good, behind_bad = (shared.client.enqueue("work", after=[one]) for one in (good, bad))
    assert [task.status for task in shared.ended(behind_good.id, behind_bad.id)] == ["completed", "canceled"]
    assert shared.witness.starts(behind_good.id)[0].at - begun < POLL_SECONDS + 1


def test_a_later_due_time_still_counts(shared: Fleet) -> None:
    first = shared.enqueue("work")
    second = shared.enqueue("work", "--after", first, "--in", "3s")
    enqueued = boottime()
    (task,) = shared.ended(second)
    assert task.status == "completed"
    assert shared.witness.starts(second)[0].at - enqueued > 1.5


def test_lines_may_name_parents(shared: Fleet) -> None:
    first = shared.enqueue("work", "seconds=0.5")
    lines = [{"job": "work", "after": [first]}, {"job": "work", "after": first, "when": "failure"}]
    assert [task.status for task in shared.ended(*shared.enqueue_many(lines))] == ["completed", "canceled"]


def test_lines_that_name_a_parent_that_is_not_there_are_refused_and_none_is_stored(shared: Fleet) -> None:
    before = shared.cli("task", "ls", "-n", "0", "-o", "id").stdout
    lines = [{"job": "work"}] * 3 + [{"job": "work", "after": ["0" * 24]}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = shared.cli("enqueue", "--from-jsonl", "-", stdin=text, check=False)
    assert done.returncode == contract.EXIT_USAGE
    assert f'line 4: no task "{"0" * 24}" to wait for' in done.stderr
    assert shared.cli("task", "ls", "-n", "0", "-o", "id").stdout == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--when", "any"), contract.EXIT_USAGE, "--when needs --after"),
        (("--after", "0" * 24), contract.EXIT_NOT_FOUND, 'no task "000000000000000000000000"'),
        (("--after", "@last", "--when", "sucess"), contract.EXIT_USAGE, 'did you mean "success"?'),
    ],
)
def test_what_cannot_be_waited_for_is_refused(shared: Fleet, words: tuple[str, ...], code: int, said: str) -> None:
    shared.enqueue("work")
    before = shared.cli("task", "ls", "-n", "0", "-o", "id").stdout
    done = shared.cli("enqueue", "work", *words, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert shared.cli("task", "ls", "-n", "0", "-o", "id").stdout == before


def test_a_chain_goes_on_when_an_instance_is_killed_in_the_middle_of_it(make_fleet: FleetMaker) -> None:
    with make_fleet() as fleet:
        doomed = fleet.start("doomed", slots=2)
        chain = [fleet.client.enqueue("again", {"seconds": 0.3})]
        for _ in range(7):
            chain.append(fleet.client.enqueue("again", {"seconds": 0.3}, after=[chain[-1]]))
        fleet.witness.wait_for("start", chain[3].id)
        doomed.kill_all()
        fleet.start("heir", slots=2)
        tasks = fleet.ended(*(one.id for one in chain), seconds=3 * LEASE_SECONDS + 20)
        assert {task.status for task in tasks} == {"completed"}
        starts = [fleet.witness.starts(one.id) for one in chain]
        assert [len(marks) for marks in starts] == [2 if n == 3 else 1 for n in range(8)]
        for before, marks in zip(chain, starts[1:], strict=False):
            assert marks[0].at > end_of(fleet, before.id)


# --- retries ---------------------------------------------------------------------------------------
def test_every_attempt_has_its_own_record_and_log_and_its_delay_grows_to_the_cap(shared: Fleet) -> None:
    task_id = shared.enqueue("flaky", "good=4")
    (task,) = shared.ended(task_id)
    assert (task.status, task.attempt) == ("completed", 4)
    assert [(one.number, one.reason, one.exit_code) for one in task.attempts] == [
        (1, "exit", 11),
        (2, "exit", 12),
        (3, "exit", 13),
        (4, "exit", 0),
    ]
    for number in range(1, 5):
        log = shared.cli("logs", task_id, "--attempt", str(number), "--raw").stdout
        assert log == f"this is attempt {number}\n"
    starts, ends = (sorted(m.at for m in shared.witness.marks(e) if m.task == task_id) for e in ("start", "end"))
    gaps = [after - before for before, after in zip(ends, starts[1:], strict=False)]
    print("delays: " + ", ".join(f"{gap:.2f} s" for gap in gaps))
    for gap, delay in zip(gaps, (0.4, 0.8, 1.0), strict=True):
        assert NOT_BEFORE * delay < gap < 1.25 * delay + 2 * POLL_SECONDS
    assert len({one.log.key for one in task.attempts if one.log}) == 4


def test_a_task_whose_attempts_are_used_up_has_failed(shared: Fleet) -> None:
    (task,) = shared.ended(shared.enqueue("flaky", "good=9", "--retries", "1"))
    assert (task.status, task.reason, task.exit_code, task.attempt) == ("failed", "exit", 12, 2)


def test_only_the_reasons_that_the_job_names_are_tried_again(shared: Fleet) -> None:
    failing, slow = shared.ended(shared.enqueue("picky"), shared.enqueue("picky", "seconds=20"))
    assert (failing.status, failing.reason, failing.attempt) == ("failed", "exit", 1)
    assert (slow.status, slow.reason, slow.attempt) == ("failed", "timeout", 2)
    assert len(shared.witness.starts(slow.id)) == 2


def test_why_says_what_happened_and_when_it_is_tried_again(shared: Fleet) -> None:
    task_id = shared.client.enqueue("flaky", {"good": 3}).id  # a CLI may come back after the next attempt's start
    said = until(
        lambda: found if "attempt 1" in (found := shared.client.why(task_id)) else None, what="the first attempt's end"
    )
    assert re.fullmatch(r"attempt 1: exit code 11; next attempt at .*", said)
    shared.ended(task_id)


def test_a_task_that_takes_its_instance_down_three_times_has_failed(make_fleet: FleetMaker) -> None:
    with make_fleet() as fleet:
        task_id = fleet.client.enqueue("poison").id
        for number in (1, 2, 3):
            instance = fleet.start(f"victim-{number}", slots=1)
            until(lambda n=number: len(fleet.witness.starts(task_id)) == n, seconds=30, what=f"start {number}")  # type: ignore[misc]
            instance.kill_all()
        fleet.start("last", slots=1)
        (task,) = fleet.ended(task_id, seconds=3 * LEASE_SECONDS + 10)
        assert (task.status, task.reason, task.attempt) == ("failed", "lost", 3)
        assert [attempt.reason for attempt in task.attempts] == ["lost"] * 3
        assert "retry" in fleet.cli("cancel", task_id, check=False).stderr
        (following,) = fleet.ended(fleet.enqueue("work"))
        assert following.status == "completed"
        assert len(fleet.witness.starts(task_id)) == 3


def test_all_failed_ones_are_run_again_with_their_number_and_without_a_question_if_so_asked(shared: Fleet) -> None:
    lines = [{"job": "work", "args": {"code": 7}, "tags": ["again"]} for _ in range(5)]
    old = shared.ended(*shared.enqueue_many(lines))
    asked = ("retry", "--failed", "--since", "1h", "--tag", "again")
    refused = shared.cli(*asked, check=False)
    assert refused.returncode == contract.EXIT_USAGE
    assert "5 failed tasks" in refused.stderr
    done = shared.cli(*asked, "--yes")
    new = shared.ended(*done.stdout.split())
    assert sorted(str(task.retry_of) for task in new) == sorted(task.id for task in old)
    assert {task.trigger for task in new} == {f"retry:{task.retry_of}" for task in new}
    assert "5 of 5 failed tasks" in done.stderr
    assert [task.status for task in shared.ended(*(task.id for task in old))] == ["failed"] * 5


# --- one at a time ---------------------------------------------------------------------------------
def test_a_job_may_have_one_task_until_its_end(shared: Fleet, gate: Gate) -> None:
    first = shared.enqueue("one_running", gate.word)
    assert shared.enqueue("one_running", gate.word) == first
    shared.witness.wait_for("start", first)
    assert shared.enqueue("one_running", gate.word) == first
    gate.open()
    other = shared.enqueue("one_running", f"{gate.word}-other")
    assert other != first
    shared.cli("kill", other)
    shared.ended(first, other)
    again = shared.enqueue("one_running", gate.word)
    assert again != first
    shared.ended(again)


def test_a_job_may_have_one_task_until_its_start(shared: Fleet, gate: Gate) -> None:
    first = shared.enqueue("one_pending", gate.word)
    shared.witness.wait_for("start", first)
    second = shared.enqueue("one_pending", gate.word, "--in", "1h")
    assert second != first
    assert shared.enqueue("one_pending", gate.word) == second
    shown = json.loads(shared.cli("task", "show", second, "-o", "json").stdout)
    assert (shown["unique"], shown["status"]) == ("pending", "scheduled")
    shared.cli("cancel", second)
    third = shared.enqueue("one_pending", gate.word)
    assert third not in (first, second)
    gate.open()
    assert {task.status for task in shared.ended(first, third)} == {"completed"}
    assert len(shared.witness.starts(first)) == len(shared.witness.starts(third)) == 1
