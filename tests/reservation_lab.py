"""Wide and narrow tasks on real instances, of which the one that keeps room for a wide task is killed, over and over.

Narrow tasks always wait, so that any slot that comes free is wanted at once, and one wide task at a time, in front of
them. `HolderKills` makes it happen and writes down what was seen; `judge` tells from that, and from the tasks' own
marks, how long anything stood still that need not have.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fact_jobs import write_jobs
from fleet import Fleet, Mark, boottime

from slotsched.model import TERMINAL, Instance, Status, Task

WIDE_SLOTS = 6
PARK: Mapping[str, int] = {"one": 6, "two": 6, "three": 6, "small": 2}  # any of three can run a wide task
NARROW_SECONDS = (0.2, 1.2)
WIDE_SECONDS = 0.2
PAUSE_SECONDS = (0.5, 1.5)  # between two wide tasks, in which narrow ones take the room of the first
MAX_SECONDS = 4.0  # a task's max time; it runs for less
LEASE_SECONDS, GRACE_SECONDS, POLL_SECONDS = 4.0, 1.0, 1.0
LOOK_SECONDS = 0.04
EARLY_SECONDS, LATE_SECONDS = 0.2, LEASE_SECONDS + GRACE_SECONDS + 3 * POLL_SECONDS  # restarted before or after rescue
FEED_SECONDS = 0.25
BACKLOG = 2 * sum(PARK.values())
END_SECONDS = 60.0  # for everything to end after the last kill

# What runs ends by its max time, as narrow as every plan may be wrong; then a wake-up and a start on a busy machine.
BEYOND_SECONDS = MAX_SECONDS + 2 * POLL_SECONDS
HELD_BACK_SECONDS = 3 * POLL_SECONDS


class Span(NamedTuple):
    """From when to when, CLOCK_BOOTTIME seconds."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


NEVER = Span(0.0, 0.0)


@dataclass(frozen=True)
class Death:
    """An instance was killed while the wide task waited for the room it kept. expires: when its reservation did."""

    instance: str
    wide: str
    at: float
    expires: float


@dataclass
class Story:
    """What was seen of one run. Spans by instance: when it kept room for a wide task, when it was up."""

    slots: Mapping[str, int]
    fed: Span = NEVER  # narrow tasks always waited
    marks: Sequence[Mark] = ()
    wides: dict[str, Span] = field(default_factory=dict)  # by id: when each waited
    deaths: list[Death] = field(default_factory=list)
    kept: dict[str, list[Span]] = field(default_factory=dict)
    up: dict[str, list[Span]] = field(default_factory=dict)
    tasks: int = 0
    lost: int = 0  # ended in another way than completed: with an instance
    open: int = 0  # not ended


@dataclass(frozen=True)
class Verdict:
    """Longest times in seconds.

    beyond: from the end of a dead instance's reservation until its wide task was claimed (or its next holder died).
    held_back: a slot was free and a narrow task waited where room was kept for nobody;
    held_back_after_death: that within the time a dead instance's reservation lasted. kept: a slot was free, also where
    room was kept. wide_wait: of a wide task, whatever happened. twice: tasks that began more than once.
    """

    beyond: float
    held_back_after_death: float
    held_back: float
    kept: float
    wide_wait: float
    twice: int


# --- the judgement ------------------------------------------------------------------------------------


def judge(story: Story) -> Verdict:
    idle = {name: list(_idle(story, name)) for name in story.slots}
    unkept = [span for name, spans in idle.items() for span in _without(spans, story.kept.get(name, ()))]
    dead = [Span(death.at, max(death.at, death.expires)) for death in story.deaths]
    began = Counter(mark.task for mark in story.marks if mark.event == "start")
    return Verdict(
        beyond=max((_beyond(story, death) for death in story.deaths), default=0.0),
        held_back_after_death=_longest(part for one in unkept for death in dead for part in _some(_both(one, death))),
        held_back=_longest(unkept),
        kept=_longest(span for spans in idle.values() for span in spans),
        wide_wait=_longest(story.wides.values()),
        twice=sum(count > 1 for count in began.values()),
    )


def _beyond(story: Story, death: Death) -> float:
    """How long after the reservation's end the wide task still waited, until it was claimed or its next holder died."""
    later = [other.at for other in story.deaths if other.wide == death.wide and other.at > death.at]
    return max(0.0, min([story.wides[death.wide].end, *later]) - death.expires)


def _idle(story: Story, name: str) -> Iterator[Span]:
    """When a slot was free there, by the tasks' own marks, while it was up and narrow tasks waited."""
    ends = {(mark.task, mark.fence): mark.at for mark in story.marks if mark.event == "end"}
    # One that leaves no mark of its end was killed, at the latest when its time was over.
    runs = [
        (mark.at, ends.get((mark.task, mark.fence), mark.at + MAX_SECONDS), mark.slots)
        for mark in story.marks
        if mark.event == "start" and mark.instance == name
    ]
    for up in story.up.get(name, ()):
        here = [run for run in runs if run[0] < up.end and run[1] > up.begin]
        changes = [(max(start, up.begin), slots) for start, _, slots in here]
        changes += [(end, -slots) for _, end, slots in here]
        used, since = 0, up.begin
        for at, change in [*sorted(changes), (up.end, story.slots[name])]:
            if used < story.slots[name] <= used + change:
                yield from _some(_both(_both(Span(since, at), up), story.fed))
            elif used >= story.slots[name] > used + change:
                since = at
            used += change


def _without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    left = list(spans)
    for other in others:
        left = [
            part
            for span in left
            for part in (Span(span.begin, min(span.end, other.begin)), Span(max(span.begin, other.end), span.end))
            if part.seconds > 0
        ]
    return left


def _both(one: Span | None, other: Span) -> Span | None:
    if one is None:
        return None
    span = Span(max(one.begin, other.begin), min(one.end, other.end))
    return span if span.seconds > 0 else None


def _some(span: Span | None) -> Iterable[Span]:
    return () if span is None else (span,)


def _longest(spans: Iterable[Span]) -> float:
    return max((span.seconds for span in spans), default=0.0)


# --- what happens -------------------------------------------------------------------------------------


class HolderKills:
    """Feeds a fleet and kills who keeps room for a wide task, until so many tasks were fed and so many kills made."""

    def __init__(self, fleet: Fleet, *, tasks: int, kills: int, seed: int = 1, most_seconds: float = 600.0) -> None:
        self._fleet = fleet
        self._tasks, self._kills, self._most_seconds = tasks, kills, most_seconds
        self._random = random.Random(seed)
        self._store = fleet.client.store
        self._clock_offset = self._store.now().timestamp() - boottime()
        self._lives: dict[str, tuple[str, int]] = {}  # by name: id and incarnation of what is up
        self._names: dict[str, str] = {}  # by id
        self._restart_at: dict[str, float] = {}
        self._strike: tuple[float, str] | None = None  # when to kill, and for which wide task
        self._ways = itertools.cycle(itertools.product((LATE_SECONDS, EARLY_SECONDS), ("all", "scheduler")))
        self._seen: set[tuple[str, int]] = set()
        self._wide = ""
        self._fed_at = self._wide_at = 0.0
        self.story = Story(slots=PARK)

    def run(self) -> Story:
        for name, slots in PARK.items():
            self._fleet.start(name, slots=slots, wait=False)
        self._see_lives(until_all=True)
        begin = boottime()
        while not self._enough() and boottime() - begin < self._most_seconds:
            self._turn()
        self.story.fed = Span(begin, boottime())
        while self._restart_at or len(self._lives) < len(PARK):
            self._restart()
            self._see_lives()
            self._look_at_wide()
            time.sleep(LOOK_SECONDS)
        self._finish()
        return self.story

    def _enough(self) -> bool:
        return self.story.tasks >= self._tasks and len(self.story.deaths) >= self._kills

    def _turn(self) -> None:
        begun = time.monotonic()
        self._see_lives()
        self._feed()
        wide = self._look_at_wide()
        if wide is not None:
            self._maybe_kill(wide)
        self._restart()
        time.sleep(max(0.0, LOOK_SECONDS - (time.monotonic() - begun)))

    # --- work ----------------------------------------------------------------------------------------

    def _feed(self) -> None:
        if boottime() - self._fed_at > FEED_SECONDS:
            missing = BACKLOG - self._store.tasks.counts()[Status.PENDING]
            narrow = {"job": "narrow", "max_time": MAX_SECONDS}
            lines = [narrow | {"args": {"seconds": self._random.uniform(*NARROW_SECONDS)}} for _ in range(missing)]
            self.story.tasks += len(self._fleet.client.enqueue_many(lines))
            self._fed_at = boottime()
        if not self._wide and boottime() >= self._wide_at:
            line = {"job": "wide", "max_time": MAX_SECONDS, "priority": 1, "args": {"seconds": WIDE_SECONDS}}
            (handle,) = self._fleet.client.enqueue_many([line])
            self._wide, self.story.wides[handle.id] = handle.id, Span(boottime(), float("inf"))
            self.story.tasks += 1

    def _look_at_wide(self) -> Task | None:
        """The wide task if it waits; notes who keeps room for it now, or that it waits no more."""
        if not self._wide:
            return None
        task, now = self._store.tasks.get(self._wide), boottime()
        waits = task.status is Status.PENDING
        holder = self._holder(task) if waits else None
        for name in PARK:
            self._note(self.story.kept.setdefault(name, []), now, going_on=name == holder)
        if waits:
            return task
        self.story.wides[task.id] = Span(self.story.wides[task.id].begin, now)
        self._wide, self._wide_at = "", now + self._random.uniform(*PAUSE_SECONDS)
        return None

    def _holder(self, task: Task) -> str | None:
        hint = task.reserved
        if hint is None or hint.until.timestamp() - self._clock_offset < boottime():
            return None
        return self._names.get(hint.by)

    @staticmethod
    def _note(spans: list[Span], now: float, *, going_on: bool) -> None:
        """Spans are as wide as what was not looked at allows."""
        if going_on and spans and now - spans[-1].end < 5 * LOOK_SECONDS:
            spans[-1] = Span(spans[-1].begin, now)
        elif going_on:
            spans.append(Span(now - LOOK_SECONDS, now))

    # --- kills ---------------------------------------------------------------------------------------

    def _maybe_kill(self, wide: Task) -> None:
        holder = self._holder(wide)
        able = [name for name in self._lives if PARK[name] >= WIDE_SLOTS]
        if holder not in self._lives or len(able) < 2 or len(self._restart_at) > 1:
            self._strike = None
        elif self._strike is None or self._strike[1] != wide.id:
            self._strike = boottime() + self._random.uniform(0.0, 0.3), wide.id
        elif boottime() >= self._strike[0]:
            self._strike = None
            self._kill(holder)

    def _kill(self, holder: str) -> None:
        pause, way = next(self._ways)
        instance = next(one for one in reversed(self._fleet.instances) if one.name == holder)
        if way == "all":
            instance.kill_all()
        else:
            instance.process.kill()
            instance.process.wait(10)
        now = boottime()
        gone = self._lives.pop(holder)[0]
        up = self.story.up[holder]
        up[-1] = Span(up[-1].begin, now)
        self._restart_at[holder] = now + pause
        left = self._store.tasks.get(self._wide)
        if left.status is Status.PENDING and left.reserved is not None and left.reserved.by == gone:
            expires = left.reserved.until.timestamp() - self._clock_offset
            self.story.deaths.append(Death(holder, left.id, now, expires))

    def _restart(self) -> None:
        for name, at in list(self._restart_at.items()):
            if boottime() >= at:
                del self._restart_at[name]
                self._fleet.start(name, slots=PARK[name], wait=False)

    def _see_lives(self, *, until_all: bool = False) -> None:
        """Who is up: a document with a life that was not seen before is an instance that has come."""
        deadline = time.monotonic() + 60
        while len(self._lives) < len(PARK) and time.monotonic() < deadline:
            for one in self._store.instances.live():
                self._see(one)
            if not until_all:
                break
            time.sleep(LOOK_SECONDS)

    def _see(self, one: Instance) -> None:
        life = one.id, one.incarnation
        known = self.story.up.setdefault(one.name, [])
        if one.name not in self._lives and life not in self._seen:
            self._seen.add(life)
            self._names[one.id] = one.name
            self._lives[one.name] = life
            known.append(Span(boottime(), float("inf")))

    # --- the end -------------------------------------------------------------------------------------

    def _finish(self) -> None:
        deadline = time.monotonic() + END_SECONDS
        while (left := self._open()) and time.monotonic() < deadline:
            self._look_at_wide()
            time.sleep(LOOK_SECONDS)
        self._look_at_wide()
        counts = self._store.tasks.counts()
        self.story.open = left
        self.story.lost = counts[Status.FAILED] + counts[Status.CANCELED]
        self.story.marks = self._fleet.witness.marks()

    def _open(self) -> int:
        return sum(count for status, count in self._store.tasks.counts().items() if status not in TERMINAL)


def write_wide_and_narrow(folder: Path) -> Path:
    """The two jobs."""
    return write_jobs(folder, {"narrow": "", "wide": f"slots = {WIDE_SLOTS}"})
