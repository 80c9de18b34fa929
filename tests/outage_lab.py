"""Taking the store away from a fleet, and what must be true of every kind of task meanwhile and afterwards."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager

from figures import Figures
from fleet import Fleet, InstanceProcess, boottime, processes_of, until

from slotsched.model import Instance, Task

LOCAL_SHARE = 0.8
GRACE_SECONDS = 1.0
# Until the lease thread's next renewal is answered, and the loop has looked.
BACK_SHARE_OF_LEASE, BACK_SECONDS = 0.5, 1.5

Outage = Callable[[], AbstractContextManager[None]]


def seconds(task: Task) -> float:
    """How long its last attempt took, as the store shows it."""
    assert task.started_at is not None
    assert task.ended_at is not None
    return (task.ended_at - task.started_at) / dt.timedelta(seconds=1)


def identities(instances: list[Instance]) -> set[tuple[str, int]]:
    return {(one.id, one.incarnation) for one in instances}


def called_lost(instance: InstanceProcess) -> list[str]:
    """What an instance says when it takes another one, or is taken, for dead."""
    return [line["msg"] for line in instance.log() if "dead" in line["msg"] or "up again" in line["msg"]]


def live_through(
    fleet: Fleet, outage: Outage, figure: Figures, *, lease: float, away: float, recovery: float = 0.0
) -> None:
    """Start one task of every kind, take the store away, and see each of them through.

    outage: the store's absence; recovery: seconds that the store itself may take after it, before it answers.
    """
    name = f"{away:g} s without the store, lease {lease:g} s"
    enqueue = fleet.client.enqueue
    local_deadline = LOCAL_SHARE * lease + 1.0
    before = fleet.client.store.instances.live()
    steady = enqueue("talker", {"lines": int((away + lease) / 0.02), "pause": 0.02}, max_time=away + lease + 60).id
    fine = enqueue("work", {"seconds": 1.2}).id
    bad = enqueue("work", {"seconds": 1.2, "code": 3}).id
    endless = enqueue("work", {"seconds": 3600}, max_time=2).id
    again = enqueue("again", {"seconds": lease + 1.0}).id
    pids = {task: fleet.witness.wait_for("start", task).pid for task in (steady, fine, bad, endless, again)}

    with outage():
        gone = boottime()
        for task in (fine, bad):
            assert fleet.witness.wait_for("end", task).at > gone, "it was to end while the store is away"
        until(lambda: not processes_of(endless), what="max time to be kept without a store")
        assert boottime() - fleet.witness.starts(endless)[0].at < 2.0 + GRACE_SECONDS + 1.0
        # Another attempt may follow this one, so it must not outlive the local deadline.
        until(lambda: not processes_of(again), seconds=lease + 5, what="the task with a retry to die")
        figure("F07", f"{name}: a task with a lost-retry is dead after", boottime() - gone, at_most=local_deadline)
        until(lambda: boottime() - gone >= away, seconds=away + 5)
        assert processes_of(steady), "a task without a retry lives on"
    back = boottime()

    probe = enqueue("work").id
    started = fleet.witness.wait_for("start", probe).at - back
    back_after = BACK_SHARE_OF_LEASE * lease + BACK_SECONDS + recovery
    figure("F07", f"{name}: the next start after its return", started, at_most=back_after)
    ended = {task.id: task for task in fleet.client.wait([steady, fine, bad, endless, again], lease + 60)}
    verdicts = {task: (t.status, t.reason, t.exit_code) for task, t in ended.items()}
    assert verdicts[steady] == ("completed", "exit", 0)
    assert verdicts[fine] == ("completed", "exit", 0)
    assert verdicts[bad] == ("failed", "exit", 3)
    assert verdicts[endless][:2] == ("failed", "timeout")
    assert verdicts[again] == ("completed", "exit", 0)
    assert 1.1 < seconds(ended[fine]) < 2.2, "as long as it ran, not as long as nobody could be told"
    assert 1.1 < seconds(ended[bad]) < 2.2
    assert [attempt.reason for attempt in ended[again].attempts] == ["lost", "exit"]
    assert {task: len(fleet.witness.starts(task)) for task in pids} == {**dict.fromkeys(pids, 1), again: 2}
    early = [mark for mark in fleet.witness.marks("start") if gone < mark.at < back]
    figure("F07", f"{name}: starts meanwhile", len(early), "", exactly=0)
    assert identities(fleet.client.store.instances.live()) == identities(before)
    lost = sum(len(called_lost(instance)) for instance in fleet.instances)
    figure("F07", f"{name}: instances called lost", lost, "", exactly=0)
