"""A machine that cannot take on a task leaves the queue to the others, and says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_ins import FakeClock, MemoryLog

from slotsched import machine
from slotsched.cli.columns import containment, instance_state
from slotsched.machine import FILES_FLOOR, SPACE_FLOOR_BYTES, Space, space_at
from slotsched.scheduler.fitness import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, Fitness
from slotsched.scheduler.statedir import Identity, StateDirectory

ROOMY = Space(free=SPACE_FLOOR_BYTES, floor=SPACE_FLOOR_BYTES, files=FILES_FLOOR)


class Machine:
    def __init__(self) -> None:
        self.clock, self.log = FakeClock(), MemoryLog()
        self.space, self.spawner = ROOMY, 5
        state, launcher = SimpleNamespace(space=lambda: self.space), SimpleNamespace(fileno=lambda: self.spawner)
        self.fitness = Fitness(state, launcher, self.log, self.clock.boottime)  # type: ignore[arg-type]


def test_nothing_hinders_a_machine_with_room_and_a_spawner() -> None:
    fit = Machine()
    assert fit.fitness.look()
    assert fit.fitness.hindrance is None
    assert fit.log.lines == []


@pytest.mark.parametrize(
    ("space", "says"),
    [
        (Space(free=SPACE_FLOOR_BYTES - 1, floor=SPACE_FLOOR_BYTES), "left)"),
        (Space(free=SPACE_FLOOR_BYTES, floor=SPACE_FLOOR_BYTES, files=FILES_FLOOR - 1), "no room for more files"),
    ],
)
def test_a_disk_below_its_floor_hinders_until_there_is_room_again_and_is_said_once(space: Space, says: str) -> None:
    full = Machine()
    full.space = space
    assert not full.fitness.look()
    assert not full.fitness.look()
    assert "state directory is nearly full" in (full.fitness.hindrance or "")
    assert says in (full.fitness.hindrance or "")
    full.space = ROOMY
    assert full.fitness.look()
    assert full.log.lines == [("warning", "claiming nothing"), ("info", "claiming again")]


def test_without_a_spawner_nothing_is_claimed() -> None:
    headless = Machine()
    headless.spawner = -1
    assert not headless.fitness.look()
    assert headless.fitness.hindrance == "its spawner does not start"


def test_refused_starts_make_it_rest_longer_each_time_in_a_row() -> None:
    short = Machine()
    rests = []
    for _ in range(7):
        for _ in range(3):  # a batch counts once
            short.fitness.refused("it cannot start a process: Resource temporarily unavailable")
        rested = 0.0
        while not short.fitness.look():
            assert short.fitness.hindrance == "it cannot start a process: Resource temporarily unavailable"
            short.clock.advance(1.0)
            rested += 1.0
        rests.append(rested)
    assert rests == [2, 4, 8, 16, 32, 60, 60]
    assert rests[-1] == LONGEST_REST_SECONDS
    short.clock.advance(2 * LONGEST_REST_SECONDS)
    short.fitness.refused("again")
    short.clock.advance(FIRST_REST_SECONDS)
    assert short.fitness.look(), "a first refusal after a while costs a short rest"


def test_the_floor_is_a_share_of_a_small_file_system_and_bounded_on_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk(blocks: int, free: int, files: int) -> Space:
        stats = SimpleNamespace(f_blocks=blocks, f_bavail=free, f_frsize=4096, f_files=files, f_favail=files // 2)
        monkeypatch.setattr(machine.os, "statvfs", lambda _: stats)
        return space_at(tmp_path)

    megabyte = (1 << 20) // 4096
    assert disk(megabyte, 26, 1000) == Space(free=26 * 4096, floor=(1 << 20) // 10, files=500)
    assert not disk(megabyte, 26, 1000).low
    assert disk(megabyte, 25, 1000).low
    assert disk(1_000_000 * megabyte, 1, 0) == Space(free=4096, floor=64 << 20, files=None)
    assert disk(megabyte, 200, 2 * FILES_FLOOR - 2).low


def test_a_copy_of_a_state_directory_is_nobody_and_a_renamed_one_is_who_it_was(tmp_path: Path) -> None:
    original = StateDirectory(tmp_path / "state")
    original.lock()
    me = Identity.fresh("this boot")
    original.save_identity(me)
    original.unlock()
    found = original.load_identity()
    assert found is not None
    assert (found.id, found.boot_id, found.incarnation) == (me.id, "this boot", 1)

    shutil.copytree(original.path, tmp_path / "copy")
    assert StateDirectory(tmp_path / "copy").load_identity() is None
    original.path.rename(tmp_path / "moved")
    assert StateDirectory(tmp_path / "moved").load_identity() == found


def test_a_directory_of_an_earlier_version_that_knew_no_place_is_resumed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    (tmp_path / "instance.json").write_text(json.dumps({"id": "a", "boot_id": "b", "incarnation": 3}))
    assert state.load_identity() == Identity(id="a", boot_id="b", incarnation=3)


def test_an_instance_in_the_list_shows_that_it_is_hindered_and_how_well_it_contains() -> None:
    def listed(**facts: Any) -> tuple[str, str]:
        shown: Any = SimpleNamespace(**{"live": True, "draining": False, "hindrance": None, "containment": {}, **facts})
        return instance_state(shown), containment(shown)

    assert listed(containment={"name": "pidns", "full": True}) == ("up", "pidns")
    assert listed(hindrance="its spawner does not start")[0] == "hindered"
    assert listed(hindrance="its spawner does not start", live=False)[0] == "down"
    assert listed(containment={"name": "subreaper", "full": False})[1] == "subreaper (degraded)"
