"""What the README shows is what happens: its job is a whole one, its commands exist, its facts are real."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SLOTSCHED = [sys.executable, "-m", "slotsched"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the README's job in jobs/."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "hello.py").write_text(blocks("python")[0])
    return tmp_path


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


def test_the_readmes_job_is_a_whole_one(place: Path) -> None:
    checked = slotsched(place, "job", "check")
    assert checked.returncode == 0, checked.stderr
    done = slotsched(place, "run", "hello", "name=world", "times=3")
    assert done.returncode == 0, done.stderr
    assert "hello hello hello world" in done.stdout
    assert '{"greeted": "world"}' in done.stdout + done.stderr


def test_every_command_and_option_in_the_readme_exists(place: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("slotsched ")]
    assert lines, "the README shows no command"
    for line in lines:
        words = line.split()[1:]
        command = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
        group = ["scheduler", "job", "task", "instance", "db", "config"]
        shown = slotsched(place, *command[: 2 if command[0] in group else 1], "--help")
        assert shown.returncode == 0, line
        settings = slotsched(place, "config", "show").stdout
        for option in (word for word in words if word.startswith("--")):
            known = option in shown.stdout or option[2:].replace("-", "_") in settings
            assert known, f"{option} in: {line}"


def test_the_facts_in_the_readme_are_accepted_by_the_job_reader(place: Path) -> None:
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", README, re.MULTILINE)
    facts = {name for row, _ in rows for name in re.findall(r"`([a-z_]+)`", row)}
    assert {"slots", "max_time", "retries"} <= facts
    values = {
        "retry_on": '["exit"]',
        "resources": "{gpu = 1}",
        "requires": '["ssd"]',
        "env": '{A = "1"}',
        "user": '"root"',
        "workdir": '"/tmp"',
        "python": '"python3"',
        "memory": '"1G"',
        "max_time": '"1h"',
        "grace": '"1s"',
        "retry_delay": '"1s"',
        "keep": '"1d"',
        "command": None,  # only in the sidecar of a binary
    }
    lines = [f"# {name} = {values.get(name, '1')}" for name in sorted(facts) if values.get(name, "1") is not None]
    script = "\n".join(["# /// script", "# [tool.slotsched]", *lines, "# ///", "def main() -> None: ...", ""])
    (place / "jobs" / "all.py").write_text(script)
    checked = slotsched(place, "job", "check")
    assert checked.returncode == 0, checked.stderr + checked.stdout
