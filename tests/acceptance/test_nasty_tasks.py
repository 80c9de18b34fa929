"""Tasks that do their worst: daemons that will not die, floods of output, bytes of any kind, curiosity."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, boottime, processes_of, until

from slotsched.model import TERMINAL

Record = Callable[[str, object], None]

MEGABYTE = 1 << 20
DEAD_WITHIN_SECONDS = 1.0


# --- processes that will not die --------------------------------------------------------------------


def test_daemons_that_a_normal_exit_left_behind_die_within_a_second(shared: Fleet, figure: Figures) -> None:
    task = shared.client.enqueue("stubborn").id
    shared.witness.wait_for("start", task)
    most = _most_processes(task)
    ended = shared.witness.wait_for("end", task).at
    dead = _dead_at(task)

    assert most > 1, "the daemons never ran, so the test proves nothing"
    figure("F12", "tree dead after a normal exit", dead - ended, at_most=DEAD_WITHIN_SECONDS)
    assert shared.client.wait([task], 10)[0].status == "completed"
    assert processes_of(task) == set()


def test_a_killed_tree_that_forks_on_and_ignores_sigterm_is_dead_within_a_second(
    shared: Fleet, figure: Figures
) -> None:
    task = shared.enqueue("stubborn", "stay=true")
    shared.witness.wait_for("start", task)
    assert _most_processes(task) > 1
    killed = boottime()
    shared.client.store.tasks.cancel(task, by="the test", kill=True)
    dead = _dead_at(task)

    figure("F12", "tree dead after cancel --kill", dead - killed, at_most=DEAD_WITHIN_SECONDS)
    assert shared.client.wait([task], 10)[0].status == "canceled"
    after = shared.enqueue("work")
    assert shared.client.wait([after], 10)[0].status == "completed"


def _most_processes(task: str) -> int:
    """The most of a task's processes seen at once, until there is more than the script itself or 2 s are over."""
    until_then = boottime() + 2.0
    most = 0
    while most <= 1 and boottime() < until_then:
        most = max(most, len(processes_of(task)))
    return most


def _dead_at(task: str) -> float:
    """When nothing of the task was seen alive any more, on CLOCK_BOOTTIME."""
    until(lambda: not processes_of(task), seconds=10, what="the tree to be dead")
    return boottime()


# --- floods -----------------------------------------------------------------------------------------


@pytest.fixture
def small_logs(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """An instance whose logs are cut at 16 MiB."""
    with make_fleet(log_limit="16MiB") as made:
        made.start("small", slots=4)
        yield made


def test_a_gigabyte_without_a_newline_costs_no_memory_and_is_cut_with_a_marker(
    small_logs: Fleet, record_property: Record, figure: Figures
) -> None:
    fleet, instance = small_logs, small_logs.instances[0]
    fleet.client.wait([fleet.enqueue("flood", "megabytes=1")], 20)  # whatever is loaded once is loaded now
    _wait_until_uploaded(fleet, instance)
    before = _memory(instance)

    task = fleet.enqueue("flood", "megabytes=1024")
    peaks = dict(before)
    while fleet.client.get(task).status not in TERMINAL or _spool(instance):
        for name, used in _memory(instance).items():
            peaks[name] = max(peaks.get(name, 0), used)

    record_property("before", before)
    record_property("peaks", peaks)
    assert fleet.client.get(task).status == "completed"
    growth = {
        "scheduler": peaks["scheduler"] - before["scheduler"],
        **{who: peaks[who] for who in ("supervisor", "spawner")},
    }
    assert growth["supervisor"] > 0
    for who, grown in growth.items():
        figure("F13", f"1 GB without a newline: memory of the {who}", grown / MEGABYTE, "MiB", at_most=50)

    log = fleet.client.get(task).attempts[-1].log
    assert log is not None
    assert log.truncated
    stored = gzip.decompress((Path(fleet.settings["log_store"]) / log.key).read_bytes())
    assert len(stored) < 18 * MEGABYTE
    head, tail = _around_the_marker(stored)
    assert len(head) > MEGABYTE
    assert len(tail) > MEGABYTE
    assert head == _flood(0, len(head))
    assert tail == _flood(1024 * MEGABYTE - len(tail), len(tail))


def _flood(offset: int, length: int) -> bytes:
    """What jobs/flood.py writes from that offset on."""
    pattern = b"".join(b"%07d." % step for step in range(MEGABYTE // 8))
    first, last = offset // MEGABYTE, (offset + length) // MEGABYTE
    whole = b"".join(b"%07d#" % number + pattern[8:] for number in range(first, last + 1))
    return whole[offset - first * MEGABYTE :][:length]


def _around_the_marker(log: bytes) -> tuple[bytes, bytes]:
    """The printed bytes before and after the one line that says what is missing."""
    sides: list[list[bytes]] = [[], []]
    markers = 0
    for line in log.splitlines():
        found = json.loads(line)
        if "stream" in found:
            sides[markers].append(found["msg"].encode() + (b"" if found.get("part") or "eol" in found else b"\n"))
        else:
            markers += 1
    assert markers == 1
    return b"".join(sides[0]), b"".join(sides[1])


def _memory(instance: InstanceProcess) -> dict[str, int]:
    """Resident bytes of the scheduler and, the largest of each, of its spawner and supervisors."""
    used = {"scheduler": psutil.Process(instance.pid).memory_info().rss, "spawner": 0, "supervisor": 0}
    for process in psutil.Process(instance.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            kind = {"slotsched-spawn": "spawner", "slotsched-sup": "supervisor"}.get(process.name())
            if kind:
                used[kind] = max(used[kind], process.memory_info().rss)
    return used


def _spool(instance: InstanceProcess) -> list[Path]:
    return list((instance.state_dir / "runs").iterdir())


def _wait_until_uploaded(fleet: Fleet, instance: InstanceProcess) -> None:
    until(lambda: not _spool(instance), what=f"an empty spool of {instance.name}")


# --- bytes of any kind ------------------------------------------------------------------------------


@pytest.mark.parametrize(("stream", "other"), [("stdout", "err"), ("stderr", "out")])
def test_ten_megabytes_of_random_bytes_come_back_identical(
    shared: Fleet, stream: str, other: str, figure: Figures
) -> None:
    mine = {"stdout": "out", "stderr": "err"}[stream]
    task = shared.enqueue("noise", f"{mine}={10 * MEGABYTE}", f"{other}=100000")
    assert shared.client.wait([task], 60)[0].status == "completed"

    reader = shared.command("logs", task, "--raw", "--stream", stream)
    printed, complaints = reader.communicate(timeout=60)

    assert reader.returncode == 0
    assert complaints in (b"", b"the attempt is over; waiting for the rest of its log\n")  # the upload takes its time
    wanted = random.Random(mine).randbytes(10 * MEGABYTE)
    differing = abs(len(printed) - len(wanted)) + sum(a != b for a, b in zip(printed, wanted, strict=False))
    figure("F14", f"of 10 MB of random {stream}, bytes that differ", differing, "", exactly=0)


# --- curiosity --------------------------------------------------------------------------------------


def test_a_task_sees_none_of_the_schedulers_secrets(fleet: Fleet, figure: Figures) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "open-sesame-1", "MY_TOKEN": "open-sesame-2", "SLOTSCHED_S3_REGION": "sesame-3"}
    fleet.start("keeper", environ={**secrets, "LANG": "C.UTF-8"})
    task = fleet.enqueue("snoop")
    ended = fleet.client.wait([task], 20)[0]
    assert (ended.status, ended.message) == ("completed", None)
    seen = ended.result
    assert len(seen["others"]) >= 1, "it could not even look"

    figure("F35", "secrets of the scheduler that a task found", json.dumps(seen).count("sesame"), "", exactly=0)
    assert fleet.settings["mongodb_uri"] not in json.dumps(seen)
    assert [name for name in seen["environ"] if name.startswith("SLOTSCHED_") and "_TASK_" not in name] == []
    assert seen["environ"]["MINE"] == "given by the job file"
    assert seen["environ"]["WITNESS"] == str(fleet.witness.path), "what pass_env names is passed on"
    kinds = {link.split(":")[0] for link in seen["descriptors"] if not link.startswith("/proc")}
    assert kinds <= {"pipe", "/dev/null"}, seen["descriptors"]
