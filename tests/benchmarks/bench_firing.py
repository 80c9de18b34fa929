"""What schedules cost: many due in the same moment on one real instance, and many that are not due.

    python tests/benchmarks/bench_firing.py [DUE] [IDLE]

A mongod of its own. How late a task is, is told by the server: the time of its insert in the change stream, minus its
nominal time. Goals: p99 below 5 s with 10,000 due at once; with 100,000 idle, one indexed query that reads no keys.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymongo

from slotsched.embedded import Mongod
from slotsched.model import Schedule
from slotsched.store import Store, connect

BATCH = 10_000
LEAD_SECONDS = 20.0  # from the preparation's end to the due moment: the instance is up and quiet by then
LATE_GOAL_SECONDS = 5.0
TICK_SECONDS = 0.001  # of the times in the change stream: few schedules are all fired within one
DATABASE = "bench"


def fill(store: Store, documents: Any, count: int, name: str, nominal: dt.datetime) -> None:
    """So many schedules whose next time is `nominal`, made from one that the store itself has made."""
    store.schedules.create(Schedule(name=name, job="idle", cron=("0 0 * * *",)))
    template = documents.find_one_and_delete({"_id": name})
    times = {"next_at": nominal, "next_nominal_at": nominal}
    for start in range(0, count, BATCH):
        numbers = range(start, min(start + BATCH, count))
        documents.insert_many([template | times | {"_id": f"{name}-{n}"} for n in numbers], ordered=False)


@contextmanager
def instance(uri: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real one of two slots, whose only job takes no time."""
    jobs = folder / "jobs"
    jobs.mkdir()
    (jobs / "idle.toml").write_text('[tool.slotsched]\ncommand = ["/bin/true"]\n')
    environment = {
        **os.environ,
        "SLOTSCHED_MONGODB_URI": uri,
        "SLOTSCHED_DATABASE": DATABASE,
        "SLOTSCHED_JOBS_DIR": str(jobs),
        "SLOTSCHED_STATE_DIR": str(folder / "state"),
        "SLOTSCHED_LOG_STORE": str(folder / "logs"),
        "SLOTSCHED_SLOTS": "2",
    }
    with (folder / "instance.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "slotsched", "scheduler", "run"],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.terminate()
        time.sleep(1)
        process.terminate()  # the second ends at once what is still running
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def lateness(database: Any, count: int, until: float) -> list[float]:
    """Seconds from the nominal time to the insert, for `count` tasks, by the server's clock."""
    late: list[float] = []
    inserted = [{"$match": {"operationType": "insert"}}]
    with database["tasks"].watch(inserted, max_await_time_ms=500, batch_size=5000) as stream:
        while len(late) < count and time.monotonic() < until:
            event = stream.try_next()
            if event is not None:
                late.append((event["wallTime"] - event["fullDocument"]["nominal_at"]).total_seconds())
    return sorted(late)


def measure_due(uri: str, database: Any, store: Store, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, instance(uri, Path(folder)) as process:
        nominal = (store.now() + dt.timedelta(seconds=LEAD_SECONDS)).replace(microsecond=0)
        fill(store, database["schedules"], count, "due", nominal)
        left = (nominal - store.now()).total_seconds()
        assert left > 1, "the preparation took too long"
        assert process.poll() is None, Path(folder, "instance.log").read_text()[-2000:]
        late = lateness(database, count, time.monotonic() + left + 120)
        assert process.poll() is None, Path(folder, "instance.log").read_text()[-2000:]
        finished = database["tasks"].count_documents({"status": "completed"})
    print(
        f"{len(late)} of {count} schedules due at one moment, one instance of two slots (it ran {finished} meanwhile):"
    )
    p99 = late[math.ceil(len(late) * 0.99) - 1]
    seconds = max(late[-1] - late[0], TICK_SECONDS)
    figures = (late[0], statistics.median(late), p99, late[-1])
    print("  seconds late: first {:.2f}, median {:.2f}, p99 {:.2f}, last {:.2f}".format(*figures))
    print(f"  {len(late) / seconds:.0f} fires/s; goal p99 < {LATE_GOAL_SECONDS} s: {p99 < LATE_GOAL_SECONDS}")


def measure_idle(database: Any, store: Store, count: int) -> None:
    fill(store, database["schedules"], count, "later", store.now() + dt.timedelta(days=1))
    begun = time.perf_counter()
    ticks = 100
    for _ in range(ticks):
        assert store.firing.due() == []
    took = (time.perf_counter() - begun) / ticks
    database.command("profile", 2)
    store.firing.due()
    store.firing.next_due()
    database.command("profile", 0)
    print(f"{count} schedules that are not due: {took * 1000:.2f} ms a tick")
    for entry in database["system.profile"].find({"ns": f"{DATABASE}.schedules"}):
        what = "due" if any("$project" in step and "state" in step["$project"] for step in pipeline(entry)) else "next"
        print(f"  {what}: {entry['keysExamined']} keys, {entry['docsExamined']} documents, {entry['planSummary']}")


def pipeline(entry: Any) -> list[Any]:
    found: list[Any] = entry["command"].get("pipeline", [])
    return found


def main() -> None:
    due = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    idle = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        server = Mongod(Path(folder), tied=True)
        server.start()
        try:
            store = connect(server.uri, DATABASE, timeout=60.0)
            store.init()
            with pymongo.MongoClient(server.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO") as client:
                measure_due(server.uri, client[DATABASE], store, due)
                client[DATABASE]["schedules"].delete_many({})
                measure_idle(client[DATABASE], store, idle)
            store.close()
        finally:
            server.kill()


if __name__ == "__main__":
    main()
