"""`job check`: every problem of a jobs folder, and what is worth a word although it works."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from slotsched.catalog.facts import TRIGGERS
from slotsched.catalog.folder import Scan
from slotsched.model import Job


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a check. error: the job cannot be used; otherwise it can, but not as its author may expect."""

    job: str
    path: str
    line: int | None
    message: str
    error: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.line or 1}: {'' if self.error else 'warning: '}{self.message}"


def check_scan(scan: Scan) -> list[Finding]:
    """All findings, by file and line. No file is run."""
    findings = [
        Finding(job=problem.name, path=problem.path, line=problem.line, message=problem.message, error=True)
        for problem in scan.problems
    ]
    for job in scan.jobs.values():
        path = os.path.relpath(job.path, scan.path) if job.path else f"{job.name}.toml"
        findings += (
            Finding(job=job.name, path=path, line=None, message=message, error=False)
            for message in _warnings(job, scan)
        )
    return sorted(findings, key=lambda finding: (finding.path, finding.line or 0))


def _warnings(job: Job, scan: Scan) -> Iterator[str]:
    yield from _of_schedule(job, scan)
    stem = job.name.rpartition("/")[2]
    if job.path is not None and job.path.suffix == ".py" and stem in sys.stdlib_module_names:
        yield f"its name hides Python's own module {stem} from every script in its folder"
    if job.path is None and job.facts.command and shutil.which(job.facts.command[0]) is None:
        yield f"there is no program {job.facts.command[0]} on this machine"


def _of_schedule(job: Job, scan: Scan) -> Iterator[str]:
    declared = job.facts.schedule
    trigger = next((name for name in TRIGGERS if name in declared), None)
    if trigger == "on_event":
        yield "on_event: read, but this version does not act on it yet"
        return
    missing = [parameter.name for parameter in job.parameters or () if parameter.required]
    if trigger is not None and missing:
        yield f"{trigger}: no run can start, as {', '.join(missing)} has no default; slotsched schedule add has values"
    after = declared.get("after", [])
    for name in [after] if isinstance(after, str) else after:
        if name == job.name:
            yield f'after: "{name}" is this job itself'
        elif name not in scan.jobs and name not in scan.broken:
            yield f'after: there is no job "{name}" in this folder; it follows a schedule of that name, if there is one'
