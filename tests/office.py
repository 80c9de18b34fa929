"""Schedules of one fleet, with a jobs folder of their own: through the client, where the words do not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fleet import JOBS, Fleet, FleetMaker, until

from slotsched.model import Schedule, Task


@dataclass
class Office:
    """A fleet, its jobs folder, and what its schedules do."""

    fleet: Fleet
    jobs: Path

    def add(self, name: str, args: dict[str, Any] | None = None, **options: Any) -> Schedule:
        """A schedule of the job `work`; once an hour unless an option says when."""
        kinds = {"cron", "every", "at", "after"}
        when = {} if kinds & set(options) else {"every": "1h"}
        return self.fleet.client.schedules.add("work", args, name=name, **when, **options)

    def set(self, name: str, **args: Any) -> None:
        self.fleet.client.schedules.set(name, args)

    def get(self, name: str) -> Schedule:
        return self.fleet.client.schedules.get(name)

    def run(self, name: str, *, overlap: str | None = None) -> str:
        """Run now; the task's full id."""
        return self.fleet.client.schedules.run(name, overlap=overlap)

    def rounds(self, name: str) -> list[Task]:
        """The series so far, oldest first."""
        return self.fleet.client.schedules.history(name, 0)[::-1]

    def ended(self, name: str, count: int, *, seconds: float = 20.0) -> list[Task]:
        """The first rounds, once so many have ended."""

        def enough() -> list[Task] | None:
            done = [task for task in self.rounds(name) if task.ended_at is not None]
            return done[:count] if len(done) >= count else None

        found = until(enough, seconds=seconds, what=f"{count} rounds of {name}")
        assert found is not None
        return found

    def until(self, name: str, probe: Callable[[Schedule], object], *, seconds: float = 20.0) -> Schedule:
        """The schedule as soon as the probe is true of it."""

        def look() -> Schedule | None:
            found = self.get(name)
            return found if probe(found) else None

        found = until(look, seconds=seconds, what=f"{name} to change")
        assert found is not None
        return found

    def put(self, name: str, facts: str, body: str = "exit 0") -> None:
        """A shell job with these facts, as an editor saves it."""
        lines = "".join(f"# {line}\n" for line in facts.splitlines())
        fresh = self.jobs / f".{name}.new"
        fresh.write_text(f"#!/bin/sh\n# /// script\n# [tool.slotsched]\n# slots = 1\n{lines}# ///\n{body}\n")
        fresh.chmod(0o755)
        fresh.rename(self.jobs / f"{name}.sh")

    def most_at_once(self, name: str) -> int:
        """How many scripts of the series ran at the same moment, by their own clocks."""
        ids = {task.id for task in self.rounds(name)}
        changes = [
            (mark.at, change)
            for event, change in (("start", 1), ("end", -1))
            for mark in self.fleet.witness.marks(event)
            if mark.task in ids
        ]
        now = most = 0
        for _, change in sorted(changes):
            now += change
            most = max(most, now)
        return most


def an_office(make_fleet: FleetMaker, folder: Path) -> Iterator[Office]:
    """With no instance up yet. folder: for the job files; empty."""
    for name in ("work.py", "_witness.py"):
        (folder / name).write_text((JOBS / name).read_text())
    with make_fleet(jobs=folder) as fleet:
        yield Office(fleet, folder)
