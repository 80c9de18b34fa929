"""Schedules as people use them: made, fired on the grid, paused, run now, cleared; and those that job files declare."""

from __future__ import annotations

import datetime as dt
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pymongo
import pytest
from fleet import JOBS, Fleet, FleetMaker, until

from slotsched.model import Schedule, Task

SECOND = dt.timedelta(seconds=1)
HOURLY = ("--every", "1h")


@dataclass
class Office:
    """A fleet, its jobs folder, and what its schedules do."""

    fleet: Fleet
    jobs: Path

    def add(self, name: str, *words: str) -> None:
        """A schedule of the job `work`."""
        self.fleet.cli("schedule", "add", "work", "--name", name, *words)

    def get(self, name: str) -> Schedule:
        return self.fleet.client.schedules.get(name)

    def run(self, name: str, *words: str) -> str:
        """Run now; the task's id as the command prints it."""
        return self.fleet.cli("schedule", "run", name, *words).stdout.strip()

    def refused(self, *words: str) -> str:
        done = self.fleet.cli("schedule", *words, check=False)
        assert done.returncode == 5, done
        return done.stderr.strip()

    def rounds(self, name: str) -> list[Task]:
        """The series so far, oldest first."""
        return self.fleet.client.schedules.history(name, 0)[::-1]

    def ended(self, name: str, count: int, *, seconds: float = 20.0) -> list[Task]:
        """The first rounds, once so many have ended."""

        def enough() -> list[Task] | None:
            done = [task for task in self.rounds(name) if task.ended_at is not None]
            return done[:count] if len(done) >= count else None

        return until(enough, seconds=seconds, what=f"{count} rounds of {name}") or []

    def until(self, name: str, probe: Callable[[Schedule], object], *, seconds: float = 20.0) -> Schedule:
        """The schedule as soon as the probe is true of it."""
        return until(lambda: found if probe(found := self.get(name)) else None, seconds=seconds, what=name) or found

    def put(self, name: str, facts: str, body: str = "exit 0") -> None:
        """A shell job with these facts, as an editor saves it."""
        lines = "".join(f"# {line}\n" for line in facts.splitlines())
        fresh = self.jobs / f".{name}.new"
        fresh.write_text(f"#!/bin/sh\n# /// script\n# [tool.slotsched]\n# slots = 1\n{lines}# ///\n{body}\n")
        fresh.chmod(0o755)
        fresh.rename(self.jobs / f"{name}.sh")


def an_office(make_fleet: FleetMaker, folder: Path) -> Iterator[Office]:
    for name in ("work.py", "_witness.py"):
        (folder / name).write_text((JOBS / name).read_text())
    with make_fleet(jobs=folder) as fleet:
        yield Office(fleet, folder)


@pytest.fixture(scope="module")
def office(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one instance of 16 slots, shared by the module."""
    for made in an_office(make_fleet, tmp_path_factory.mktemp("jobs")):
        made.fleet.start("clock", slots=16)
        yield made


@pytest.fixture
def closed(make_fleet: FleetMaker, tmp_path: Path) -> Iterator[Office]:
    """Of one test's own, with no instance up."""
    (tmp_path / "jobs").mkdir()
    yield from an_office(make_fleet, tmp_path / "jobs")


# --- the grid -----------------------------------------------------------------------------------------


def test_an_interval_fires_on_its_grid_and_remembers_its_last_success(office: Office) -> None:
    office.add("grid", "--every", "2s")
    begun = office.get("grid").anchor_at
    assert begun is not None
    first, second = office.ended("grid", 2)
    assert [task.nominal_at for task in (first, second)] == [begun + 2 * SECOND, begun + 4 * SECOND]
    assert all(task.nominal_at is not None and task.created_at >= task.nominal_at for task in (first, second))
    remembered = office.until("grid", lambda one: one.counters.completed >= 2)
    assert remembered.last_completed_at in [task.ended_at for task in office.rounds("grid")]
    office.fleet.cli("schedule", "set", "grid", "code=3")
    failed = office.until("grid", lambda one: one.failures >= 2)
    completed = [task for task in office.rounds("grid") if task.status == "completed"]
    assert failed.last_completed_at == completed[-1].ended_at
    assert failed.status == "active"
    office.fleet.cli("schedule", "pause", "grid")
    times = [task.nominal_at for task in office.rounds("grid") if task.nominal_at is not None]
    assert [later - earlier for earlier, later in pairwise(times)] == [2 * SECOND] * (len(times) - 1)


def test_after_a_failure_of_every_run_there_is_no_last_success(office: Office) -> None:
    office.add("never", *HOURLY, "code=1")
    office.fleet.ended(office.run("never"))
    found = office.until("never", lambda one: one.failures == 1)
    assert (found.last_completed_at, found.last_started_at) == (None, None)


def test_down_for_several_intervals_there_is_one_overdue_run_and_then_the_next_grid_point(closed: Office) -> None:
    instance = closed.fleet.start("first")
    closed.add("grid", "--every", "0.7s")
    closed.ended("grid", 2)
    instance.stop()
    before = len(closed.rounds("grid"))
    down = closed.until("grid", lambda one: one.next_at is not None and closed.fleet.client.store.now() > one.next_at)
    missed = down.next_nominal_at
    assert missed is not None
    until(lambda: closed.fleet.client.store.now() > missed + 4 * SECOND, what="several intervals to pass")
    closed.fleet.start("second")
    closed.ended("grid", before + 3)
    times = [task.nominal_at for task in closed.rounds("grid") if task.nominal_at is not None][: before + 3]
    steps = [round((later - earlier) / SECOND / 0.7, 6) for earlier, later in pairwise(times)]
    assert [step for step in steps if step != 1.0] == [steps[before - 1]], "one gap, everything else on the grid"
    assert steps[before - 1] >= 5
    assert steps[before - 1].is_integer()


def test_a_day_of_downtime_is_caught_up_on_as_the_policy_says(
    closed: Office, mongo_client: pymongo.MongoClient[dict[str, object]]
) -> None:
    for policy in ("once", "all", "none"):
        closed.add(policy, *HOURLY, "--catch-up", policy, "--overlap", "allow_all")
    database = mongo_client[closed.fleet.settings["database"]]
    day = dt.timedelta(hours=24, minutes=10)
    earlier = {
        name: {"$subtract": [f"${name}", int(day.total_seconds() * 1000)]}
        for name in ("anchor_at", "next_nominal_at", "next_at")
    }
    database["schedules"].update_many({}, [{"$set": earlier}])
    due = {policy: closed.get(policy).next_nominal_at for policy in ("once", "all", "none")}
    closed.fleet.start("late", slots=16)
    now = closed.fleet.client.store.now()
    closed.ended("all", 24)
    for policy in ("once", "none"):
        closed.until(policy, lambda one: one.next_at is not None and one.next_at > now)
    hours = {policy: [task.nominal_at for task in closed.rounds(policy)] for policy in due}
    first = due["all"]
    assert first is not None
    assert hours["all"] == [first + n * dt.timedelta(hours=1) for n in range(24)]
    assert hours["once"] == [(due["once"] or first) + 23 * dt.timedelta(hours=1)]
    assert hours["none"] == []


# --- one series after another -------------------------------------------------------------------------


def test_each_round_of_a_brings_one_of_b_that_belongs_to_it(office: Office) -> None:
    office.add("a", *HOURLY)
    office.add("b", "--after", "a")
    rounds = []
    for _ in range(3):
        rounds.append(office.run("a"))
        office.ended("b", len(rounds))
    followers = office.rounds("b")
    assert [task.status for task in followers] == ["completed"] * 3
    assert [task.trigger for task in followers] == [f"after:{one}" for one in rounds]
    assert all(one in task.parents for one, task in zip(rounds, followers, strict=True))
    starts = {mark.task: mark.at for mark in office.fleet.witness.marks("start")}
    ends = {mark.task: mark.at for mark in office.fleet.witness.marks("end")}
    assert all(starts[task.id] >= ends[one] for one, task in zip(rounds, followers, strict=True))


def test_a_round_that_fails_or_is_canceled_cancels_its_follower_and_the_next_one_goes_on(office: Office) -> None:
    office.add("up", *HOURLY, "code=1")
    office.add("down", "--after", "up")
    office.run("up")
    (first,) = office.ended("down", 1)
    assert (first.status, first.reason) == ("canceled", "upstream")
    office.fleet.cli("schedule", "set", "up", "code=0", "seconds=30")
    slow = office.run("up")
    office.fleet.witness.wait_for("start", slow)
    office.fleet.cli("cancel", slow)
    assert office.ended("down", 2)[1].reason == "upstream"
    office.fleet.cli("schedule", "set", "up", "seconds=0")
    office.run("up")
    assert [task.status for task in office.ended("down", 3)] == ["canceled", "canceled", "completed"]


# --- while the last round runs --------------------------------------------------------------------------


def test_skip_never_runs_two_at_once_and_counts_what_it_leaves_out(office: Office) -> None:
    office.add("skip", "--every", "0.5s", "seconds=1.2")
    found = office.until("skip", lambda one: one.counters.skipped >= 3 and one.counters.completed >= 2)
    office.fleet.cli("schedule", "pause", "skip")
    assert found.overlap == "skip"
    assert most_at_once(office, "skip") == 1


def test_the_overlap_policies_decide_about_run_now_too(office: Office) -> None:
    for policy in ("skip", "buffer_one", "buffer_all", "allow_all", "cancel_other"):
        office.add(policy.replace("_", "-") + "-now", *HOURLY, "--overlap", policy, "seconds=60")
    skip, one, every, free, other = (
        f"{name}-now" for name in ("skip", "buffer-one", "buffer-all", "allow-all", "cancel-other")
    )
    first = {name: office.run(name) for name in (skip, one, every, free, other)}
    for task in first.values():
        office.fleet.witness.wait_for("start", task)
    assert "has not ended yet" in office.refused("run", skip)
    waiting = office.run(one)
    assert office.fleet.client.get(waiting).status == "waiting"
    office.refused("run", one)
    chain = [office.run(every) for _ in range(2)]
    assert [office.fleet.client.get(task).after for task in chain] == [(first[every],), (first[every], chain[0])]
    beside = office.run(free)
    office.fleet.witness.wait_for("start", beside)
    instead = office.run(other)
    assert office.fleet.ended(first[other])[0].reason == "canceled"
    office.fleet.witness.wait_for("start", instead)
    assert office.run(skip, "--overlap", "allow_all") != first[skip]
    for task in office.rounds(skip) + office.rounds(one) + office.rounds(every) + office.rounds(free):
        if task.ended_at is None:
            office.fleet.client.kill(task.id)
    office.fleet.client.kill(instead)
    office.fleet.ended(waiting, *chain)


def most_at_once(office: Office, name: str) -> int:
    ids = {task.id for task in office.rounds(name)}
    changes = [
        (mark.at, change)
        for event, change in (("start", 1), ("end", -1))
        for mark in office.fleet.witness.marks(event)
        if mark.task in ids
    ]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


# --- what people do with them -----------------------------------------------------------------------------


def test_several_are_paused_and_resumed_at_once_and_fire_only_then(office: Office) -> None:
    for name in ("one", "two"):
        office.add(name, "--every", "0.5s")
        office.ended(name, 1)
    paused = office.fleet.cli("schedule", "pause", "one", "two").stdout
    assert paused == "one paused\ntwo paused\n"
    counts = {name: len(office.rounds(name)) for name in ("one", "two")}
    begun = office.fleet.client.store.now()
    office.add("witness", "--every", "0.5s", "--max-runs", "3")
    assert office.until("witness", lambda one: one.status == "done").why == "all its runs were made"
    assert {name: len(office.rounds(name)) for name in counts} == counts
    assert office.fleet.client.get(office.run("one")).trigger == "run-now:one", "also while it is paused"
    office.fleet.cli("schedule", "resume", "one", "two")
    for name in counts:
        later = until(lambda name=name: [task for task in office.rounds(name)[counts[name] :] if task.nominal_at])
        assert later[0].nominal_at is not None
        assert later[0].nominal_at > begun + SECOND, "what passed meanwhile is not caught up on"
    office.fleet.cli("schedule", "pause", "one", "two", "witness", check=False)
    assert "no schedule" in office.fleet.cli("schedule", "pause", "one", "nobody", check=False).stderr


def test_a_schedule_pauses_itself_after_failures_in_a_row(office: Office) -> None:
    office.add("fragile", "--every", "0.5s", "--pause-on-failure", "2", "code=1")
    found = office.until("fragile", lambda one: one.status == "paused")
    assert found.why == "paused after 2 failures in a row"
    assert found.next_at is None


def test_nothing_fires_outside_of_its_bounds_nor_before_its_time(office: Office) -> None:
    start = office.fleet.client.store.now() + 1.5 * SECOND
    bounds = ("--start-at", start.isoformat(), "--end-at", (start + 1.2 * SECOND).isoformat())
    office.add("bounded", "--every", "0.5s", *bounds, "--jitter", "0.2s")
    office.until("bounded", lambda one: one.status == "done")
    times = [task.nominal_at for task in office.rounds("bounded") if task.nominal_at is not None]
    assert len(times) == 3
    assert times[0] >= start - dt.timedelta(milliseconds=1)
    assert all(
        dt.timedelta(0) <= task.due_at - (task.nominal_at or task.due_at) <= 0.2 * SECOND
        for task in office.rounds("bounded")
    )
    assert all(task.created_at >= task.due_at for task in office.rounds("bounded"))


def test_a_cleared_history_leaves_what_the_next_run_is_told(office: Office) -> None:
    office.add("cleared", *HOURLY)
    for _ in range(3):
        office.fleet.ended(office.run("cleared"))
        office.until("cleared", lambda one: not one.live)
    before = office.get("cleared")
    assert office.fleet.cli("schedule", "clear-history", "cleared").stdout == "3 tasks removed\n"
    after = office.get("cleared")
    assert office.rounds("cleared") == []
    assert (after.counters.completed, after.last_completed_at) == (0, before.last_completed_at)


def test_a_listing_shows_the_next_fire_and_the_last_run(office: Office) -> None:
    office.add("listed", *HOURLY, "--label", "by label", "--owner", "ann")
    office.fleet.ended(office.run("listed"))
    header, row = office.fleet.cli("schedule", "ls", "--label", "by label").stdout.splitlines()
    titles = ["NAME", "JOB", "WHEN", "STATUS", "NEXT", "LAST-RUN", "LAST-STATUS", "RUNS", "OWNER", "LABEL", "WHY"]
    assert header.split() == titles
    cells = row.split("  ")
    assert [cell.strip() for cell in cells if cell.strip()][:4] == ["listed", "work", "every 1h", "active"]
    assert "completed" in row
    assert "ann" in row
    shown = office.fleet.cli("schedule", "show", "listed").stdout
    assert "every hour from" in shown
    fires = json.loads(office.fleet.cli("schedule", "next", "listed", "--n", "2", "-o", "json").stdout)
    assert len(fires) == 2
    office.fleet.cli("schedule", "rm", "listed")
    assert office.fleet.cli("schedule", "show", "listed", check=False).returncode == 3


def test_a_backfill_makes_each_missing_round_once_and_so_many_at_a_time(office: Office) -> None:
    office.add("history", "--cron", "0 * * * *", "seconds=0.3")
    words = ("schedule", "backfill", "history", "--from", "2020-01-01T00:00Z", "--to", "2020-01-01T05:30Z")
    dry = office.fleet.cli(*words, "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == [f"2020-01-01T0{hour}:00:00Z" for hour in range(6)]
    assert office.rounds("history") == []
    made = office.fleet.cli(*words, "--limit", "2").stdout.split()
    assert len(made) == 6
    assert {task.status for task in office.fleet.ended(*made)} == {"completed"}
    assert most_at_once(office, "history") <= 2
    again = office.fleet.cli(*words[:-1], "2020-01-01T06:30Z", "--limit", "2")
    assert "1 task; 6 had theirs already" in again.stderr
    assert len({task.nominal_at for task in office.rounds("history")}) == len(office.rounds("history")) == 7


# --- declared in job files --------------------------------------------------------------------------------


def test_a_files_schedule_follows_the_file(office: Office) -> None:
    schedules = office.fleet.client.store.schedules
    office.put("nightly", 'every = "1s"')
    until(lambda: "nightly" in [one.name for one in schedules.find()], what="the schedule to be there")
    office.ended("nightly", 1)
    assert "declared in the file" in office.refused("set", "nightly", "--every", "3s")
    assert "would come back" in office.refused("rm", "nightly")
    office.put("nightly", 'cron = "15 3 * * *"\ntimezone = "Europe/Paris"\noverlap = "buffer_one"')
    edited = office.until("nightly", lambda one: one.cron != ())
    assert (edited.cron, edited.timezone, edited.overlap) == (("15 3 * * *",), "Europe/Paris", "buffer_one")
    assert edited.every is None
    assert edited.counters.completed >= 1, "its books go on"
    office.fleet.cli("schedule", "pause", "nightly")
    office.put("nightly", 'cron = "16 3 * * *"')
    assert office.until("nightly", lambda one: one.cron == ("16 3 * * *",)).status == "paused", "by hand stays by hand"
    office.fleet.cli("schedule", "resume", "nightly")
    office.put("nightly", 'cron = "61 3 * * *"')
    until(lambda: "nightly" in office.fleet.client.store.catalogs.broken(), what="the broken file to be known")
    kept = office.get("nightly")
    assert (kept.status, kept.cron) == ("active", ("16 3 * * *",)), "a broken file changes nothing"
    office.put("nightly", "priority = 1")
    gone = office.until("nightly", lambda one: one.status != "active")
    assert (gone.status, gone.source.gone, gone.next_at) == ("disabled", True, None)
    assert gone.counters.completed >= 1, "disabled, not forgotten"
    office.put("nightly", 'cron = "17 3 * * *"')
    assert office.until("nightly", lambda one: one.status == "active").cron == ("17 3 * * *",)
    (office.jobs / "nightly.sh").unlink()
    assert office.until("nightly", lambda one: one.source.gone).status == "disabled"


def test_where_machines_hold_different_copies_the_newest_counts_and_the_difference_is_shown(
    office: Office, tmp_path: Path
) -> None:
    office.put("shared", 'every = "1h"')
    until(lambda: office.fleet.client.store.catalogs.copies().get("shared"), what="the first copy")
    newer = Office(office.fleet, tmp_path)
    newer.put("shared", 'every = "2h"')
    other = office.fleet.start("other", slots=1, jobs_dir=str(tmp_path))
    assert office.until("shared", lambda one: one.every == 7200.0).status == "active"
    shown = office.fleet.cli("schedule", "show", "shared").stdout
    assert "not the same everywhere; the newest counts" in shown
    lines = [line.split() for line in office.fleet.cli("job", "show", "shared").stdout.splitlines()]
    assert any(line[-2:] == ["newest", "other"] for line in lines)
    assert any(line[-4:-1] == ["older", "this", "folder,"] and line[-1] == "clock" for line in lines)
    other.stop()
    office.put("shared", 'every = "3h"')
    assert office.until("shared", lambda one: one.every == 10800.0)


def test_an_imported_crontab_runs(office: Office) -> None:
    text = "GREETING=hello\n# greets\n15 3 1 1 * cat; echo $GREETING%from stdin\n"
    done = office.fleet.cli("schedule", "import-crontab", "-", "--folder", "cron", stdin=text)
    assert "cron/cat.toml" in done.stdout
    until(lambda: [one for one in office.fleet.client.schedules.find() if one.name == "cron/cat"], what="its schedule")
    (task,) = office.fleet.ended(office.run("cron/cat"))
    assert task.status == "completed"
    log = [line["msg"] for line in office.fleet.client.logs(task.id)]
    assert log == ["from stdin", "hello"]


# --- telling people ---------------------------------------------------------------------------------------


def test_a_failure_is_told_to_the_command_of_its_file_and_a_success_to_nobody(office: Office, tmp_path: Path) -> None:
    told = tmp_path / "told"
    notify = json.dumps(["/bin/sh", "-c", f"cat >> {told}; echo >> {told}"])
    office.put("sorry", f"notify = {{ command = {notify} }}", 'exit "$ARG_CODE"')
    until(lambda: office.fleet.client.store.catalogs.copies().get("sorry"), what="the job to be known")
    good, bad = office.fleet.enqueue("sorry", "code=0"), office.fleet.enqueue("sorry", "code=7")
    office.fleet.ended(good, bad)
    until(lambda: told.exists() and told.read_text().endswith("\n"), what="the command")
    (line,) = told.read_text().splitlines()
    task = json.loads(line)
    assert (task["id"], task["status"], task["exit_code"]) == (bad, "failed", 7)


def test_a_schedules_ends_are_told_to_its_address(office: Office) -> None:
    got: list[dict[str, object]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        where = json.dumps({"url": f"http://127.0.0.1:{server.server_port}/", "on": ["success", "failure"]})
        office.add("told", *HOURLY, "--notify", where)
        first = office.run("told")
        office.fleet.ended(first)
        until(lambda: [one["id"] for one in got] == [first], what="the address to be told")
        assert got[0]["schedule"] == "told"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
