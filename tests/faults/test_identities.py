"""F23: who is who. Two instances with one name, two schedulers on one state directory, and copies of a directory made
while its scheduler runs or after it was killed: different instances, or a refusal, never confusion.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, processes_of, until
from fleet_fixtures import GRACE_SECONDS, LEASE_SECONDS, POLL_SECONDS

from slotsched import contract

LINES = 60


@pytest.fixture
def twins(make_fleet: FleetMaker) -> Iterator[Fleet]:
    with make_fleet() as made:
        yield made


def said(log: bytes) -> list[int]:
    """The numbers of the lines that jobs/talker.py has said."""
    return [int(number) for number in re.findall(rb'"msg": ?"out (\d+) ', log)]


def stored_log(fleet: Fleet, task: str) -> bytes:
    """The task's only log object, once the store says that it is uploaded."""
    until(lambda: (log := fleet.client.get(task).attempts[0].log) and log.uploaded, what="the log to be uploaded")
    (path,) = Path(fleet.settings["log_store"]).glob(f"**/{task}/1.ndjson.gz")
    return gzip.decompress(path.read_bytes())


def copy_state(fleet: Fleet, name: str, to: str) -> None:
    """As `cp -a` does; what is in flux while it is copied may be missing."""

    def copy(source: str, target: str) -> str:
        try:
            return str(shutil.copy2(source, target))
        except FileNotFoundError:
            return target

    shutil.copytree(fleet.folder / f"state-{name}", fleet.folder / f"state-{to}", copy_function=copy)


def test_two_instances_of_one_name_are_two_and_two_schedulers_on_one_directory_are_refused(twins: Fleet) -> None:
    first = twins.start("same", slots=2)
    second = twins.start("same", slots=2, wait=False)
    other = twins.start("other", slots=2, prefix=["env", "SLOTSCHED_NAME=same"])
    assert second.process.wait(20) == contract.EXIT_REFUSED
    assert f"another scheduler (pid {first.pid})" in second.output.read_text()
    live = twins.client.store.instances.live()
    assert {one.pid for one in live} == {first.pid, other.pid}
    assert [one.name for one in live] == ["same", "same"]
    assert len({one.id for one in live}) == 2
    tasks = [one.id for one in twins.client.enqueue_many([{"job": "work", "args": {"seconds": 0.1}}] * 12)]
    ended = twins.ended(*tasks)
    assert {(one.status, len(one.attempts)) for one in ended} == {("completed", 1)}
    assert Counter(mark.task for mark in twins.witness.marks("start")) == Counter(tasks)
    assert len({one.instance.id for one in ended if one.instance}) == 2, "both did work"

    refused = twins.cli("instance", "drain", "same", check=False)
    assert refused.returncode == contract.EXIT_NOT_FOUND
    assert "ambiguous" in refused.stderr
    twins.cli("instance", "drain", live[0].id)
    until(lambda: [one.draining for one in twins.client.store.instances.live()].count(True) == 1)
    assert [first.stop(), other.stop()] == [0, 0]


def test_a_copy_of_a_running_schedulers_directory_is_another_instance(twins: Fleet, figure: Figures) -> None:
    original = twins.start("original", slots=2)
    long, starting = (twins.client.enqueue("talker", {"lines": LINES, "pause": 0.08}, retries=1).id for _ in range(2))
    for task in (long, starting):
        twins.witness.wait_for("start", task)
    until(lambda: len(list((twins.folder / "state-original" / "runs").glob("*/log.ndjson"))) == 2)
    copy_state(twins, "original", "clone")
    (unstarted,) = (twins.folder / "state-clone" / "runs").glob(f"{starting}-*")
    for name in (contract.RUN_START, contract.RUN_LOG):  # as if it had been copied in the moment before
        (unstarted / name).unlink()
    clone = twins.start("clone", slots=2, prefix=["env", "SLOTSCHED_NAME=original"])

    live = {one.pid: one.id for one in twins.client.store.instances.live()}
    assert set(live) == {original.pid, clone.pid}
    assert len(set(live.values())) == 2
    tasks = [one.id for one in twins.client.enqueue_many([{"job": "work", "args": {"seconds": 0.1}}] * 8)]
    ended = twins.ended(long, starting, *tasks)
    assert {(one.status, len(one.attempts)) for one in ended} == {("completed", 1)}
    starts = Counter(mark.task for mark in twins.witness.marks("start"))
    figure("F23", "executions too many beside a copied directory", sum(starts.values()) - len(ended), "", exactly=0)
    assert not any("declared dead" in line["msg"] for one in (original, clone) for line in one.log())
    for one in (original, clone):
        until(lambda one=one: not list((one.state_dir / "runs").iterdir()), what=f"an empty spool of {one.name}")
        assert one.stop() == 0
    for task in (long, starting):
        assert said(stored_log(twins, task)) == list(range(1, LINES + 1)), "the whole log, not the copied part"


def test_a_copy_of_a_killed_schedulers_directory_waits_for_the_verdict_and_saves_the_log(twins: Fleet) -> None:
    """As a disk that was put into another machine: it is not the instance that it was."""
    original = twins.start("original", slots=1)
    task = twins.client.enqueue("talker", {"lines": 5000, "pause": 0.02}).id
    twins.witness.wait_for("start", task)
    until(lambda: b"out 20 " in twins.cli("logs", task, "--raw").stdout.encode(), what="some lines")
    before = twins.client.store.instances.live()[0].id
    original.kill_all()
    assert processes_of(task) == set()
    copy_state(twins, "original", "disk")
    twins.start("disk", slots=1)
    assert before not in {one.id for one in twins.client.store.instances.live() if one.name == "disk"}
    assert twins.client.get(task).status == "running", "only the lease ends it"
    (ended,) = twins.ended(task, seconds=LEASE_SECONDS + GRACE_SECONDS + 2 * POLL_SECONDS + 10)
    assert (ended.status, ended.reason, len(ended.attempts)) == ("failed", "lost", 1)
    numbers = said(stored_log(twins, task))
    assert len(numbers) >= 20
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(twins.witness.starts(task)) == 1
