"""What people do with schedules on the command line."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator

import pytest
from fleet import FleetMaker, until
from office import Office, an_office

SECOND = dt.timedelta(seconds=1)


@pytest.fixture(scope="module")
def office(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one instance of 16 slots, shared by the module."""
    for made in an_office(make_fleet, tmp_path_factory.mktemp("jobs")):
        made.fleet.start("clock", slots=16)
        yield made


def test_several_are_paused_and_resumed_at_once_and_fire_only_then(office: Office) -> None:
    for name in ("one", "two"):
        office.add(name, every="0.5s")
        office.ended(name, 1)
    paused = office.fleet.cli("schedule", "pause", "one", "two").stdout
    assert paused == "one paused\ntwo paused\n"
    counts = {name: len(office.rounds(name)) for name in ("one", "two")}
    begun = office.fleet.client.store.now()
    office.add("witness", every="0.5s", max_runs=3)
    assert office.until("witness", lambda one: one.status == "done").why == "all its runs were made"
    assert {name: len(office.rounds(name)) for name in counts} == counts
    assert (
        office.fleet.client.get(office.fleet.cli("schedule", "run", "one").stdout.strip()).trigger == "run-now:one"
    ), "also while it is paused"
    office.fleet.cli("schedule", "resume", "one", "two")
    for name in counts:
        later = until(lambda name=name: [task for task in office.rounds(name)[counts[name] :] if task.nominal_at])
        assert later[0].nominal_at is not None
        assert later[0].nominal_at > begun + SECOND, "what passed meanwhile is not caught up on"
    assert "no schedule" in office.fleet.cli("schedule", "pause", "one", "nobody", check=False).stderr


def test_a_cleared_history_leaves_what_the_next_run_is_told(office: Office) -> None:
    office.add("cleared")
    for _ in range(3):
        office.fleet.ended(office.run("cleared"))
        office.until("cleared", lambda one: not one.live)
    before = office.get("cleared")
    assert office.fleet.cli("schedule", "clear-history", "cleared").stdout == "3 tasks removed\n"
    after = office.get("cleared")
    assert office.rounds("cleared") == []
    assert (after.counters.completed, after.last_completed_at) == (0, before.last_completed_at)


def test_a_listing_shows_the_next_fire_and_the_last_run(office: Office) -> None:
    added = office.fleet.cli("schedule", "add", "work", "--name", "listed", "--every", "1h", "--label", "by label")
    assert added.stdout == "listed\n"
    office.fleet.client.schedules.set("listed", owner="ann")
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
    office.add("history", {"seconds": 0.3}, cron="0 * * * *")
    words = ("schedule", "backfill", "history", "--from", "2020-01-01T00:00Z", "--to", "2020-01-01T05:30Z")
    dry = office.fleet.cli(*words, "--dry-run")
    assert [line.split()[0] for line in dry.stdout.splitlines()] == [f"2020-01-01T0{hour}:00:00Z" for hour in range(6)]
    assert office.rounds("history") == []
    made = office.fleet.cli(*words, "--limit", "2").stdout.split()
    assert len(made) == 6
    assert {task.status for task in office.fleet.ended(*made)} == {"completed"}
    assert office.most_at_once("history") <= 2
    again = office.fleet.cli(*words[:-1], "2020-01-01T06:30Z", "--limit", "2")
    assert "1 task; 6 had theirs already" in again.stderr
    assert len({task.nominal_at for task in office.rounds("history")}) == len(office.rounds("history")) == 7


def test_an_imported_crontab_runs(office: Office) -> None:
    text = "GREETING=hello\n# greets\n15 3 1 1 * cat; echo $GREETING%from stdin\n"
    done = office.fleet.cli("schedule", "import-crontab", "-", "--folder", "cron", stdin=text)
    assert "cron/cat.toml" in done.stdout
    until(lambda: [one for one in office.fleet.client.schedules.find() if one.name == "cron/cat"], what="its schedule")
    (task,) = office.fleet.ended(office.run("cron/cat"))
    assert task.status == "completed"
    log = [line["msg"] for line in office.fleet.client.logs(task.id)]
    assert log == ["from stdin", "hello"]
