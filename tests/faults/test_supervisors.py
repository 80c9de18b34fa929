"""F04: supervisors and spawners that are killed, stopped or refused a process; what runs and what waits survives it.

SIGTERM and the second SIGTERM (F05) are in `acceptance/test_drain_and_resume.py`, supervisors under the lease in
`integration/test_process_lease.py`, who decides when in `unit/test_supervision.py`.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, processes_of, until
from proc_sampler import with_command_line
from process_lab import ESCAPER, opened

from slotsched.scheduler.supervision import OVERDUE_SECONDS, UNSEEN_SECONDS

SWEPT_SECONDS = {"pidns": 1.0, "subreaper": 2.0}
SPAWNER, SUPERVISOR = "slotsched-spawn", "slotsched-sup"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")


def parts(instance: InstanceProcess, kind: str) -> list[psutil.Process]:
    """The instance's living spawner, or its supervisors."""
    found = []
    for process in instance.tree():
        try:
            if process.name() == kind and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def spawner(instance: InstanceProcess) -> psutil.Process:
    """Not what it has just forked, which bears its name for a moment."""

    def found() -> psutil.Process | None:
        return next((one for one in parts(instance, SPAWNER) if one.ppid() == instance.pid), None)

    return until(found, what="a spawner")


def said(instance: InstanceProcess, text: str) -> int:
    """How often the scheduler's log has a message with `text`."""
    return sum(text in line["msg"] for line in instance.log())


# --- killed -----------------------------------------------------------------------------------------


def start_deaf(fleet: Fleet) -> tuple[str, str]:
    """A task that ignores SIGTERM, with a child and a daemon without its environment; and the word to find all by."""
    mark = f"deaf-{uuid.uuid4().hex}"
    task = fleet.client.enqueue("deaf", {"mark": mark}).id
    fleet.witness.wait_for("start", task)
    until(lambda: len(with_command_line(mark)) == 2, what="its child and its daemon")
    return task, mark


def death_of(task: str, mark: str) -> float:
    """When the last of its processes was gone."""
    return until(lambda: not (processes_of(task) or with_command_line(mark)) and boottime(), what="its tree to be dead")


@pytest.mark.parametrize("containment", ["pidns", "subreaper"])
def test_a_killed_supervisor_ends_its_attempt_and_no_other(
    make_fleet: FleetMaker, figure: Figures, containment: str
) -> None:
    """Then the same with the spawner and the scheduler killed too: the next start settles it."""
    with make_fleet(containment=containment) as fleet:
        instance = fleet.start("bereft", slots=3)
        doomed, mark = start_deaf(fleet)
        (supervisor,) = parts(instance, SUPERVISOR)
        neighbour = fleet.client.enqueue("work", {"seconds": 2}).id
        fleet.witness.wait_for("start", neighbour)
        supervisor.kill()
        took = -boottime() + death_of(doomed, mark)
        figure("F04", f"supervisor killed ({containment}): tree dead", took, at_most=SWEPT_SECONDS[containment])
        ended, untouched = fleet.ended(doomed, neighbour)
        assert (ended.status, ended.reason, ended.message) == ("failed", "lost", "its supervisor was killed")
        assert untouched.status == "completed"

        orphan, mark = start_deaf(fleet)
        parts_of_it = [psutil.Process(instance.pid), *parts(instance, SPAWNER), *parts(instance, SUPERVISOR)]
        for process in parts_of_it:
            process.suspend()  # so that none of them sees the others' end
        for process in parts_of_it:
            process.kill()
        instance.process.wait(10)
        if containment == "subreaper":
            assert len(with_command_line(mark)) == 2, "nobody was left to end it, so the next start has to"
        fleet.start("bereft", slots=3)
        took = -boottime() + death_of(orphan, mark)
        figure("F04", f"all killed ({containment}): tree dead after the next start", took, at_most=2.0)
        (ended,) = fleet.ended(orphan)
        assert (ended.status, ended.reason, len(ended.attempts)) == ("failed", "lost", 1)
        assert fleet.ended(fleet.client.enqueue("work").id)[0].status == "completed"


def test_a_spawner_that_is_killed_again_and_again_costs_no_task_and_not_the_loop(fleet: Fleet, figure: Figures) -> None:
    instance = fleet.start("hydra", slots=4)
    long = fleet.client.enqueue("talker", {"lines": 400, "pause": 0.01, "code": 7}).id
    fleet.witness.wait_for("start", long)
    tasks = [one.id for one in fleet.client.enqueue_many([{"job": "work", "args": {"seconds": 0.05}}] * 25)]
    kills = 0
    while kills < 3:
        doomed = spawner(instance)
        doomed.kill()
        kills += 1
        until(lambda doomed=doomed: not doomed.is_running() or doomed.status() == psutil.STATUS_ZOMBIE)
        assert fleet.client.store.instances.live()[0].name == "hydra"
    ended = fleet.ended(long, *tasks, seconds=40)

    assert (ended[0].status, ended[0].exit_code) == ("failed", 7), "supervisors live on"
    figure("F04", "tasks lost by killed spawners", sum(one.status != "completed" for one in ended[1:]), "", exactly=0)
    starts = sorted(mark.task for mark in fleet.witness.marks("start"))
    assert starts == sorted([long, *tasks]), "each started once"
    figure("F04", "spawners started for as many killed", said(instance, "the spawner died") / kills, "", at_most=1)
    assert said(instance, "declared dead") == 0


# --- stopped ----------------------------------------------------------------------------------------


def test_a_supervisor_that_somebody_stopped_is_ended_at_its_tasks_max_time_and_obeys_a_cancel(
    shared: Fleet, figure: Figures
) -> None:
    instance = shared.instances[0]
    frozen = shared.client.enqueue("ignorant", max_time="1s").id  # its grace is 1 s
    started = shared.witness.wait_for("start", frozen).at
    (supervisor,) = parts(instance, SUPERVISOR)
    supervisor.suspend()
    canceled, mark = start_deaf(shared)
    (other,) = [one for one in parts(instance, SUPERVISOR) if one.pid != supervisor.pid]
    other.suspend()

    asked = boottime()
    shared.client.store.tasks.cancel(canceled, by="the test", kill=True)
    figure("F04", "stopped supervisor: tree dead after cancel --kill", death_of(canceled, mark) - asked, at_most=1.5)
    dead = until(lambda: not processes_of(frozen) and boottime(), what="the end of the overdue one")
    figure("F04", "stopped supervisor: ended after max time + grace", dead - started - 2.0, at_most=OVERDUE_SECONDS + 2)
    first, second = shared.ended(frozen, canceled)
    assert (first.status, first.reason) == ("failed", "timeout")
    assert (second.status, second.reason) == ("canceled", "canceled")


@pytest.mark.parametrize("rung", ["pidns", "userns", "cgroup", "subreaper"])
def test_a_stopped_supervisor_dies_of_sigkill_and_its_tree_with_it(tmp_path: Path, figure: Figures, rung: str) -> None:
    """The last resort for one that does not even wake."""
    with opened(tmp_path, rung) as lab:
        attempt = lab.start("/usr/bin/env", "python3", "-I", "-S", "-c", ESCAPER, "5")
        attempt.wait_text("loose")
        os.kill(attempt.pid, signal.SIGSTOP)
        killed = boottime()
        os.kill(attempt.pid, signal.SIGKILL)
        dead = until(lambda: not attempt.alive() and boottime(), seconds=4, what="the end of the tree")
        figure(
            "F04", f"stopped supervisor killed ({rung}): tree dead", dead - killed, at_most=SWEPT_SECONDS["subreaper"]
        )


@pytest.mark.chaos
def test_a_spawner_that_somebody_stopped_is_replaced(fleet: Fleet, figure: Figures) -> None:
    instance = fleet.start("stuck", slots=2)
    spawner(instance).suspend()
    begun = boottime()
    tasks = [fleet.client.enqueue("work").id for _ in range(4)]
    ended = fleet.ended(*tasks, seconds=60)
    assert {(one.status, len(one.attempts)) for one in ended} == {("completed", 1)}
    assert len(fleet.witness.marks("start")) == 4
    figure("F04", "stopped spawner: its tasks done", boottime() - begun, at_most=2 * UNSEEN_SECONDS + 8)


# --- refused ----------------------------------------------------------------------------------------


@pytest.fixture
def process_limit() -> Iterator[Path]:
    """A group in which no process can be forked, as after somebody's fork bomb; cgroup v1."""
    group = Path(f"/sys/fs/cgroup/pids/slotsched-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"NOT TESTED HERE: no pids controller: {error}")
    (group / "pids.max").write_text("1")
    yield group
    (group / "pids.max").write_text("max")
    until(lambda: not (group / "cgroup.procs").read_text(), what="an empty group")
    group.rmdir()


@needs_root
def test_a_machine_that_can_start_no_process_gives_its_tasks_back_says_why_and_rests(
    process_limit: Path, fleet: Fleet, figure: Figures
) -> None:
    poor = fleet.start("poor", slots=4)
    try:
        (process_limit / "cgroup.procs").write_text(str(spawner(poor).pid))
        task = fleet.client.enqueue("work").id
        until(lambda: said(poor, "not started; releasing it"), what="a refusal")
        until(lambda: "claims nothing: it cannot start a process" in fleet.cli("why", task).stdout, what="a reason")
        until(lambda: fleet.instance("poor")["hindrance"], what="a hindrance")
        until(lambda: fleet.client.get(task).status == "pending", what="it to be given back")  # it is tried again
        figure("F16", "tries while no process could be forked", said(poor, "not started; releasing it"), "", at_most=5)
        (process_limit / "pids.max").write_text("max")
        (ended,) = fleet.ended(task)
        assert (ended.status, len(ended.attempts), len(fleet.witness.starts(task))) == ("completed", 1, 1)
        until(lambda: fleet.instance("poor")["hindrance"] is None, what="an end of the hindrance")
    finally:
        poor.stop()
