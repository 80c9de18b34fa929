"""A start on what another scheduler left: odd run directories, a full disk, and what must come before what."""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, engine_of

from slotsched import contract
from slotsched.errors import StoreUnreachable
from slotsched.ledger import Ledger
from slotsched.machine import boot_id
from slotsched.model import Capacity, InstanceRef, Needs, Reason, Status, Task
from slotsched.process.rundir import take_start_right
from slotsched.scheduler.recovery import PER_TICK, Recovery
from slotsched.scheduler.run import Phase, Roster, Run, RunRecord
from slotsched.scheduler.statedir import Identity, StateDirectory

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ME = InstanceRef(id="me", name="me")
LEASE = 30.0


@dataclass(frozen=True)
class Contained:
    name: str = "pidns"


class Instances:
    """The store's side: who is live, and what people have set. Remembers what came when."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.live = True
        self.reachable = True
        self.people: tuple[bool, int | None] = (False, None)
        self.registered: list[Any] = []

    def wishes(self, id: str) -> tuple[bool, int | None]:
        self.calls.append(f"wishes {id}")
        return self.people if id == ME.id else (False, None)

    def register(self, instance: Any) -> None:
        self.calls.append("register")
        if not self.reachable:
            raise StoreUnreachable("away")
        self.registered.append(instance)

    def resume(self, instance: Any) -> Any:
        self.calls.append("resume")
        draining, slots = self.people
        here = self.live and instance.id == ME.id
        return replace(instance, draining=draining, slots_wanted=slots) if here else None


class Scene:
    """A state directory of an instance that ran on this boot, and the scheduler after it."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDirectory(folder)
        self.state.runs.mkdir()
        self.state.save_identity(Identity(id=ME.id, boot_id=boot_id(), incarnation=1))
        self.instances = Instances()
        self.adopted: list[Run] = []
        self.settled: list[Run] = []
        call = self.instances.calls.append
        self.engine = engine_of(
            FakeClock(),
            store=SimpleNamespace(check=lambda: call("check"), init=lambda: call("init"), instances=self.instances),
            settings=SimpleNamespace(name="me", lease=LEASE, grace=5.0),
            state=self.state,
            ledger=Ledger(Capacity(slots=4)),
            roster=Roster(),
            launcher=SimpleNamespace(containment=Contained()),
            identity=Identity.fresh(boot_id()),
            paused=False,
        )
        self.recovery = Recovery(
            self.engine, adopt=lambda run, _: self.adopted.append(run), on_settled=self.settled.append
        )

    def left(self, name: str, *, started: bool = True, slots: int = 1) -> Path:
        """A run directory without a supervisor."""
        directory = self.state.run_directory(f"{name}-1")
        directory.mkdir()
        moments = {"due_at": EPOCH, "created_at": EPOCH, "started_at": EPOCH}
        task = Task(
            id=name, job="job", args={}, status=Status.RUNNING, attempt=1, fence=1, needs=Needs(slots=slots), **moments
        )
        RunRecord.of(task, f"of {name}", ME, "file:///logs").write(directory)
        if started:
            take_start_right(directory, {"by": "supervisor", "boot_id": boot_id()})
        return directory

    def ended(self, name: str, cause: str = "exit") -> Path:
        directory = self.left(name)
        ending = {"cause": cause, "exit_code": 0, "signal": None, "message": None, "cpu_seconds": 0.0}
        ending |= {"peak_memory": 0, "started": 1.0, "ended": 2.0, "boot_id": boot_id()}
        (directory / contract.RUN_STATUS).write_text(json.dumps(ending | {"log_bytes": 0, "log_truncated": False}))
        return directory

    def recover(self) -> bool:
        """Whether it is the same instance again."""
        found = self.recovery.run_once()
        self.recovery.take_over(found)
        return found.resumed

    def run(self, name: str) -> Run | None:
        found: Run | None = self.engine.roster.get(f"{name}-1")
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


# --- the order ----------------------------------------------------------------------------------------


def test_the_lease_is_won_back_before_anything_that_may_take_long(scene: Scene) -> None:
    scene.ended("one")
    found = scene.recovery.run_once()
    assert scene.instances.calls == ["check", "resume"]
    assert (found.resumed, len(scene.engine.roster)) == (True, 0)
    assert scene.recovery.take_over(found) == 0
    assert len(scene.engine.roster) == 1


def test_who_has_no_lease_yet_sets_up_the_store_first(scene: Scene) -> None:
    scene.instances.live = False
    assert not scene.recover()
    assert scene.instances.calls == ["check", "resume", "init", f"wishes {ME.id}", "register"]


def test_the_loop_is_shown_to_turn_over_many_run_directories(scene: Scene) -> None:
    for number in range(3 * PER_TICK):
        scene.ended(f"{number:04}")
    found = scene.recovery.run_once()
    before = scene.engine.ticks
    assert before >= 3
    scene.recovery.take_over(found)
    assert scene.engine.ticks - before == 3


# --- odd run directories ------------------------------------------------------------------------------


def _lock_is_a_folder(directory: Path) -> None:
    (directory / contract.RUN_LOCK).mkdir()


def _status_is_of_another_shape(directory: Path) -> None:
    status = json.loads((directory.parent / "plain-1" / contract.RUN_STATUS).read_text())
    (directory / contract.RUN_STATUS).write_text(json.dumps(status | {"ended": "yesterday"}))


@pytest.mark.parametrize("damage", [_lock_is_a_folder, _status_is_of_another_shape])
def test_one_odd_run_directory_keeps_neither_the_others_nor_the_instance_from_starting(
    scene: Scene, damage: Callable[[Path], None]
) -> None:
    scene.ended("plain")
    damage(scene.left("odd", slots=3))
    assert scene.recover()
    plain, odd = scene.run("plain"), scene.run("odd")
    assert plain is not None
    assert plain.outcome is not None
    assert odd is not None
    assert odd.phase is Phase.RUNNING, "the supervision looks again"
    assert scene.engine.ledger.free.slots == 1, "and until it knows better its slots are taken"
    assert any(level == "exception" for level, _ in scene.engine.log.lines)


def test_a_cause_of_a_newer_version_is_lost(scene: Scene) -> None:
    scene.ended("newer", cause="pids")
    assert scene.recover()
    run = scene.run("newer")
    assert run is not None
    assert run.outcome is not None
    assert run.outcome.reason is Reason.LOST


def test_what_a_newer_version_has_written_into_a_record_is_ignored(scene: Scene) -> None:
    directory = scene.left("newer", slots=2)
    for path in scene.state.path.rglob("*.json"):
        record = json.loads(path.read_text())
        if "token" in record:
            news = {"news": 1}
            inner = {part: record[part] | news for part in ("instance", "needs", "retry", "log")}
            path.write_text(json.dumps(record | inner | news))
    read = RunRecord.read(directory)
    assert read is not None
    assert (read.token, read.needs) == ("of newer", Needs(slots=2))
    assert scene.recover()
    assert scene.run("newer") is not None
    assert directory.exists()


def test_a_started_run_without_a_record_is_left_for_the_sweep_and_one_that_was_never_launched_goes(
    scene: Scene,
) -> None:
    started, unstarted = scene.left("started"), scene.left("unstarted", started=False)
    for path in scene.state.path.rglob("*.json"):
        if path.name != "instance.json":
            path.unlink()
    assert scene.recover()
    assert started.exists()
    assert not unstarted.exists()
    assert len(scene.engine.roster) == 0


@pytest.mark.parametrize("left", ["its folder", "nothing"])
def test_a_run_that_removed_its_directory_is_known_by_its_second_record(scene: Scene, left: str) -> None:
    directory = scene.left("gone", slots=3)
    shutil.rmtree(directory)
    if left == "its folder":
        directory.mkdir()
    assert scene.recover()
    run = scene.run("gone")
    assert run is not None
    assert (run.phase, run.record.token) == (Phase.RUNNING, "of gone")
    assert scene.engine.ledger.free.slots == 1


def test_a_run_that_was_never_launched_is_given_back(scene: Scene) -> None:
    scene.left("unstarted", started=False)
    assert scene.recover()
    run = scene.run("unstarted")
    assert run is not None
    assert (run.phase, run.outcome) == (Phase.ENDED, None)
    assert scene.engine.ledger.free.slots == 4


# --- a full disk --------------------------------------------------------------------------------------


def test_a_start_right_that_cannot_be_taken_is_asked_for_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = scene.left("unstarted", started=False)
    opened = os.open

    def full(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if Path(path).name == contract.RUN_START and flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", full)
    assert scene.recover()
    run = scene.run("unstarted")
    assert run is not None
    assert run.phase is Phase.RUNNING
    assert directory.exists()


def _no_room(_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_nobody_the_identity_that_he_has(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.state, "save_identity", _no_room)
    assert scene.recover()
    assert (scene.engine.identity.id, scene.engine.identity.incarnation) == (ME.id, 2)


def test_a_new_identity_that_cannot_be_written_down_is_told_to_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.instances.live = False
    scene.instances.people = (True, 2)
    with monkeypatch.context() as full:
        full.setattr(scene.state, "save_identity", _no_room)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                scene.recovery.run_once()
    assert scene.instances.registered == []
    assert list(scene.state.path.glob("deadline-*")) == []
    scene.instances.reachable = False
    with pytest.raises(StoreUnreachable):
        scene.recovery.run_once()
    scene.instances.reachable = True
    assert not scene.recover()
    [one] = scene.instances.registered
    assert one.id == scene.engine.identity.id
    assert (one.draining, one.slots_wanted) == (True, 2), "what people had set, however often it was tried"
    assert [path.name for path in scene.state.path.glob("deadline-*")] == [f"deadline-{one.id}"]


def test_the_pid_in_the_lock_is_only_for_people(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    (scene.state.path / "lock").write_text("123456789\n")
    monkeypatch.setattr(os, "pwrite", lambda *_: _no_room(None))
    scene.state.lock()
    scene.state.unlock()
    assert (scene.state.path / "lock").read_text() == "123456789\n", "nothing was cut before it could be written"


# --- what people have set -----------------------------------------------------------------------------


def test_a_resumed_instance_goes_on_with_what_people_have_set(scene: Scene) -> None:
    scene.instances.people = (True, 2)
    assert scene.recover()
    assert scene.engine.paused
    assert scene.engine.ledger.capacity.slots == 2


@pytest.mark.parametrize("when", ["at a start", "after a reboot", "while it runs"])
def test_an_instance_that_begins_anew_does_so_with_what_people_had_set(scene: Scene, when: str) -> None:
    scene.instances.people = (True, 2)
    scene.instances.live = when == "while it runs"
    if when == "after a reboot":
        scene.state.save_identity(Identity(id=ME.id, boot_id="of yesterday", incarnation=1))
    scene.recover()
    if when == "while it runs":
        scene.recovery.begin_anew("nonce")
    [one] = scene.instances.registered
    assert (one.draining, one.slots_wanted, one.capacity.slots) == (True, 2, 2)
    assert scene.engine.paused
    assert one.id != ME.id
