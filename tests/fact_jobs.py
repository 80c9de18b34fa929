"""Jobs that differ in their facts only: what each does is to tell the witness when it begins and ends."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from fleet import JOBS

_SCRIPT = """#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
{facts}
# [tool.slotsched.args]
# seconds = {{ type = "float", default = 0.0 }}
# customer = {{ type = "str", default = "nobody" }}
# ///
tell() {{
    read -r at _ < /proc/uptime
    line='{{"event":"%s","task":"%s","attempt":%d,"fence":%d,"pid":%d,"slots":%d,"instance":"%s","at":%s,'
    printf "$line"'"note":"%s"}}\\n' "$1" "$SLOTSCHED_TASK_ID" "$SLOTSCHED_TASK_ATTEMPT" "$SLOTSCHED_TASK_FENCE" $$ \\
        "$SLOTSCHED_TASK_SLOTS" "$SLOTSCHED_TASK_INSTANCE" "$at" "$SLOTSCHED_TASK_RESOURCE_GPU" >> "$WITNESS"
}}
tell start
sleep "$ARG_SECONDS"
tell end
"""

_EATER = '''# /// script
# [tool.slotsched]
# max_time = "60s"
{facts}
# ///
"""Holds `mib` MiB of memory for a while."""

import time

from _witness import tell


def main(mib: int) -> int:
    tell("start")
    held = bytearray(mib << 20)
    for offset in range(0, len(held), 4096):
        held[offset] = 1
    time.sleep(0.5)
    tell("end")
    return len(held)
'''


def write_jobs(folder: Path, facts: Mapping[str, str], eaters: Mapping[str, str] | None = None) -> Path:
    """A folder with a job per name that has these facts (lines of TOML); `eaters` take an argument `mib`."""
    folder.mkdir(exist_ok=True)
    shutil.copy(JOBS / "_witness.py", folder)
    for name, lines in facts.items():
        path = folder / f"{name}.sh"
        path.write_text(_SCRIPT.format(facts=_commented(lines)))
        path.chmod(0o755)
    for name, lines in (eaters or {}).items():
        (folder / f"{name}.py").write_text(_EATER.format(facts=_commented(lines)))
    return folder


def _commented(lines: str) -> str:
    return "\n".join(f"# {line}" for line in lines.splitlines()) or "#"
