"""A wide task behind a saturating stream of narrow ones starts within its bound, also when who keeps room for it dies.

That taking whatever fits would never start it under such a stream, and that the promise is what does, is shown in the
simulator (tests/unit/test_slot_sim.py); here the same decisions are made by real instances about real processes.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fleet import Fleet, boottime, until
from fleet_fixtures import LEASE_SECONDS, POLL_SECONDS

RUNS_SECONDS = (1.2, 2.8, 2.0, 1.6, 2.4)  # of narrow tasks, in turn: uneven, so that slots come free one by one
MAX_SECONDS = 5.0  # it may take, start-up of its process on a busy machine included
WIDE_SECONDS = 1.0
PATIENCE_SECONDS = 40.0  # after which a wide task is taken to be starved
BUSY_SHARE = 0.7  # of all slot-seconds; the rest is starting processes on a shared machine, and the room kept


class Stream:
    """One-slot tasks, always so many of them due and not yet started: whatever slot comes free is wanted at once."""

    def __init__(self, fleet: Fleet, backlog: int) -> None:
        self.backlog = backlog
        self._fleet = fleet
        self._ids: set[str] = set()
        self._runs = itertools.cycle(RUNS_SECONDS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="stream")

    def start(self) -> None:
        self._top_up()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def waiting(self) -> int:
        return len(self._ids - {mark.task for mark in self._fleet.witness.marks("start")})

    def starts_between(self, begin: float, end: float) -> int:
        marks = self._fleet.witness.marks("start")
        return sum(mark.task in self._ids and begin <= mark.at <= end for mark in marks)

    def _feed(self) -> None:
        while not self._stopping.wait(0.1):
            self._top_up()

    def _top_up(self) -> None:
        missing = self.backlog - self.waiting()
        lines = [
            {"job": "tick", "args": {"seconds": seconds}, "max_time": MAX_SECONDS}
            for seconds in itertools.islice(self._runs, max(0, missing))
        ]
        if lines:
            self._ids |= {handle.id for handle in self._fleet.client.enqueue_many(lines)}


@contextmanager
def saturating(fleet: Fleet, slots: int) -> Iterator[Stream]:
    """The stream, with all slots busy; one round of narrow tasks always waits."""
    stream = Stream(fleet, backlog=slots)
    stream.start()
    try:
        until(
            lambda: stream.starts_between(0, math.inf) > 2 * slots and stream.waiting() >= slots - 1,
            what="the slots to be in their third round, with another one waiting",
        )
        yield stream
    finally:
        stream.stop()


def enqueue_wide(fleet: Fleet, slots: int, **options: object) -> str:
    line = {"job": "tick", "args": {"seconds": WIDE_SECONDS}, "max_time": MAX_SECONDS, "slots": slots, **options}
    (handle,) = fleet.client.enqueue_many([line])
    return handle.id


def test_a_task_as_wide_as_the_largest_instance_starts_in_time_while_the_stream_goes_on_and_the_slots_stay_busy(
    fleet: Fleet,
) -> None:
    """Once the narrow tasks that were there before it have started, what runs is over after its max_time at the latest.

    Those older than it are one round: they start as what runs ends, so they have all started after one max_time.
    """
    park = {"big": 8, "middle": 4, "small": 2}
    slots = sum(park.values())
    for name, size in park.items():
        fleet.start(name, slots=size)
    with saturating(fleet, slots) as stream:
        enqueued = boottime()
        wide = enqueue_wide(fleet, park["big"])
        start = fleet.witness.wait_for("start", wide, seconds=PATIENCE_SECONDS)
        until(lambda: stream.starts_between(start.at, math.inf) > slots, what="another round after it")
        looked = boottime()
        busy = fleet.witness.busy(enqueued, looked) / (slots * (looked - enqueued))
        print(f"the wide task waited {start.at - enqueued:.2f} s; slots busy {busy:.0%} of {looked - enqueued:.1f} s")
        assert start.instance == "big"
        assert start.at - enqueued < 2 * (MAX_SECONDS + POLL_SECONDS)
        assert stream.starts_between(enqueued, start.at) >= slots, "the stream went on meanwhile"
        assert busy > BUSY_SHARE
    for name, size in park.items():
        assert fleet.witness.most_slots_at_once(name) <= size


def holder_of(fleet: Fleet, task: str) -> str | None:
    """The id of the instance that has reserved for a task that still waits."""
    found = fleet.client.get(task)
    return found.reserved.by if found.status == "pending" and found.reserved else None


def test_a_promise_whose_instance_dies_blocks_the_task_no_longer_than_the_promise_lasts(fleet: Fleet) -> None:
    """Once the reservation has expired, the other large instance keeps for the task whatever comes free there.

    Narrow tasks may still start there, but only what is planned to be over when those that run already are; a plan from
    a short history may be wrong by the difference between the runs.
    """
    park = {"one": 4, "other": 4, "small": 1}
    instances = {name: fleet.start(name, slots=size) for name, size in park.items()}
    names = {fleet.instance(name)["id"]: name for name in park}
    with saturating(fleet, sum(park.values())):
        wide = enqueue_wide(fleet, 4, priority=1)  # ahead of those that wait, so that the death is all that delays it
        holder = names[until(lambda: holder_of(fleet, wide), seconds=MAX_SECONDS, what="a reservation")]
        doomed = instances.pop(holder)
        doomed.tree()
        doomed.process.kill()
        killed = boottime()
        assert fleet.witness.starts(wide) == [], "it was still waiting"

        start = fleet.witness.wait_for("start", wide, seconds=PATIENCE_SECONDS)
        print(f"started {start.at - killed:.2f} s after its holder was killed")
        assert start.at - killed < LEASE_SECONDS + MAX_SECONDS + 2 * POLL_SECONDS
        assert start.instance in instances
        expired = killed + LEASE_SECONDS + POLL_SECONDS
        ends = {(mark.task, mark.fence): mark.at for mark in fleet.witness.marks("end")}
        runs = [
            (mark.at, ends.get((mark.task, mark.fence), start.at))
            for mark in fleet.witness.marks("start")
            if mark.instance == start.instance and mark.at < start.at
        ]
        room = max((end for begun, end in runs if begun <= expired), default=expired)
        passed = [end for begun, end in runs if begun > expired]
        print(f"{len(passed)} passed it after that; the last one was over {max(passed, default=room) - room:+.2f} s")
        assert max(passed, default=room) < room + max(RUNS_SECONDS) - min(RUNS_SECONDS)


def test_a_restarted_instance_keeps_its_promise(fleet: Fleet) -> None:
    """The only instance that is large enough is killed; its running tasks go on, and so does the wait, in time."""
    large = fleet.start("large", slots=6)
    fleet.start("small", slots=2)
    with saturating(fleet, 8):
        wide = enqueue_wide(fleet, 6, priority=1)
        until(lambda: holder_of(fleet, wide), seconds=MAX_SECONDS, what="a reservation")
        large.tree()
        large.process.kill()
        large.process.wait(10)
        fleet.start("large", slots=6)
        up = boottime()
        start = fleet.witness.wait_for("start", wide, seconds=PATIENCE_SECONDS)
        print(f"started {start.at - up:.2f} s after the restart")
        assert start.instance == "large"
        assert start.at - up < MAX_SECONDS + 2 * POLL_SECONDS
    assert len(fleet.witness.starts(wide)) == 1


def test_why_names_the_task_that_free_slots_are_kept_for(fleet: Fleet) -> None:
    """And of that task, where and from when on it is reserved."""
    fleet.start("big", slots=3)
    line = {"job": "tick", "args": {"seconds": 30}, "max_time": 60}
    first = fleet.client.enqueue_many([line])[0].id
    fleet.witness.wait_for("start", first)
    wide = fleet.client.enqueue_many([line | {"slots": 3}])[0].id
    narrow = fleet.client.enqueue_many([line | {"max_time": 90}])[0].id  # longer than the one that runs
    said = f"big keeps its free slots for {wide[-8:]}"
    until(lambda: fleet.client.why(narrow) == said, what=f"the reason, not {fleet.client.why(narrow)}")
    why = fleet.client.why(wide)
    assert why.startswith("no instance has 3 free slots (most free: 2 on big); reserved on big from ")
    assert said in fleet.cli("ps").stdout
    fleet.cli("kill", first, wide, narrow)
