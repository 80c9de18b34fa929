"""Job files that change under a running instance: what was enqueued before meets the file as it is at its start."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet import JOBS, Fleet, FleetMaker, until

from slotsched.model import Task

HEADER = '# /// script\n# [tool.slotsched]\n# max_time = "20s"\n# ///\n'
SHELL = f"#!/bin/sh\n{HEADER}printf 1 > $SLOTSCHED_TASK_RESULT\n"


@dataclass
class Workshop:
    """A fleet of one instance with one slot, and its jobs folder."""

    fleet: Fleet
    jobs: Path

    def put(self, name: str, text: str, *, mode: int = 0o644) -> Path:
        """As an editor does: a new file takes the old one's name."""
        path = self.jobs / name
        fresh = self.jobs / f".{name}.new"
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.rename(path)
        return path

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """The only slot is taken, so what is enqueued waits."""
        holder = self.fleet.client.enqueue("work", {"seconds": 30}).id
        self.fleet.witness.wait_for("start", holder)
        try:
            yield
        finally:
            self.fleet.client.cancel(holder)

    def ended(self, task: str) -> Task:
        return self.fleet.client.wait([task], 20)[0]

    def claimed_after(self, name: str, spoil: Callable[[Path], object], restore: Callable[[], Path]) -> Task:
        """A task whose file was spoiled between the last scan and the claim, ended.

        The scan comes every two seconds and may come first; then the task waits, and this begins again.
        """
        for _ in range(5):
            path = restore()
            until(lambda: self._held(name), what=f"the instance to have read {path}")
            request = self.fleet.client.request(name)
            spoil(path)
            task = self.fleet.client.submit(request).id
            with contextlib.suppress(AssertionError):
                until(lambda task=task: self.fleet.client.get(task).status == "failed" or None, seconds=1.5)
                return self.fleet.client.get(task)
            self.fleet.client.cancel(task)
        raise AssertionError("the scan was always faster")

    def _held(self, name: str) -> bool:
        """Whether the instance knows the file as it is now."""
        wanted = hashlib.sha256(next(self.jobs.glob(f"{name}.*")).read_bytes()).hexdigest()
        return bool(self.fleet.client.store.catalogs.copies().get(name, {}).get(wanted))


@pytest.fixture(scope="module")
def workshop(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    jobs = tmp_path_factory.mktemp("jobs")
    for name in ("work.py", "_witness.py"):
        (jobs / name).write_text((JOBS / name).read_text())
    with make_fleet(jobs=jobs) as fleet:
        fleet.start("bench", slots=1)
        yield Workshop(fleet, jobs)


@pytest.fixture(autouse=True)
def _goes_on(workshop: Workshop) -> Iterator[None]:
    """Whatever happened to a file, the instance runs the next task."""
    yield
    assert workshop.ended(workshop.fleet.client.enqueue("work").id).status == "completed"
    (instance,) = workshop.fleet.instances
    assert not [line for line in instance.log() if line["level"] >= 50]


# --- edited -----------------------------------------------------------------------------------------


def test_an_edited_script_runs_as_it_is_at_the_start(workshop: Workshop) -> None:
    workshop.put("greet.py", f'{HEADER}def main(name: str) -> str:\n    return f"old {{name}}"\n')
    with workshop.occupied():
        task = workshop.fleet.enqueue("greet", "name=ann")
        new = workshop.put(
            "greet.py", f'{HEADER}def main(name: str, times: int = 2) -> str:\n    return f"new {{name}}" * times\n'
        )
    ended = workshop.ended(task)

    assert (ended.status, ended.result) == ("completed", "new annnew ann")
    assert ended.attempts[-1].hash == hashlib.sha256(new.read_bytes()).hexdigest()


def test_a_script_edited_so_that_the_arguments_no_longer_fit_fails_as_invalid(workshop: Workshop) -> None:
    workshop.put("shape.py", f"{HEADER}def main(width: int) -> int:\n    return width\n")
    with workshop.occupied():
        renamed = workshop.fleet.enqueue("shape", "width=3")
        workshop.put("shape.py", f"{HEADER}def main(height: int) -> int:\n    return height\n")
    ended = workshop.ended(renamed)

    assert (ended.status, ended.reason) == ("failed", "invalid")
    assert ended.message
    assert "width" in ended.message


# --- broken or gone ---------------------------------------------------------------------------------


def test_tasks_of_a_broken_script_wait_with_that_reason_until_it_is_mended(workshop: Workshop) -> None:
    good = f"{HEADER}def main() -> str:\n    return 'mended'\n"
    workshop.put("brittle.py", good)
    with workshop.occupied():
        task = workshop.fleet.enqueue("brittle")
        workshop.put("brittle.py", good.replace("max_time", "max_tim"))
        until(lambda: "broken" in workshop.fleet.client.why(task), what="the instance to see that it is broken")
    why = workshop.fleet.cli("why", task).stdout
    assert 'job "brittle" is broken on bench: brittle.py:3: unknown key "max_tim"' in why
    assert workshop.ended(workshop.fleet.client.enqueue("work").id).status == "completed"
    assert workshop.fleet.client.get(task).status == "pending"

    workshop.put("brittle.py", good)
    ended = workshop.ended(task)
    assert (ended.status, ended.result, ended.attempt) == ("completed", "mended", 1)


def test_a_script_that_is_taken_away_costs_one_task_and_not_the_queue(workshop: Workshop) -> None:
    """Between two scans, what was claimed before fails; what waits behind it waits."""
    path = workshop.put("taken.sh", SHELL, mode=0o755)
    until(lambda: workshop._held("taken"), what="the instance to have read it")
    client = workshop.fleet.client
    with workshop.occupied():
        tasks = [handle.id for handle in client.enqueue_many([{"job": "taken"}] * 200)]
        path.unlink()
    until(lambda: "is on no instance" in client.why(tasks[-1]), what="the instance to see that it is gone")
    assert [client.get(task).status for task in tasks].count("failed") <= 1
    workshop.put("taken.sh", SHELL, mode=0o755)
    assert {task.status for task in client.wait(tasks[1:], 60)} <= {"completed"}


def test_tasks_of_a_script_that_is_gone_wait_with_that_reason_until_it_is_back(workshop: Workshop) -> None:
    text = f"{HEADER}def main() -> str:\n    return 'back'\n"
    path = workshop.put("fleeting.py", text)
    with workshop.occupied():
        task = workshop.fleet.enqueue("fleeting")
        path.unlink()
        until(
            lambda: "is on no instance" in workshop.fleet.client.why(task), what="the instance to see that it is gone"
        )
    assert 'job "fleeting" is on no instance that is up' in workshop.fleet.cli("why", task).stdout
    assert workshop.ended(workshop.fleet.client.enqueue("work").id).status == "completed"
    assert workshop.fleet.client.get(task).status == "pending"

    workshop.put("fleeting.py", text)
    ended = workshop.ended(task)
    assert (ended.status, ended.result, ended.attempt) == ("completed", "back", 1)


# --- after the claim --------------------------------------------------------------------------------


def test_a_script_that_is_gone_after_the_claim_is_not_started(workshop: Workshop) -> None:
    ended = workshop.claimed_after("vanishing", Path.unlink, lambda: workshop.put("vanishing.sh", SHELL, mode=0o755))

    assert (ended.status, ended.reason, ended.result) == ("failed", "not_started", None)
    assert ended.message
    assert "vanishing" in ended.message


def test_a_script_that_is_not_executable_after_the_claim_is_not_started(workshop: Workshop) -> None:
    ended = workshop.claimed_after(
        "locked", lambda path: path.chmod(0o644), lambda: workshop.put("locked.sh", SHELL, mode=0o755)
    )

    assert (ended.status, ended.reason, ended.result) == ("failed", "not_started", None)
    assert ended.message
    assert "locked" in ended.message


def test_a_script_broken_after_the_claim_is_not_started(workshop: Workshop) -> None:
    ended = workshop.claimed_after(
        "cracked",
        lambda path: path.write_text(SHELL.replace("max_time", "max_tim")),
        lambda: workshop.put("cracked.sh", SHELL, mode=0o755),
    )

    assert (ended.status, ended.reason, ended.result) == ("failed", "not_started", None)
    assert ended.message
    assert 'unknown key "max_tim"' in ended.message
