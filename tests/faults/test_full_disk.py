"""F10: a state directory on a file system of 1 MB that its own tasks fill up.

What runs drains, with a truncated log where there was no room for it; nothing more is claimed, and `why`, `doctor` and
`instance ls` say so; the lease goes on; when there is room again, so does the work. The supervisor alone on a full
disk is in `integration/test_process_log.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, processes_of, until
from fleet_fixtures import LEASE_SECONDS

from slotsched import contract


@pytest.fixture
def cramped(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """A fleet whose instance `tiny` has its state directory on a tmpfs of 1 MB."""
    with on_a_tmpfs(make_fleet, LEASE_SECONDS) as made:
        yield made


@pytest.fixture
def patient(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """The same with a lease that is long enough to come back within it."""
    with on_a_tmpfs(make_fleet, 20.0) as made:
        yield made


@contextlib.contextmanager
def on_a_tmpfs(make_fleet: FleetMaker, lease: float) -> Iterator[Fleet]:
    with make_fleet(lease=f"{lease}s") as made:
        state = made.folder / "state-tiny"
        state.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", state]
        if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
            pytest.skip("NOT TESTED HERE: mounting a tmpfs needs root")
        try:
            yield made
        finally:
            made.clean_up()
            subprocess.run(["umount", "-l", state], check=True)


def fill(fleet: Fleet) -> Path:
    """A file that takes all there is left."""
    ballast = fleet.folder / "state-tiny" / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    assert free(fleet) == 0
    return ballast


def ups(instance: InstanceProcess) -> int:
    return sum(line["msg"] in ("up", "up again") for line in instance.log())


def free(fleet: Fleet) -> int:
    stats = os.statvfs(fleet.folder / "state-tiny")
    return stats.f_bavail * stats.f_frsize


def test_tasks_on_a_full_disk_drain_with_truncated_logs_and_nothing_more_is_claimed(
    cramped: Fleet, figure: Figures
) -> None:
    fleet, go, free_again = cramped, cramped.folder / "go", cramped.folder / "free-again"
    tiny = fleet.start("tiny", slots=4)
    quiet = fleet.client.enqueue("filler", {"go": str(go), "hold": False}).id
    loud = fleet.client.enqueue("filler", {"go": str(go), "hold": False, "lines": 3000}).id
    for task in (quiet, loud):
        fleet.witness.wait_for("start", task)
    ballast = fleet.client.enqueue("filler", {"go": str(free_again)}).id
    fleet.witness.wait_for("full", ballast)
    assert free(fleet) == 0
    full = boottime()

    late = fleet.client.enqueue("work").id
    until(lambda: fleet.instance("tiny")["hindrance"], what="a hindrance")
    why = fleet.cli("why", late).stdout
    assert "tiny claims nothing: its state directory is nearly full (0" in why, why
    assert "hindered" in fleet.cli("instance", "ls").stdout
    state = str(fleet.folder / "state-tiny")
    checks = json.loads(fleet.cli("doctor", "-o", "json", "--state-dir", state, check=False).stdout)
    (disk,) = [one for one in checks if one["name"] == "disk"]
    assert disk["level"] == "FAIL"
    assert "nothing is claimed" in disk["text"]

    go.touch()
    told = boottime()
    ended = fleet.ended(quiet, loud)
    assert [(one.status, one.reason) for one in ended] == [("completed", "exit")] * 2
    drained = boottime() - told
    until(lambda: boottime() - full > LEASE_SECONDS + 0.5, what="more than a lease on a full disk")
    assert fleet.client.get(ballast).status == "running", "renewals reach its supervisor without a block of disk"
    assert not any("declared dead" in line["msg"] for line in tiny.log())
    assert fleet.client.get(late).status == "pending"
    figure("F10", "tasks claimed on a full disk", len(fleet.witness.starts(late)), "", exactly=0)
    figure("F10", "running tasks drained on a full disk", drained, at_most=10)
    log = ended[1].attempts[0].log
    assert log is not None
    assert log.truncated

    free_again.touch()
    (last, after) = fleet.ended(ballast, late)
    assert (last.status, after.status) == ("completed", "completed")
    until(lambda: not list((tiny.state_dir / "runs").iterdir()), what="an empty spool")
    shown = fleet.cli("logs", loud, "--json").stdout
    assert '"truncated":' in shown
    assert "No space left on device" in shown
    assert fleet.instance("tiny")["hindrance"] is None
    assert tiny.stop() == 0


def test_an_end_that_cannot_be_written_is_lost_and_not_waited_for(shared: Fleet) -> None:
    """`status.json` is taken by a folder, which no rename replaces: the worst that a disk can do."""
    task = shared.client.enqueue("work", {"seconds": 1}).id
    shared.witness.wait_for("start", task)
    (run,) = (shared.instances[0].state_dir / "runs").glob(f"{task}-*")
    (run / contract.RUN_STATUS / "in the way").mkdir(parents=True)
    (ended,) = shared.ended(task)
    assert (ended.status, ended.reason) == ("failed", "lost")
    assert processes_of(task) == set()
    assert shared.ended(shared.client.enqueue("work").id)[0].status == "completed"
    until(lambda: not run.exists(), what="its log to be uploaded and the folder to go")


def test_a_disk_that_fills_up_between_the_claim_and_the_start_gives_the_task_back(
    cramped: Fleet, figure: Figures
) -> None:
    """The floor is looked at before a claim; what happens right after it must not fail a task that others could run."""
    fleet = cramped
    tiny = fleet.start("tiny", slots=2)
    state = fleet.folder / "state-tiny"
    blocked = fleet.client.enqueue("work", in_="2s").id
    runs = state / "runs"
    # No room for a run directory, though the file system as a whole has some: a mount of one inode over `runs`.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=1", "tmpfs", runs], check=True)
    try:
        released = "not started; releasing it"
        until(lambda: any(line["msg"] == released for line in tiny.log()), what="a release")
        until(lambda: "cannot write the run directory" in fleet.cli("why", blocked).stdout, what="a reason")
        until(lambda: fleet.client.get(blocked).status == "pending", what="it to be given back")  # it is tried again
        tries = sum(line["msg"] == released for line in tiny.log())
        figure("F10", "tries while no run directory could be made", tries, "", at_most=5)
    finally:
        subprocess.run(["umount", "-l", runs], check=True)
    (ended,) = fleet.ended(blocked)
    assert (ended.status, len(ended.attempts), len(fleet.witness.starts(blocked))) == ("completed", 1, 1)


# --- a start on a full disk -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGHUP", "kill"])
def test_a_scheduler_that_comes_back_on_a_full_disk_goes_on_with_its_tasks(
    patient: Fleet, figure: Figures, how: str
) -> None:
    fleet, go = patient, patient.folder / "go"
    tiny = fleet.start("tiny")
    task = fleet.client.enqueue("gate", {"file": str(go)}).id
    fleet.witness.wait_for("start", task)
    before = fleet.client.store.instances.live()[0]
    ballast = fill(fleet)
    if how == "kill":
        tiny.process.kill()
        tiny.process.wait(10)
        tiny = fleet.start("tiny")
    else:
        tiny.signal(signal.SIGHUP)
        until(lambda: ups(tiny) == 2 or tiny.process.poll() is not None, seconds=30, what="up again")
        assert tiny.process.poll() is None, tiny.output.read_text()[-2000:]
    [after] = fleet.client.store.instances.live()
    assert (after.id, after.incarnation) == (before.id, before.incarnation + 1)
    go.touch()
    ended = fleet.ended(task)[0]
    figure("F10", f"tasks that noticed a start on a full disk ({how})", ended.status != "completed", "", exactly=0)
    assert len(ended.attempts) == 1
    ballast.unlink()
    until(lambda: not list((tiny.state_dir / "runs").iterdir()), what="an empty spool")


@pytest.mark.parametrize("how", ["while it runs", "at its start"])
def test_a_new_identity_waits_for_room_and_is_told_to_nobody_before(patient: Fleet, how: str) -> None:
    fleet, instances = patient, patient.client.store.instances
    tiny = fleet.start("tiny")
    [before] = instances.live()
    ballast = fill(fleet)
    if how == "at its start":
        tiny.process.kill()
        tiny.process.wait(10)
    until(lambda: fleet.client.store.rescue.fence(before.id, instances.get(before.id).nonce), what="its fence")
    if how == "at its start":
        tiny = fleet.start("tiny", wait=False)
    until(lambda: "No space left on device" in tiny.output.read_text(), seconds=40, what="a try")
    assert tiny.process.poll() is None
    assert instances.live() == []
    ballast.unlink()
    until(lambda: instances.live(), seconds=40, what="a new identity")
    assert [one.id == before.id for one in instances.live()] == [False]
    assert fleet.ended(fleet.client.enqueue("work").id)[0].status == "completed"
