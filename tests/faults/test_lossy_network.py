"""F08 on a running fleet: answers that get lost all the time, that come late, or not at all for a while.

Whatever the network does, each task has one start and one end, nobody keeps a claim, and everything is terminal. The
tasks tell so themselves (`checker`); when an end was recorded is seen by a reader beside the proxy.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pymongo
import pytest
from checker import gather, judge
from fault_lab import let_them_say, make_jobs, wait_clean
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, until
from store_proxy import Proxy

from slotsched.embedded import Mongod
from slotsched.model import TERMINAL

LEASE_SECONDS = 3.0
TIMEOUT_SECONDS = 1.0
NAMES = ("left", "right")
LOSABLE = frozenset({"update", "findAndModify", "insert", "commitTransaction", "delete"})
SLOTS = 4


@dataclass
class Lossy:
    """Two instances behind one proxy; the test's own client is beside it."""

    fleet: Fleet
    proxy: Proxy
    instances: list[InstanceProcess]
    tasks: Any

    def enqueue(self, count: int, **args: Any) -> list[str]:
        return self.fleet.enqueue_many([{"job": "say", "args": args}] * count)

    def verdict(self, ids: list[str], *, seconds: float) -> float:
        """When all have ended nothing is wrong and nothing is left over; returns how long that took."""
        began = boottime()
        self.fleet.ended(*ids, seconds=seconds)
        took = boottime() - began
        wait_clean(self.fleet, NAMES, seconds=20)
        judged = judge(gather(self.fleet, ids, {}, dict.fromkeys(NAMES, SLOTS)))
        assert judged.violations == 0, judged.report()
        assert self.odd(ids) == []
        return took

    def odd(self, ids: list[str]) -> list[str]:
        """Those that did not begin and end exactly once."""
        marks = Counter((mark.task, mark.event) for mark in self.fleet.witness.marks())
        return [task for task in ids if (marks[task, "start"], marks[task, "end"]) != (1, 1)]

    def said(self, message: str) -> int:
        return sum(line["msg"] == message for instance in self.instances for line in instance.log())


@contextlib.contextmanager
def lossy(make_fleet: FleetMaker, mongod: Mongod, client: Any, folder: Any, **settings: str) -> Iterator[Lossy]:
    jobs = make_jobs(folder / "jobs", {"say": ()})
    lease, timeout = f"{LEASE_SECONDS}s", f"{TIMEOUT_SECONDS}s"
    with Proxy(mongod.port) as proxy, make_fleet(jobs=jobs, lease=lease, store_timeout=timeout, **settings) as fleet:
        let_them_say(fleet)
        started = [fleet.start(name, slots=SLOTS, mongodb_uri=proxy.uri) for name in NAMES]
        yield Lossy(fleet, proxy, started, client[fleet.settings["database"]]["tasks"])
        proxy.calm()


@pytest.fixture(scope="module")
def network(
    make_fleet: FleetMaker,
    mongod: Mongod,
    mongo_client: pymongo.MongoClient[Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lossy]:
    with lossy(make_fleet, mongod, mongo_client, tmp_path_factory.mktemp("lossy")) as made:
        yield made


class Loser:
    """Loses an answer every few messages that change something, and of a fourth of them the next one, too."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._left = 7
        self.lost = 0

    def __call__(self, command: str) -> bool:
        if command not in LOSABLE:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._left = 1 if self._random.random() < 0.25 else self._random.randint(7, 15)
        self.lost += 1
        return True


class Recorder(threading.Thread):
    """When the store first showed each task as ended, seen from beside the proxy."""

    def __init__(self, tasks: Any) -> None:
        super().__init__(daemon=True)
        self._tasks = tasks
        self._over = threading.Event()
        self.at: dict[str, float] = {}

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(10)

    def run(self) -> None:
        wanted = {"status": {"$in": sorted(TERMINAL)}}
        while not self._over.wait(0.03):
            for document in self._tasks.find(wanted, {"_id": 1}):
                self.at.setdefault(str(document["_id"]), boottime())


def through_losses(network: Lossy, seed: int, count: int, figure: Figures, what: str) -> None:
    loser, schedules = Loser(seed), network.fleet.client.schedules
    series = schedules.add("say", name=f"seed-{seed}", every="1s", overlap="allow_all").name
    network.proxy.lose_if(loser)
    with Recorder(network.tasks) as recorder:
        ids = network.enqueue(count, lines=2)
        network.fleet.ended(*ids, seconds=count)
        schedules.pause(series)
        network.proxy.lose_if(None)
        rounds = schedules.history(series, 0)
        ids += [task.id for task in rounds]
        network.verdict(ids, seconds=20)
        until(lambda: set(ids) <= set(recorder.at), what="the reader beside the proxy to have seen all")
    until(lambda: not schedules.get(series).live, what="all rounds to be in the books")
    assert schedules.get(series).counters.completed == len(rounds) > 0, "each of them once"
    ended = {mark.task: mark.at for mark in network.fleet.witness.marks("end")}
    late = max(recorder.at[task] - ended[task] for task in ids)
    figure("F08", f"{what}: answers lost", loser.lost, "")
    figure("F08", f"{what}: rounds of a schedule beside them, each booked once", len(rounds), "")
    figure("F08", f"{what}: tasks without exactly one start and end", len(network.odd(ids)), "", exactly=0)
    figure("F08", f"{what}: longest from a task's end to its record", late, at_most=4 * TIMEOUT_SECONDS + LEASE_SECONDS)
    assert loser.lost >= count / 10


@pytest.mark.timeout(120)
def test_answers_lost_all_the_time_cost_no_task_anything_but_time(network: Lossy, figure: Figures) -> None:
    through_losses(network, 1, 60, figure, "60 tasks, every 7th to 15th answer lost")
    assert network.said("declared dead by another instance; ending all runs and beginning anew") == 0


@pytest.mark.timeout(120)
def test_silence_for_one_and_a_half_leases_and_what_was_sent_into_it_arrives_late(
    network: Lossy, figure: Figures
) -> None:
    ids = network.enqueue(24, lines=10, pause=0.05)
    until(lambda: network.fleet.witness.starts(ids[0]), what="the first start")
    network.proxy.blackhole()
    silent = boottime()
    until(lambda: boottime() - silent >= 1.5 * LEASE_SECONDS, seconds=30, what="the silence to be over")
    healed = boottime()
    network.proxy.heal()
    network.verdict(ids, seconds=60)
    starts = [mark.at for task in ids for mark in network.fleet.witness.starts(task)]
    early = [at for at in starts if silent + TIMEOUT_SECONDS < at < healed]
    figure("F08", "silence: starts in it, beyond a timeout after its begin", len(early), "", exactly=0)
    again = min(at for at in starts if at >= healed) - healed
    figure("F08", "silence of 1.5 leases: the next start after it", again, at_most=LEASE_SECONDS + 2 * TIMEOUT_SECONDS)


@pytest.mark.timeout(120)
def test_answers_that_come_after_everybody_has_given_up(network: Lossy, figure: Figures) -> None:
    """Five seconds at a timeout of five, scaled down: every write is carried out, and none is known to be."""
    ids = network.enqueue(24, lines=10, pause=0.05)
    until(lambda: network.fleet.witness.starts(ids[0]), what="the first start")
    network.proxy.delay(1.2 * TIMEOUT_SECONDS)
    slow = boottime()
    until(lambda: boottime() - slow >= 1.5 * LEASE_SECONDS, seconds=30, what="some rounds of it")
    network.proxy.delay(0.0)
    took = network.verdict(ids, seconds=60)
    figure("F08", "answers late by 1.2 timeouts for 1.5 leases: all ended after it within", took, at_most=30.0)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_answers_lost_all_the_time_under_more_tasks(network: Lossy, figure: Figures, seed: int) -> None:
    through_losses(network, seed, 200, figure, f"200 tasks, seed {seed}")
