"""F28, the terminal's half: nothing that a script printed or a database holds is obeyed by the terminal it is shown on.

Every text that can be set from outside holds every trick; then every command that shows one runs on a terminal, and
what it wrote is searched for anything but text, line breaks and slotsched's own colours.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pymongo
import pytest
from cli_user import Terminal
from figures import Figures
from fleet import Fleet, FleetMaker
from hostile_text import NASTY, OBEYED, job_that_writes, poison

TYPED = "HERE\x1b[2J\x9b5A\u202e\x07"  # what a person may have pasted; long words are cut in messages
OWN = re.compile(r"\x1b\[(?:0|1|2|31|32|33|34|36|90|97;41)m")

# Runs many commands in one process: what is tested is what they write, not how fast they start.
RUNNER = """
import json, sys
from slotsched.cli.app import run
for words in json.load(open(sys.argv[1])):
    sys.stdout.write("\\n@@@ "); sys.stdout.flush()
    run(words)
    sys.stdout.flush(); sys.stderr.flush()
sys.stdout.write("\\n@@@ ")
"""


def obeyed(shown: str, *allowed: re.Pattern[str]) -> list[str]:
    """What in a terminal's input it would obey, beyond line breaks and our own colours."""
    for pattern in (OWN, *allowed):
        shown = pattern.sub("", shown)
    return [found[0] for found in OBEYED.finditer(shown)]


SEQUENCES = ("\x1b]0;title\x07", "\x1b[2J", "\x1b[8m", "\x1b[35m", "\x1b[6n", "\x1bc", "\x9b5A", "\x9d0;x\x9c")
CHARACTERS = ("\u202e", "\u2066", "\b", "\x7f", "\rover", "\x0b", "\x00")


@pytest.mark.parametrize("trick", SEQUENCES + CHARACTERS)
def test_the_checker_goes_red(trick: str) -> None:
    assert obeyed(f"a{trick}b")
    assert not obeyed("a\x1b[31mred\x1b[0m\r\n")


@dataclass
class Poisoned:
    """A fleet whose database, job folder and logs are full of tricks; `tasks` by what they are."""

    fleet: Fleet
    tasks: dict[str, str]

    def shown(self, commands: Sequence[Sequence[str]], columns: int = 400) -> list[str]:
        """What each command wrote on its terminal."""
        script = self.fleet.folder / "commands.json"
        script.write_text(json.dumps(commands))
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(script)],
            env=self.fleet.environment(
                TERM="xterm-256color", SLOTSCHED_STATE_DIR=str(self.fleet.folder / "state-cli"), LANG="C.UTF-8"
            ),
            cwd=self.fleet.folder,
            stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        terminal = Terminal(process, ours)
        try:
            assert terminal.end(seconds=60).code == 0, terminal.raw[-2000:]
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        pieces = terminal.raw.split("\r\n@@@ ")
        assert len(pieces) == len(commands) + 2, terminal.raw[-2000:]
        return pieces[1:-1]


@pytest.fixture(scope="module")
def poisoned(
    make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Poisoned]:
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / "nasty.py").write_text(job_that_writes(NASTY))
    (jobs / "told.sh").write_text(
        f"#!/bin/sh\n# /// script\n# [tool.slotsched]\n# description = {toml(NASTY)}\n# ///\n"
    )
    (jobs / "told.sh").chmod(0o755)
    (jobs / "torn.py").write_text(f"# /// script\n# [tool.slotsched]\n# {toml(NASTY)} = 1\n# ///\n")
    with make_fleet(jobs=jobs, name="here") as fleet:
        fleet.start("here", slots=2)
        client = fleet.client
        tasks = {
            "done": client.enqueue("nasty", {"word": NASTY}, owner=NASTY, tags=["t"], key=NASTY).id,
            "failed": client.enqueue("nasty", {"word": NASTY, "fail": True}).id,
            "waiting": client.enqueue("nasty", {"word": NASTY}, in_="1h").id,
            "wide": client.enqueue("nasty", {}, slots=99).id,
        }
        client.wait([tasks["done"], tasks["failed"]], 30)
        fleet.cli("schedule", "add", "nasty", "--name", "tricky", "--every", "1h", "--label", "label", "word=x")
        poison(mongo_client[fleet.settings["database"]], tasks)
        yield Poisoned(fleet, tasks)


def toml(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


def commands(tasks: dict[str, str]) -> list[list[str]]:
    """Everything that shows a text of somebody else's; and errors that repeat what was asked."""
    done, failed, waiting, wide = (tasks[name] for name in ("done", "failed", "waiting", "wide"))
    return [
        *(["ps", "-a", *more] for more in ([], ["-o", "wide"], ["-o", "json"], ["-o", "jsonl"])),
        ["task", "ls", "-o", "wide"],
        *(["task", "show", task] for task in tasks.values()),
        ["task", "show", done, "-o", "json"],
        *(["why", task] for task in (failed, wide)),
        *(["logs", done, *more] for more in ([], ["--json"], ["-f"], ["--grep", "HERE"], ["-n", "2"])),
        ["logs", failed],
        ["wait", done, failed],
        ["instance", "ls", "-a"],
        *(["instance", "ls", "-o", form] for form in ("wide", "json")),
        ["schedule", "ls", "-o", "wide"],
        ["schedule", "show", "tricky"],
        ["schedule", "show", "tricky", "-o", "json"],
        ["schedule", "next", "tricky"],
        ["job", "ls"],
        ["job", "show", "told"],
        ["job", "check"],
        ["doctor"],
        *([*words, TYPED] for words in (["task", "show"], ["logs"], ["why"], ["enqueue"], ["job", "show"])),
        *([*words, TYPED] for words in (["schedule", "show"], ["instance", "drain"], ["schedule", "pause"])),
        ["enqueue", "nasty", f"{TYPED}=1"],
        ["enqueue", "nasty", "--key", NASTY, "word=another"],
        ["ps", "--status", TYPED],
        ["ps", f"--{TYPED}"],
        ["logs", done, "--grep", f"({TYPED}"],
        ["cancel", waiting],
        ["task", "rm", TYPED],
    ]


QUIET = {"next", "doctor", "cancel", "drain"}  # whose answers need not repeat a text


def test_no_command_passes_anything_on_that_a_terminal_obeys(poisoned: Poisoned, figure: Figures) -> None:
    asked = commands(poisoned.tasks)
    shown = poisoned.shown(asked)
    found = {" ".join(words)[:40]: bad for words, text in zip(asked, shown, strict=True) if (bad := obeyed(text))}
    silent = [
        f"{words} -> {text}"
        for words, text in zip(asked, shown, strict=True)
        if "HERE" not in text and not QUIET.intersection(words)
    ]
    assert not silent, "the text never reached the terminal, so nothing was tested"
    assert not found
    figure("F28", f"control sequences in {len(asked)} commands' output", sum(map(len, found.values())), "", exactly=0)


def test_following_a_task_obeys_nothing_either(poisoned: Poisoned, figure: Figures) -> None:
    """With the live bar, whose own cursor movements are rich's; and redrawn."""
    asked = [["enqueue", "nasty", "--follow", f"word={NASTY}"], ["run", "nasty", "fail=true"]]
    rich = re.compile(r"\x1b\[(?:\?25[hl]|[12]K|1A|[0-9;]+m)|\r")
    (followed, _) = poisoned.shown(asked, columns=200)
    assert "HERE" in followed
    figure("F28", "control sequences beyond the bar's while following", len(obeyed(followed, rich)), "", exactly=0)


def test_what_a_program_reads_is_whole(poisoned: Poisoned) -> None:
    """Piped JSON holds the text itself, and `logs --raw` the bytes."""
    read = json.loads(poisoned.fleet.cli("task", "show", poisoned.tasks["done"], "-o", "json").stdout)
    assert read["args"]["word"] == NASTY
    raw, _ = poisoned.fleet.command("logs", "--raw", "--stream", "stderr", poisoned.tasks["done"]).communicate(
        timeout=30
    )
    assert raw == f"err {NASTY}\n".encode()
