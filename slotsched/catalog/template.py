"""The text of a new job file: a small job that runs as it is, with the parts most jobs need."""

from __future__ import annotations

from dataclasses import dataclass

from slotsched.catalog.jobfile import NAME
from slotsched.catalog.values import shown, suggestion
from slotsched.errors import UsageError

_PYTHON = '''\
# /// script
# dependencies = []
# [tool.slotsched]
# slots = 1
# max_time = "10m"
# ///
"""Greet somebody, a few times."""

from slotsched import log, task


def main(name: str = "world", times: int = 3) -> dict:
    for n in range(1, times + 1):
        log.info("hello", name=name, n=n)
        task.progress(n / times, f"greeting {n}")
    return {"greetings": times}
'''
_SHELL = """\
#!/bin/sh
# /// script
# [tool.slotsched]
# slots = 1
# max_time = "10m"
# [tool.slotsched.args]
# name = { type = "str", default = "world", description = "who is greeted" }
# ///
set -eu
echo "hello $ARG_NAME"
echo "1.0 greeted" > "$SLOTSCHED_TASK_PROGRESS"
echo '{"greetings": 1}' > "$SLOTSCHED_TASK_RESULT"
"""
_COMMAND = """\
[tool.slotsched]
description = "Say how full the disks are"
command = ["df", "-h"]
slots = 1
max_time = "1m"
"""
_LANGUAGES = {"python": (".py", _PYTHON, False), "shell": (".sh", _SHELL, True), "command": (".toml", _COMMAND, False)}


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A file to write. path: from the jobs folder; executable: whether it needs its x bit."""

    path: str
    text: str
    executable: bool


def new_job(name: str, language: str = "python") -> NewJob:
    """A job file of that name. language: python, shell, or command (a sidecar alone). Raises UsageError."""
    if not NAME.fullmatch(name) or any(part.startswith("_") for part in name.split("/")):
        raise UsageError(f"{shown(name)} is no job name: a-z 0-9 _ - (not _ first), sub-folders with /")
    if language not in _LANGUAGES:
        raise UsageError(f"{shown(language)} is not one of {', '.join(_LANGUAGES)}{suggestion(language, _LANGUAGES)}")
    suffix, text, executable = _LANGUAGES[language]
    return NewJob(path=f"{name}{suffix}", text=text, executable=executable)
