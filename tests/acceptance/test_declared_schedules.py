"""What job files say about time: schedules that follow their file, and who is told how a task ended."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import FleetMaker, until
from office import Office, an_office

from slotsched.errors import Refused


@pytest.fixture(scope="module")
def office(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """With one instance of 16 slots, shared by the module."""
    for made in an_office(make_fleet, tmp_path_factory.mktemp("jobs")):
        made.fleet.start("clock", slots=16)
        yield made


def test_a_files_schedule_follows_the_file(office: Office) -> None:
    schedules = office.fleet.client.schedules
    office.put("nightly", 'every = "1s"')
    until(lambda: "nightly" in [one.name for one in schedules.find()], what="the schedule to be there")
    office.ended("nightly", 1)
    with pytest.raises(Refused, match="declared in the file"):
        schedules.set("nightly", every="3s")
    refused = office.fleet.cli("schedule", "rm", "nightly", check=False)
    assert (refused.returncode, "would come back" in refused.stderr) == (5, True)
    office.put("nightly", 'cron = "15 3 * * *"\ntimezone = "Europe/Paris"\noverlap = "buffer_one"')
    edited = office.until("nightly", lambda one: one.cron != ())
    assert (edited.cron, edited.timezone, edited.overlap) == (("15 3 * * *",), "Europe/Paris", "buffer_one")
    assert edited.every is None
    assert edited.counters.completed >= 1, "its books go on"
    schedules.pause("nightly")
    office.put("nightly", 'cron = "16 3 * * *"')
    assert office.until("nightly", lambda one: one.cron == ("16 3 * * *",)).status == "paused", "by hand stays by hand"
    schedules.resume("nightly")
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
        where = {"url": f"http://127.0.0.1:{server.server_port}/", "on": ["success", "failure"]}
        office.add("told", notify=where)
        first = office.run("told")
        office.fleet.ended(first)
        until(lambda: [one["id"] for one in got] == [first], what="the address to be told")
        assert got[0]["schedule"] == "told"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_task_that_was_lost_is_told_by_the_instance_that_found_out(make_fleet: FleetMaker, tmp_path: Path) -> None:
    told = tmp_path / "told"
    (tmp_path / "jobs").mkdir()
    with contextlib.contextmanager(an_office)(make_fleet, tmp_path / "jobs") as office:
        notify = json.dumps(["/bin/sh", "-c", f"cat >> {told}; echo >> {told}"])
        office.put("doomed", f"notify = {{ command = {notify} }}", 'echo up > "$SLOTSCHED_TASK_PROGRESS"; sleep 60')
        first = office.fleet.start("first", slots=1)
        task = office.fleet.client.enqueue("doomed").id
        until(lambda: office.fleet.client.get(task).status == "running", what="the task to run")
        office.fleet.start("second", slots=1)
        until(lambda: office.fleet.client.get(task).progress, what="its script to run")
        first.kill_all()
        office.fleet.ended(task)
        until(lambda: told.exists() and told.read_text().endswith("\n"), what="the other instance to tell")
        (line,) = told.read_text().splitlines()
        assert (json.loads(line)["id"], json.loads(line)["reason"]) == (task, "lost")


def test_what_a_machine_held_before_its_restart_does_not_outweigh_what_it_holds_now(
    make_fleet: FleetMaker, tmp_path: Path
) -> None:
    """Put back to older content, or taken out, while nothing is up."""
    with contextlib.contextmanager(an_office)(make_fleet, tmp_path) as office:
        schedules = office.fleet.client.schedules
        office.put("job", 'every = "1h"')
        first = office.fleet.start("first", slots=1)
        until(lambda: schedules.find(), what="its schedule")
        office.put("job", 'every = "2h"')
        office.until("job", lambda one: one.every == 7200.0)
        first.stop()
        office.put("job", 'every = "1h"')
        office.fleet.start("second", slots=1)
        office.until("job", lambda one: one.every == 3600.0)


def test_a_machine_that_is_down_does_not_take_its_schedules_with_it(office: Office, tmp_path: Path) -> None:
    other = Office(office.fleet, tmp_path)
    other.put("away", 'every = "1h"')
    instance = office.fleet.start("elsewhere", slots=1, jobs_dir=str(tmp_path))
    schedules = office.fleet.client.store.schedules
    until(lambda: [one for one in schedules.find() if one.name == "away"], what="its schedule")
    instance.stop()
    office.put("near", 'every = "1h"')  # makes the instance that is up look at all of them
    until(lambda: [one for one in schedules.find() if one.name == "near"], what="that look")
    assert office.get("away").status == "active"
