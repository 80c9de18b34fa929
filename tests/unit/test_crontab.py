"""A crontab as job files: what each line becomes, and what is said of lines that cannot be kept."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from slotsched.catalog import Folder
from slotsched.crontab import Crontab, name_of, parse_crontab


def read(text: str, **how: Any) -> Crontab:
    return parse_crontab(text, **{"zone": "Europe/Paris", **how})


def only(text: str, **how: Any) -> dict[str, Any]:
    """The facts of the one job that the text becomes."""
    found = read(text, **how)
    assert found.problems == ()
    (entry,) = found.entries
    facts: dict[str, Any] = tomllib.loads(entry.to_toml())["tool"]["slotsched"]
    return facts


def test_a_line_becomes_a_command_job_with_its_times_in_the_machines_zone() -> None:
    assert only("15\t3 * *  mon-fri  /opt/backup.sh --all > /dev/null 2>&1\n") == {
        "description": "/opt/backup.sh --all > /dev/null 2>&1",
        "command": ["/bin/sh", "-c", "/opt/backup.sh --all > /dev/null 2>&1"],
        "cron": "15 3 * * mon-fri",
        "timezone": "Europe/Paris",
        "workdir": "~/",
        "max_time": "1d",
    }


def test_the_comment_right_above_describes_it() -> None:
    text = "# the whole crontab\n\n#  nightly: dump\n@daily dump\n@hourly other\n"
    assert [entry.description for entry in read(text).entries] == ["nightly: dump", "other"]


def test_variables_hold_for_the_lines_after_them() -> None:
    text = "@daily a\nSHELL = /bin/bash\nGREETING='hi \"you\"'\nHOME=/srv\nCRON_TZ=Asia/Kolkata\n@daily b\n"
    first, second = read(text).entries
    assert (first.env, first.command[0], first.timezone, first.workdir) == ({}, "/bin/sh", "Europe/Paris", "~/")
    assert (second.env, second.command[0]) == ({"GREETING": 'hi "you"'}, "/bin/bash")
    assert (second.timezone, second.workdir) == ("Asia/Kolkata", "/srv")


@pytest.mark.parametrize(("mailto", "told"), [("ann@x.org, bob", ["ann@x.org", "bob"]), ('""', None)])
def test_mailto_is_told_of_failures(mailto: str, told: list[str] | None) -> None:
    facts = only(f"MAILTO={mailto}\n@daily dump\n")
    assert facts.get("notify") == (told and {"command": ["mail", "-s", "dump failed", *told]})


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("cat%one%two", "one\ntwo\n"),
        ("echo 100\\%", "100%\n"),
        ("cd / && cat | tr a-z A-Z%hello%", "HELLO\n"),
        ("cat%END_OF_INPUT%$HOME `id` \\%", "END_OF_INPUT\n$HOME `id` %\n"),
        ('echo "quoted \\\\" # comment', "quoted \\\n"),
    ],
)
def test_a_percent_sign_begins_the_standard_input_as_under_cron(command: str, output: str) -> None:
    argv = only(f"0 0 * * * {command}\n")["command"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout == output


def test_a_systems_crontab_names_the_user() -> None:
    homes = {"www": "/srv/www"}
    found = read("@daily www dump\n@daily nobody2 dump\n", with_user=True, home_of=homes.get)
    assert [(entry.user, entry.workdir, entry.command[-1]) for entry in found.entries] == [
        ("www", "/srv/www", "dump"),
        ("nobody2", "/", "dump"),
    ]
    assert found.entries[1].notes == ("there is no user nobody2 on this machine; it starts in /",)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("@reboot x", "@reboot: nothing runs at a machine's start"),
        ("61 * * * * x", 'minute 61 is not in 0-59: "[61] * * * *"'),
        ("@sometimes x", "@sometimes"),
        ("0 0 * * *", "neither a variable nor times with a command"),
        ("gibberish", "neither a variable nor times with a command"),
        ("CRON_TZ=Mars/Olympus", 'time zone "Mars/Olympus" is not known'),
        ("SLOTSCHED_TASK_ID=3", '"SLOTSCHED_TASK_ID" cannot be the name of a variable here'),
        ("SHELL=/usr/bin/fish\n0 0 * * * cat%x", "its standard input after % cannot be written for /usr/bin/fish"),
    ],
)
def test_what_cannot_be_kept_is_told_by_its_line_and_costs_no_other(line: str, why: str) -> None:
    found = read(f"@daily before\n{line}\n")
    assert [entry.name for entry in found.entries] == ["before"]
    ((number, said),) = found.problems
    assert number == 1 + len(line.splitlines())
    assert why in said


def test_after_an_unknown_zone_nothing_is_made_at_a_wrong_time() -> None:
    found = read("CRON_TZ=Mars/Olympus\n@daily a\nCRON_TZ=UTC\n@daily b\n")
    assert [number for number, _ in found.problems] == [1, 2]
    assert [entry.name for entry in found.entries] == ["b"]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/local/bin/Nightly_Backup.sh --all", "nightly_backup"),
        ("cd /srv/app && . venv/bin/activate && python3 -u manage.py clearsessions", "manage"),
        ("python -m app.sync", "app-sync"),
        ("FOO=1 BAR='a b' nice -n 10 ionice -c3 /opt/x/run", "run"),
        ("sudo -u www-data flock -n /tmp/lock php /srv/cron.php", "cron"),
        ("test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )", "run-parts"),
        ("timeout 5m curl -fsS https://example.org/ping > /dev/null", "curl"),
        ("bash -c 'echo hi'", "bash"),
        ("[ -d /run ] && /opt/check", "check"),
        ("it's odd", "it-s"),
        ("/opt/été", "t"),
        ("日本", "command"),
    ],
)
def test_a_name_is_that_of_the_program_it_is_about(command: str, name: str) -> None:
    assert name_of(command) == name


def test_names_are_unique() -> None:
    assert [entry.name for entry in read("@daily x.sh\n@weekly x.py\n@daily x\n").entries] == ["x", "x-2", "x-3"]


def test_every_file_is_a_job_that_the_catalog_reads(tmp_path: Path) -> None:
    text = (
        'MAILTO=ann\nODD="quo\'te \\\\ \u20ac"\n# d\u00e9scription "x"\n*/5 0-6,22 1 jan,mar 7 a \'b\' "c" \\\\ %in\n'
        "@weekly printf '\x7f\t'\n"
    )
    for entry in read(text).entries:
        (tmp_path / f"{entry.name}.toml").write_text(entry.to_toml())
    scan = Folder(tmp_path).scan()
    assert scan.problems == ()
    assert sorted(scan.jobs) == ["a", "printf"]
    assert scan.jobs["a"].facts.schedule["cron"] == "*/5 0-6,22 1 jan,mar 7"
    assert scan.jobs["a"].facts.env == {"ODD": "quo'te \\\\ \u20ac"}
