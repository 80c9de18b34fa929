"""What claiming costs: one pass over a short and a long queue, and many instances that claim from the same one.

    python tests/benchmarks/bench_claims.py [PENDING [SHARED [INSTANCES]]]

A mongod of its own and the scheduler's own claimer; what it wins is taken to have ended at once, so that nothing but
claiming is measured. Each line is one run of it, beside what it is compared with. Goals: a pass over a long queue
takes at most twice that over 1,000 tasks and reads at most 5 keys per task it looks at; of what instances try to
claim together they get 0.8, and no fewer a second than one alone.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymongo
from bson import ObjectId

from slotsched.embedded import Mongod
from slotsched.ledger import Ledger
from slotsched.model import Capacity, Facts, InstanceRef, Needs, Task, TaskRequest
from slotsched.scheduler.claiming import WINDOW, Claimer
from slotsched.store import Store, connect

SLOTS = 8
LANES = 300  # a third too wide for the machine, a sixth for what is free, the others fit
SHORT = 1_000
ROUNDS = 25
MAX_TIME = 60.0
LEASE = 30.0
BATCH = 10_000
LONGEST_SECONDS = 240.0  # of one run of instances


# --- a claimer without the rest of its scheduler ------------------------------------------------------


@dataclass
class Claims:
    """What one instance has tried and won. at: seconds (monotonic) of each pass that won something."""

    tried: int = 0
    won: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    passes: int = 0


def claimer_of(store: Store, name: str, live: int, slots: int, claims: Claims, *, held: int = 0) -> Claimer:
    """The real one for an instance with `slots` slots, of which one long run holds `held`."""
    ledger = Ledger(Capacity(slots=slots))
    alive = []
    if held:
        ledger.take("a long run", Needs(slots=held))
        record = SimpleNamespace(needs=Needs(slots=held), max_time=3600.0)
        alive = [SimpleNamespace(record=record, planned=3600.0, launched=time.monotonic())]
    jobs = {f"job{number}": SimpleNamespace(facts=Facts(max_time=MAX_TIME)) for number in range(LANES)}
    offset = store.now().timestamp() - time.monotonic()
    engine: Any = SimpleNamespace(
        store=store,
        ledger=ledger,
        scan=SimpleNamespace(jobs=jobs),
        disabled_jobs=frozenset(),
        draining=False,
        paused=False,
        fenced=False,
        lease_left=lambda: LEASE,
        settings=SimpleNamespace(lease=LEASE),
        fitness=SimpleNamespace(look=lambda: True),
        roster=SimpleNamespace(alive=lambda: alive),
        unsettled={},
        identity=SimpleNamespace(id=name),
        ref=InstanceRef(id=name, name=name),
        live=frozenset([name, *(f"other{number}" for number in range(1, live))]),
        now=time.monotonic,
        server_now=lambda: time.monotonic() + offset,
    )
    claim = store.queue.claim

    def counted(ids: Sequence[str], token: str, instance: InstanceRef) -> list[Task]:
        claims.tried += len(ids)
        return claim(ids, token, instance)

    store.queue.claim = counted  # type: ignore[method-assign, assignment]
    starter: Any = SimpleNamespace(start=lambda task, *_, **__: claims.won.append(task.id))
    claimer = Claimer(engine, starter)
    claimer.refresh_lanes()
    return claimer


# --- queues -------------------------------------------------------------------------------------------


def fill(store: Store, tasks: Any, needs: Sequence[Needs], count: int) -> None:
    """So many pending tasks, one lane per entry of `needs` in turn; of two halves the wider lanes are the older."""
    store.init()
    templates = []
    for number, wanted in enumerate(needs):
        made = store.tasks.enqueue(TaskRequest(job=f"job{number}", needs=wanted)).id
        templates.append(tasks.find_one_and_delete({"_id": ObjectId(made)}))
    first = store.now() - dt.timedelta(hours=12)
    oldest_first = (
        [n for n, one in enumerate(needs) if one.slots > 1],
        [n for n, one in enumerate(needs) if one.slots == 1],
    )
    order = [lanes for lanes in oldest_first if lanes]
    for start in range(0, count, BATCH):
        documents = []
        for number in range(start, min(start + BATCH, count)):
            lanes = order[number * len(order) // count]
            task_id, due = ObjectId(), first + dt.timedelta(milliseconds=10 * number)
            own = {"_id": task_id, "rid": str(task_id)[::-1], "due_at": due, "rank": due}
            documents.append(templates[lanes[number % len(lanes)]] | own)
        tasks.insert_many(documents, ordered=False)


def mixed_lanes() -> list[Needs]:
    too_wide, blocked = LANES // 3, LANES // 6
    fits = LANES - too_wide - blocked
    return [Needs(slots=4 * SLOTS)] * too_wide + [Needs(slots=SLOTS - 1)] * blocked + [Needs()] * fits


# --- one pass -----------------------------------------------------------------------------------------


def timed_pass(claimer: Claimer) -> tuple[float, float]:
    """Milliseconds of the read of the lanes, and of the rest of the pass."""
    begun = time.perf_counter()
    claimer.refresh_lanes()
    read = time.perf_counter()
    claimer.run_once()
    return (read - begun) * 1000, (time.perf_counter() - read) * 1000


def measure_pass(uri: str, client: Any, count: int) -> None:
    stores, claimers = {}, {}
    sizes = (SHORT, count)
    for size in sizes:
        stores[size] = connect(uri, f"pending{size}", timeout=60.0)
        begun = time.perf_counter()
        fill(stores[size], client[f"pending{size}"]["tasks"], mixed_lanes(), size)
        print(f"{size:,} pending in {LANES} lanes, filled in {time.perf_counter() - begun:.0f} s")
        claimers[size] = claimer_of(stores[size], f"only{size}", 1, SLOTS, Claims(), held=SLOTS // 2)
        timed_pass(claimers[size])
    took: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for _ in range(ROUNDS):  # in turn, so that whatever else this machine does is in both
        for size in sizes:
            took[size].append(timed_pass(claimers[size]))
    medians = {}
    for size in sizes:
        lanes, rest = (statistics.median(column) for column in zip(*took[size], strict=True))
        medians[size] = statistics.median(sum(one) for one in took[size])
        fastest = min(sum(one) for one in took[size])
        print(
            f"  a pass at {size:>9,}: median {medians[size]:6.1f} ms, fastest {fastest:6.1f} ms"
            f" (medians: lanes {lanes:.1f} ms, the rest with a claim of {SLOTS - SLOTS // 2} {rest:.1f} ms)"
        )
    print(f"  ratio of the medians {medians[count] / medians[SHORT]:.2f} (goal: at most 2)")
    for size in sizes:
        print(f"  read by one pass at {size:,}:")
        for line in keys_of_a_pass(client[f"pending{size}"], claimers[size]):
            print(f"    {line}")
        stores[size].close()
        client.drop_database(f"pending{size}")


def keys_of_a_pass(database: Any, claimer: Claimer) -> Iterator[str]:
    """What the server's profiler saw of it on the tasks."""
    database.command("profile", 2)
    timed_pass(claimer)
    database.command("profile", 0)
    for entry in database["system.profile"].find({"ns": f"{database.name}.tasks"}).sort("ts", 1):
        command = entry["command"]
        name = next((word for word in ("distinct", "find", "getMore") if word in command), entry["op"])
        lanes = len(command.get("filter", {}).get("lane", {}).get("$in", ()))
        what = f"{name} in {lanes} lanes" if lanes else name
        keys, returned = entry.get("keysExamined", 0), entry.get("nreturned", entry.get("nModified", 0))
        yield (
            f"{what:<20}{keys:6} keys, {entry.get('docsExamined', 0):4} documents"
            f" for {returned:4} ({keys / max(1, returned):.1f} keys each)  {entry.get('planSummary', '')[:24]}"
        )


# --- many instances -----------------------------------------------------------------------------------


def claim_all(uri: str, database: str, name: str, live: int, slots: int, ready: Any, answers: Any) -> None:
    """One instance, in a process of its own: passes until nothing is left in the queue."""
    store = connect(uri, database, timeout=60.0)
    claims = Claims()
    claimer = claimer_of(store, name, live, slots, claims)
    ready.wait(60)
    begun = time.monotonic()
    while time.monotonic() < begun + LONGEST_SECONDS:
        claims.passes += 1
        if claimer.run_once():
            claims.at.append(time.monotonic())
        elif not claimer.more and not store.queue.lanes():
            break
    answers.put((begun, claims))
    store.close()


def run_instances(uri: str, database: str, instances: int, slots: int) -> list[tuple[float, Claims]]:
    context = multiprocessing.get_context("spawn")
    ready, answers = context.Barrier(instances), context.Queue()
    processes = [
        context.Process(
            target=claim_all, args=(uri, database, f"instance{n}", instances, slots, ready, answers), daemon=True
        )
        for n in range(instances)
    ]
    for process in processes:
        process.start()
    try:
        return [answers.get(timeout=LONGEST_SECONDS + 90) for _ in processes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()


def measure_shared(uri: str, client: Any, count: int, instances: int, slots: int, lanes: int) -> None:
    """One instance alone on a queue, then all of them on another one like it."""
    print(f"{count:,} pending in {lanes} lanes, instances with {slots} free slots:")
    rates = []
    for together in (1, instances):
        name = f"shared{together}"
        store = connect(uri, name, timeout=60.0)
        fill(store, client[name]["tasks"], [Needs()] * lanes, count)
        answers = run_instances(uri, name, together, slots)
        left = client[name]["tasks"].count_documents({"attempt": {"$ne": 1}})
        store.close()
        client.drop_database(name)
        won = [task for _, claims in answers for task in claims.won]
        tried = sum(claims.tried for _, claims in answers)
        first, last = min(begun for begun, _ in answers), max(claims.at[-1] for _, claims in answers if claims.at)
        idle = max(
            later - earlier
            for begun, claims in answers
            for earlier, later in zip([begun, *claims.at], [*claims.at, last], strict=True)
        )
        rates.append(len(won) / (last - first))
        print(
            f"  {together} at once: useful {len(won) / tried:.2f}, {rates[-1]:7,.0f} claims/s,"
            f" {len(won) / sum(claims.passes for _, claims in answers):.1f} won a pass,"
            f" longest without a win {idle * 1000:.0f} ms, twice: {len(won) - len(set(won))},"
            f" not claimed exactly once: {left}"
        )
    print(f"  together / alone {rates[1] / rates[0]:.2f} (goals: at least 1, useful at least 0.8)")


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    pending, shared, instances = [*numbers, *(200_000, 20_000, 8)[len(numbers) :]]
    print(f"window {WINDOW}, {SLOTS} slots")
    with tempfile.TemporaryDirectory(prefix="slotsched-bench-") as folder:
        server = Mongod(Path(folder), tied=True)
        server.start()
        try:
            with pymongo.MongoClient(server.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO") as client:
                if pending:
                    measure_pass(server.uri, client, pending)
                if shared:
                    measure_shared(server.uri, client, shared, instances, SLOTS, 1)
                    measure_shared(server.uri, client, shared // 4, instances, SLOTS, 30)
                    measure_shared(server.uri, client, shared // 10, instances, 1, 1)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
