"""The nastiest task there is, ended in every way, and how long its last process lived on. Standard library only.

Its processes are found by a word of their command line, for some of them drop their environment; what a scan of /proc
sees is the judge, not the supervisor. Whatever becomes of slotsched, each process ends by SIGALRM after LIFE_SECONDS,
and never more than MOST_PROCESSES are alive: every chain is one process at a time.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from process_lab import Attempt, Lab, boottime, wait_until

from slotsched.process import sweep_tree

LIFE_SECONDS = 30
MOST_PROCESSES = 30
FEWEST_PROCESSES = 4  # seen at once: those that stay what they are; the chains are hard to see
MAX_TIME, GRACE = 0.8, 0.2
EMPTY_LOOKS = 5  # a chain that re-forks may slip through one look at /proc

CANCELED, OVER_TIME, EXITED, UNSUPERVISED = "cancel --kill", "max time", "normal exit", "supervisor killed"
CAUSES = (CANCELED, OVER_TIME, EXITED, UNSUPERVISED)

NASTY = f"""
import ctypes, os, signal, sys, time
mark, witness, seconds, role = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
end = time.monotonic() + {LIFE_SECONDS}
prctl = ctypes.CDLL(None).prctl
def harden():
    signal.alarm({LIFE_SECONDS})  # a child does not inherit its parent's
    prctl(1, 0, 0, 0, 0)  # no signal when the parent dies
for number in (1, 2, 3, 10, 12, 15): signal.signal(number, signal.SIG_IGN)
harden()
def daemon(body):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            harden()
            body()
        os._exit(0)
    os.wait()
def sleeper():
    while time.monotonic() < end: time.sleep(0.05)
    os._exit(0)
def nest():  # orphans below it come to it
    prctl(36, 1, 0, 0, 0)
    daemon(chain)
    sleeper()
def chain():  # a new pid, and every other time a new session, every few milliseconds
    for step in range({LIFE_SECONDS} * 500):
        if time.monotonic() > end: break
        if os.fork() > 0: os._exit(0)
        harden()
        if step % 2: os.setsid()
        time.sleep(0.002)
    os._exit(0)
def nameless(role):  # without the environment that says whose it is
    os.closerange(0, 64)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", source, mark, witness, "0", role], {{}})
source = {{source!r}}
if role == "chain": chain()
if role == "sleeper": sleeper()
for body in (sleeper, nest, chain, chain): daemon(body)
for role in ("chain", "sleeper"): daemon(lambda: nameless(role))
print("loose", flush=True)
limit = time.monotonic() + seconds
while time.monotonic() < limit: time.sleep(0.01)
with open(witness, "w") as file: file.write(repr(time.clock_gettime(time.CLOCK_BOOTTIME)))
os._exit(0)
"""


@dataclass(frozen=True)
class Death:
    """seconds: from the reason to end to the death of the last process. most: processes seen at once before."""

    cause: str
    seconds: float
    most: int


def living(mark: str) -> list[int]:
    """The task's processes, whatever they made of themselves; zombies have no command line any more."""
    wanted = os.fsencode(mark)
    found = []
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - fast: the chains re-fork
    for pid in sorted(pids, reverse=True):  # the newest are the next to be gone
        try:
            fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY)
        except OSError:
            continue
        try:
            if wanted in os.read(fd, 1 << 17):
                found.append(pid)
        except OSError:
            pass
        finally:
            os.close(fd)
    return found


def dead_at(mark: str, within: float = 20.0) -> float:
    """When the last of the task's processes was gone. AssertionError after `within` seconds, with those that live."""
    limit = boottime() + within
    gone, empty = 0.0, 0
    while empty < EMPTY_LOOKS:
        left = living(mark)
        now = boottime()
        gone, empty = (gone if empty else now, empty + 1) if not left else (0.0, 0)
        assert now < limit, f"alive {within} s later: {left}"
        time.sleep(0.002)  # for what slipped through one look to be elsewhere at the next
    return gone


def unleash(lab: Lab, seconds: float, *, max_time: float = 20.0) -> tuple[Attempt, str, Path, int]:
    """Start one and wait until all of it is loose. Returns it with its mark, its witness file and its size."""
    mark = f"nasty-{uuid.uuid4().hex}"
    witness = lab.state_dir / mark
    source = NASTY.replace("{source!r}", "sys.orig_argv[sys.orig_argv.index('-c') + 1]")
    python = [sys.executable, "-I", "-S", "-c", source, mark, str(witness), str(seconds), "main"]
    attempt = lab.start(*python, max_time=max_time, grace=GRACE)
    attempt.wait_text("loose")
    most = 0

    def enough() -> bool:
        nonlocal most
        most = max(most, len(living(mark)))
        return most >= FEWEST_PROCESSES

    wait_until(enough, 10, f"{FEWEST_PROCESSES} nasty processes")
    assert most <= MOST_PROCESSES
    return attempt, mark, witness, most


def die(lab: Lab, cause: str) -> Death:
    """One nastiest task, ended by `cause`."""
    if cause == EXITED:
        attempt, mark, witness, most = unleash(lab, 0.6)
        dead = dead_at(mark)
        begun = float(witness.read_text())
        attempt.wait()
    elif cause == OVER_TIME:
        attempt, mark, _, most = unleash(lab, LIFE_SECONDS, max_time=MAX_TIME)
        dead = dead_at(mark)
        ending = attempt.wait()
        assert (ending.cause, ending.started is not None) == ("timeout", True), ending
        begun = (ending.started or 0.0) + MAX_TIME + GRACE
    else:
        attempt, mark, _, most = unleash(lab, LIFE_SECONDS)
        begun = boottime()
        if cause == CANCELED:
            attempt.order("canceled", 0)
        else:
            os.kill(attempt.pid, 9)
        dead = dead_at(mark)
        attempt.wait_gone()
    return Death(cause, dead - begun, most)


def nobody_left_to_kill(lab: Lab) -> tuple[bool, list[int], list[int]]:
    """Supervisor and spawner killed at once: what a sweep says of the tree, and what is alive before and after it."""
    attempt, mark, _, _ = unleash(lab, LIFE_SECONDS)
    assert lab.launcher.pid is not None
    os.kill(lab.launcher.pid, 9)
    os.kill(attempt.pid, 9)
    attempt.wait_gone()
    time.sleep(0.1)  # a PID namespace takes some milliseconds to fall
    before = living(mark)
    swept = sweep_tree(attempt.run_dir, 1.0)
    return swept, before, living(mark)


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    """p50, p99 and p100."""
    ordered = sorted(seconds)
    return tuple(ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99, 1.0))  # type: ignore[return-value]


def table(deaths: list[Death]) -> str:
    """One line for each cause, and one for all."""
    lines = [f"{'cause':<20} {'runs':>5} {'p50 ms':>8} {'p99 ms':>8} {'p100 ms':>8}  processes"]
    for name in [*CAUSES, "all"]:
        those = [death for death in deaths if name in (death.cause, "all")]
        if those:
            p50, p99, p100 = percentiles([death.seconds for death in those])
            most = max(death.most for death in those)
            times = f"{p50 * 1000:>8.1f} {p99 * 1000:>8.1f} {p100 * 1000:>8.1f}"
            lines.append(f"{name:<20} {len(those):>5} {times}  up to {most}")
    return "\n".join(lines)
