"""What waiting for other tasks costs: putting a child in behind 1 to 1,000 parents, and telling chains and fan-ins.

    python tests/benchmarks/bench_after.py [PARENTS]

A real mongod of its own, one client, one resolving instance without its loop. The figures are the fastest and the
median of the rounds. Goal: a child of 1,000 parents goes in within 50 ms.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from slotsched.embedded import Mongod
from slotsched.model import Status, TaskRequest
from slotsched.store import Store, connect

ROUNDS = 9


def timed(call: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Milliseconds: the fastest and the median."""
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        took.append((time.perf_counter() - begun) * 1000)
    return min(took), statistics.median(took)


def resolve(store: Store) -> int:
    told = 0
    while ended := store.resolve.ended():
        told += store.resolve.tell(ended)
        store.resolve.done(ended)
    return told


def child(store: Store, *parents: str) -> str:
    return store.tasks.enqueue(TaskRequest(job="child", parents=parents, when="any")).id


def many(store: Store, count: int) -> list[str]:
    return [one.id for one in store.tasks.enqueue_many(TaskRequest(job="parent") for _ in range(count))]


def report(what: str, milliseconds: float, more: str = "") -> None:
    print(f"{what:<52}{milliseconds:10.1f} ms  {more}")


def measure(store: Store, most: int) -> None:
    for count in (0, 1, 10, 100, most):
        parents = many(store, count) if count else []
        fastest, median = timed(lambda parents=parents: child(store, *parents))  # type: ignore[misc]
        report(f"enqueue a child of {count} parents", fastest, f"median {median:.1f} ms")

    parents = many(store, most)
    waiting = child(store, *parents)
    for task_id in parents:
        store.tasks.cancel(task_id, "bench")
    begun = time.perf_counter()
    resolve(store)
    assert store.tasks.get(waiting).status is Status.PENDING
    report(f"fan-in: {most} ended parents told", (time.perf_counter() - begun) * 1000)

    [parent] = many(store, 1)
    store.tasks.enqueue_many(TaskRequest(job="child", parents=(parent,), when="any") for _ in range(10 * most))
    store.tasks.cancel(parent, "bench")
    begun = time.perf_counter()
    told = resolve(store)
    took = time.perf_counter() - begun
    report(f"fan-out: {told} children told", took * 1000, f"{told / took:,.0f} a second")

    [last] = many(store, 1)
    first = last
    for _ in range(most):
        last = store.tasks.enqueue(TaskRequest(job="child", parents=(last,))).id
    store.tasks.cancel(first, "bench")
    begun = time.perf_counter()
    told = resolve(store)
    took = time.perf_counter() - begun
    report(f"chain: {told} tasks canceled one after the other", took * 1000, f"{took / told * 1000:.2f} ms a task")

    [fastest, median] = timed(lambda: store.resolve.ended(), 50)
    report("a look that finds nothing", fastest, f"median {median:.2f} ms")


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory(prefix="slotsched-bench-") as folder:
        server = Mongod(Path(folder), tied=True)
        try:
            server.start()
            store = connect(server.uri, "bench", timeout=30.0)
            store.init()
            measure(store, most)
            store.close()
        finally:
            server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
