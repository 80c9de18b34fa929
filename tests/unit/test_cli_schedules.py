"""`schedule` without a database: what is refused in words, what rows and fires say, what an import writes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import pytest

from slotsched import contract
from slotsched.cli.app import run
from slotsched.cli.crontab import machine_zone
from slotsched.cli.schedule_columns import in_words, next_cell, when_cell
from slotsched.errors import UsageError
from slotsched.model import Schedule, ScheduleStatus
from slotsched.schedules import upcoming
from slotsched.wishes import read_wishes

NOW = dt.datetime(2026, 3, 27, 12, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "hello.py").write_text("def main(name: str = 'x'): ...\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cron", "61 * * * *"], 'minute 61 is not in 0-59: "[61] * * * *"'),
        (["--cron", "* * *"], "3 fields"),
        ([], 'say when: --cron "15 3 * * *", --every 10m, --at 03:15 or --after NAME'),
        (["--cron", "@daily", "--every", "1h"], "--cron and --every exclude each other"),
        (["--at", "03:00", "--after", "x"], "--at and --after exclude each other"),
        (["--every", "1h", "--when", "any"], "--when needs --after"),
        (["--every", "soon"], "every: 'soon' is not a duration"),
        (["--every", "1ms"], 'every "1ms" is not between 0.1 s and 30 years'),
        (["--at", "soon"], '--at: "soon" is not a time'),
        (["--every", "1h", "--overlap", "skipp"], 'did you mean "skip"?'),
        (["--every", "1h", "--catch-up", "never"], '"never" is none of once, all, none'),
        (["--every", "1h", "--timezone", "Europe/Pari"], 'did you mean "Europe/Paris"?'),
        (["--every", "1h", "--jitter", "2d"], "jitter: 172800.0 is not from 0 to 86400 seconds"),
        (["--every", "1h", "--max-runs", "0"], "0 is less than 1"),
        (["--every", "1h", "--slots", "0"], "slots: 0 is not a whole number of at least 1"),
        (["--every", "1h", "--max-time", "0"], "max_time: must be more than 0"),
        (["--every", "1h", "--notify", "{"], "--notify: not JSON"),
        (["--every", "1h", "--notify", '{"command": ["x"]}'], "a command is declared in the job file"),
        (["--every", "1h", "--end-at", "2026-01-01T00:00Z", "--start-at", "2026-01-02T00:00Z"], "end_at: is before"),
        (["nam=x", "--every", "1h"], 'hello has no argument "nam" (name). Did you mean "name"?'),
        (["--every", "1h", "--name", "two words"], "is no name for a schedule"),
        (["--after", "hello", "--name", "hello"], 'after: "hello" cannot follow itself'),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_before_any_database_is_asked(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", "add", "hello", *words]) == contract.EXIT_USAGE
    out, err = capsys.readouterr()
    assert sentence in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ls", "--status", "on"], '--status: "on" is none of active, paused, disabled, done, broken'),
        (["ls", "--source", "x"], "neither hand nor file"),
        (["run"], "Missing argument"),
        (["run", "x", "--timeout", "3s"], "--timeout needs --wait"),
        (["run", "x", "--wait", "--timeout", "soon"], "--timeout: 'soon' is not a duration"),
        (["history", "x", "-n", "9" * 20], f"{'9' * 20} is more than 2147483647"),
        (["clear-history"], "name the schedules, or say --all"),
        (["clear-history", "x", "--all"], "name the schedules, or say --all"),
        (["backfill", "x"], "--from"),
        (["backfill", "x", "--from", "soon"], '--from: "soon" is not a time'),
        (["next", "x", "--n", "0"], "0 is less than 1"),
        (["import-crontab", "nowhere"], "nowhere: "),
    ],
)
def test_other_commands_refuse_in_words_too(
    words: Sequence[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["schedule", *words]) == contract.EXIT_USAGE
    assert sentence in capsys.readouterr().err


def schedule(**fields: object) -> Schedule:
    return Schedule(name="s", job="hello", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "cell"),
    [
        (schedule(cron=("15 3 * * *",), timezone="Europe/Paris"), "15 3 * * * Europe/Paris"),
        (schedule(cron=("@daily", "@weekly")), "@daily; @weekly"),
        (schedule(every=5400.0), "every 1h30m"),
        (schedule(after=("a", "b")), "after a, b"),
        (schedule(after=("a",), when="any"), "after a (any)"),
        (schedule(), "-"),
    ],
)
def test_a_row_says_when(made: Schedule, cell: str) -> None:
    assert when_cell(made) == cell


def test_a_rule_that_cannot_be_read_is_shown_as_it_was_written() -> None:
    assert in_words(schedule(cron=("61 * * * *",))) == "61 * * * *"


def test_only_an_active_schedule_has_a_next_time() -> None:
    soon = NOW + dt.timedelta(minutes=5)
    assert next_cell(schedule(next_at=soon), NOW) == "in 5m00s"
    assert next_cell(schedule(next_at=NOW), NOW) == "now"
    assert next_cell(schedule(next_at=soon, status=ScheduleStatus.PAUSED), NOW) == "-"


def test_the_fires_to_come_tell_what_changed_clocks_do() -> None:
    fires = upcoming(schedule(cron=("30 2 * * *",), timezone="Europe/Paris"), NOW, 3)
    assert [fire.local_at.strftime("%d %H:%M %Z") for fire in fires] == [
        "28 02:30 CET",
        "29 03:00 CEST",
        "30 02:30 CEST",
    ]
    assert [fire.nominal_at.strftime("%d %H:%M") for fire in fires] == ["28 01:30", "29 01:00", "30 00:30"]
    assert [fire.notes for fire in fires][::2] == [(), ()]
    assert "02:30 does not exist, runs at 03:00" in fires[1].notes[0]


def test_several_crons_have_their_notes_each() -> None:
    fires = upcoming(schedule(cron=("30 2 * * *", "0 12 * * *"), timezone="Europe/Paris"), NOW, 5)
    assert [bool(fire.notes) for fire in fires] == [False, False, True, False, False]


def test_fires_stay_within_the_bounds_and_are_late_by_their_jitter() -> None:
    bounded = schedule(every=60.0, start_at=NOW, end_at=NOW + dt.timedelta(minutes=2), jitter=30.0)
    fires = upcoming(bounded, NOW - dt.timedelta(hours=1), 10)
    assert [fire.nominal_at.minute for fire in fires] == [0, 1, 2]
    assert all(dt.timedelta(0) <= fire.due_at - fire.nominal_at <= dt.timedelta(seconds=30) for fire in fires)


def test_times_without_an_offset_are_read_in_the_schedules_zone() -> None:
    wishes = read_wishes({"at": "2026-07-01T12:00", "timezone": "Europe/Paris"})
    assert wishes["at"] == dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    assert read_wishes({"at": "2026-07-01T12:00"}, timezone="Asia/Kolkata")["at"].hour == 6
    with pytest.raises(UsageError, match="has no time zone"):
        read_wishes({"at": dt.datetime(2026, 7, 1)})  # noqa: DTZ001 - the point


def test_an_unknown_option_of_a_program_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match='unknown option "max_run", did you mean "max_runs"'):
        read_wishes({"max_run": 3})


def test_what_is_unset_goes_back_to_its_default() -> None:
    assert read_wishes({}, unset=["jitter", "end_at", "overlap"]) == {"jitter": 0.0, "end_at": None, "overlap": "skip"}


CRONTAB = "# nightly\n15 3 * * * dump.sh\n@reboot x\n"


def test_an_import_writes_a_file_for_each_line_and_names_what_it_cannot_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crontab").write_text(CRONTAB)
    assert run(["schedule", "import-crontab", "crontab"]) == contract.EXIT_FAILED
    out, err = capsys.readouterr()
    assert out.startswith(str(tmp_path / "jobs" / "dump.toml"))
    assert "1 job made" in err
    assert "line 3 is not kept: @reboot" in err
    assert 'cron = "15 3 * * *"' in (tmp_path / "jobs" / "dump.toml").read_text()
    assert run(["job", "check", "dump"]) == contract.EXIT_OK


def test_an_import_overwrites_nothing_and_then_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "crontab").write_text("@daily other\n@daily hello --x\n")
    assert run(["schedule", "import-crontab", "crontab"]) == contract.EXIT_REFUSED
    assert "hello.py is there already; nothing was written" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["hello.py"]
    assert run(["schedule", "import-crontab", "crontab", "--folder", "cron"]) == contract.EXIT_OK
    assert sorted(path.name for path in (tmp_path / "jobs" / "cron").iterdir()) == ["hello.toml", "other.toml"]


def test_a_dry_import_shows_the_files_and_writes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "crontab").write_text(CRONTAB)
    run(["schedule", "import-crontab", "crontab", "--dry-run"])
    out, _ = capsys.readouterr()
    assert '[tool.slotsched]\ndescription = "nightly"' in out
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["hello.py"]


def test_the_machines_zone_is_found_by_name(tmp_path: Path) -> None:
    named = tmp_path / "timezone"
    nowhere = tmp_path / "nowhere"
    assert machine_zone(":Asia/Kolkata", nowhere, named) == "Asia/Kolkata"
    assert machine_zone("", nowhere, named) == "UTC"
    assert machine_zone("", Path("/usr/share/zoneinfo/Europe/Rome"), named) == "Europe/Rome"
    named.write_text("Europe/Paris\n")
    assert machine_zone("", nowhere, named) == "Europe/Paris"
