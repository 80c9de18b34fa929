"""What the README shows is what happens: every code block is run or checked, every table is whole."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_user import User

from slotsched import contract
from slotsched.catalog import facts as facts_module
from slotsched.cli.tree import build
from slotsched.settings import FIELDS, load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SLOTSCHED = [sys.executable, "-m", "slotsched"]
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
COMMANDS = {name: getattr(command, "commands", {}) for name, command in build().commands.items()}
RUN_BY_CI = 2  # the first blocks, the commands to try it and to test it, are copied from here by .ci/run


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def block(language: str, holding: str) -> str:
    """The one block of a language with these words in it."""
    [found] = [text for text in blocks(language) if holding in text]
    return found


def table(title: str) -> list[list[str]]:
    """The rows below a table's head."""
    _, _, rest = README.partition(f"| {title} |")
    lines = rest.splitlines()[2:]
    rows = lines[: next((n for n, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def names(text: str) -> list[str]:
    return re.findall(r"`([A-Za-z0-9_]+)`", text)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the README's jobs in jobs/."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "greet.py").write_text(block("python", "greeted"))
    (jobs / "count.py").write_text(block("python", "import Cancel"))
    (jobs / "tidy.sh").write_text(block("sh", "#!/bin/sh"))
    (jobs / "tidy.sh").chmod(0o755)
    return tmp_path


@pytest.fixture
def user(make_fleet, place: Path) -> Iterator[User]:
    """Somebody with an instance on the README's jobs."""
    with make_fleet(jobs=place / "jobs") as fleet:
        fleet.start("big-1", slots=4)
        yield User(fleet)


def slotsched(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SLOTSCHED, *words],
        cwd=place,
        env={"HOME": str(place), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_every_block_is_accounted_for() -> None:
    first = [text for language, text in BLOCKS if language == "sh"][:RUN_BY_CI]
    assert [text for _, text in BLOCKS[:RUN_BY_CI]] == first
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra for text in first for extra in re.findall(r"\.\[(\w+)\]", text)} == {"demo", "test"} <= set(extras)
    shown = [text for language, text in BLOCKS[RUN_BY_CI:] if language == "sh"]
    assert all(text.startswith(("slotsched ", "#!/bin/sh\n")) for text in shown)
    assert (len(blocks("python")), len(blocks("")), len(blocks("toml"))) == (3, 1, 1)
    assert {language for language, _ in BLOCKS} == {"sh", "python", "toml", ""}


def test_the_readmes_jobs_are_whole_ones(place: Path) -> None:
    checked = slotsched(place, "job", "check")
    assert (checked.returncode, len(checked.stdout.splitlines())) == (0, 3), checked.stdout
    (place / "data").mkdir()
    (place / "data" / "a.csv").write_text("1\n2\n")
    for words, code, result in (
        (["greet", "name=world", "times=3"], 0, '{"greeted": "world"}'),
        (["count", "folder=data"], 0, '{"files": 1, "rows": 2, "attempt": 1}'),
        (["count", "folder=data", "suffix=.tsv"], 100, "canceled"),
        (["tidy", "folder=data", "keep=0"], 0, '{"files": 1}'),
        (["tidy", "folder=data"], 100, "canceled"),
    ):
        done = slotsched(place, "run", *words)
        assert done.returncode == code, done.stderr
        assert result in done.stderr


def test_what_one_sees_is_what_the_readme_shows(user: User) -> None:
    command = block("sh", "--follow").split()[1:]
    with user.terminal(*command, columns=120) as terminal:
        seen = [line.rstrip() for line in terminal.end(seconds=60).out.splitlines() if line.strip()]
    assert [unnumbered(line) for line in seen] == [unnumbered(line) for line in blocks("")[0].splitlines()]


def unnumbered(line: str) -> str:
    """Without ids, times and durations."""
    return re.sub(r"[0-9a-f]{8}|\d\d:\d\d:\d\d|\d+\.\d", "#", line)


def test_a_program_does_what_the_readme_says(user: User) -> None:
    program = block("python", "import Client")
    done = subprocess.run(
        [sys.executable, "-c", program], env=user.environment(), capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "completed {'greeted': 'world'}\nhello world\n"


def test_the_settings_file_is_a_good_one_and_the_table_has_every_setting(tmp_path: Path) -> None:
    (tmp_path / "slotsched.toml").write_text(blocks("toml")[0])
    loaded = load({}, {}, tmp_path)
    assert loaded.settings.slots == 16
    assert loaded.settings.jobs_dir == tmp_path / "jobs"
    listed = [name for row in table("setting | default | meaning") for name in names(row[0])]
    assert sorted(listed) == sorted(FIELDS)


def test_the_exit_codes_are_those_of_the_contract() -> None:
    codes = {value for name, value in vars(contract).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in table("code | meaning")} == codes


def test_the_environment_of_a_script_is_listed_whole() -> None:
    known = {value.removeprefix(contract.TASK_PREFIX) for name, value in vars(contract).items() if is_variable(name)}
    listed = {name for row in table("`SLOTSCHED_TASK_...` |") for name in re.findall(r"`([A-Z_]+)(?:<NAME>)?`", row[0])}
    assert listed == known - {"TYPES"}  # how the harness gets types that JSON does not have


def is_variable(name: str) -> bool:
    return name.startswith("ENV_") and name != "ENV_TRACEPARENT"


def test_every_command_and_option_in_the_readme_exists(place: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("slotsched ")]
    assert lines, "the README shows no command"
    for line in lines:
        words = line.split()[1:]
        command = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z-]*", word)]
        group = [name for name, commands in COMMANDS.items() if commands]
        shown = slotsched(place, *command[: 2 if command[0] in group else 1], "--help")
        assert shown.returncode == 0, line
        settings = slotsched(place, "config", "show").stdout
        for option in (word for word in words if word.startswith("--")):
            known = option in shown.stdout or option[2:].replace("-", "_") in settings
            assert known, f"{option} in: {line}"


FACTS = {
    "retry_on": '["exit"]',
    "retry_backoff": '"fixed"',
    "unique": '"pending"',
    "memory_retry_factor": "1.5",
    "resources": "{gpu = 1}",
    "requires": '["ssd"]',
    "exclusive": "true",
    "concurrency_key": '"name"',
    "rate": '"10/m"',
    "env": '{A = "1"}',
    "user": '"root"',
    "user_namespace": "false",
    "workdir": '"/tmp"',
    "python": '"python3"',
    "memory": '"1G"',
    "max_time": '"1h"',
    "grace": '"1s"',
    "retry_delay": '"1s"',
    "retry_cap": '"1h"',
    "keep": '"1d"',
    "description": '"all of them"',
    "tags": '["all"]',
    "enabled": "true",
    "command": None,  # only in the sidecar of a binary
}


def test_the_facts_in_the_readme_are_all_that_a_task_has_and_the_job_reader_takes_them(place: Path) -> None:
    facts = {name for row in table("fact | default | meaning") for name in names(row[0])}
    assert set(facts_module.NAMES) - facts <= set(facts_module.SCHEDULE_NAMES)
    lines = [f"# {name} = {FACTS.get(name, '1')}" for name in sorted(facts) if FACTS.get(name, "1") is not None]
    main = "def main(name: str) -> None: ..."
    script = "\n".join(["# /// script", "# [tool.slotsched]", *lines, "# ///", main, ""])
    (place / "jobs" / "all.py").write_text(script)
    checked = slotsched(place, "job", "check")
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_the_schedule_facts_in_the_readme_are_all_that_are_acted_on(place: Path) -> None:
    facts = {name for row in table("schedule fact | default | meaning") for name in names(row[0])}
    assert facts == set(facts_module.SCHEDULE_NAMES) - {"on_event"}  # events are to come; job check says so
    header = ["# /// script", "# [tool.slotsched]", '# timezone = "Europe/Paris"', '# overlap = "buffer_one"']
    for name, value in (("cron", '"15 3 * * *"'), ("every", '"10s"'), ("after", '"greet"')):
        more = ["# ///", "def main() -> None: ...", ""]
        (place / "jobs" / f"timed-{name}.py").write_text("\n".join([*header, f"# {name} = {value}", *more]))
    checked = slotsched(place, "job", "check")
    assert checked.returncode == 0, checked.stderr + checked.stdout


def test_the_commands_named_in_the_readme_exist() -> None:
    for row in table("then | "):
        for words in re.findall(r"`slotsched ([a-z]+(?: [a-z]+)?)", row[0]):
            group, _, command = words.partition(" ")
            assert group in COMMANDS
            assert not command or command in COMMANDS[group]


def test_every_benchmark_is_listed_for_contributors() -> None:
    listed = re.findall(r"^\| `([a-z_]+\.py)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    programs = [path.name for path in (ROOT / "tests" / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert sorted(listed) == sorted(programs)
