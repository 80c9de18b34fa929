"""Runs a job file as an instance would, without one: scan, check, build, subprocess, read what it left."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotsched import contract
from slotsched.catalog import Folder, check_arguments
from slotsched.execution import build, read_progress, read_result, read_state_out, with_defaults, write_io
from slotsched.model import Progress

TIMEOUT_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a run ended. log: the records of its log pipe."""

    code: int
    stdout: str
    stderr: str
    log: list[dict[str, Any]]
    result: Any
    complaint: str | None
    state: Any
    progress: Progress | None


def run_job(
    folder: Path,
    name: str,
    args: Mapping[str, Any] | None = None,
    *,
    state: Any = None,
    python: str | None = None,
    environ: Mapping[str, str] | None = None,
    terminate_on: str | None = None,
    identity: Mapping[str, str] | None = None,
    wrap: Sequence[str] = (),
) -> Ran:
    """One run. terminate_on: SIGTERM once this text is on stdout. wrap: words put before the command."""
    job = Folder(folder).fresh(name)
    given = with_defaults(job, check_arguments(name, job.parameters, args or {}))
    scratch = Path(tempfile.mkdtemp(prefix="slotsched-job-lab-"))
    try:
        io, work = scratch / "io", scratch / "work"
        io.mkdir()
        work.mkdir()
        write_io(io, given, state)
        who = {contract.ENV_ID: "5" * 24, contract.ENV_JOB: name, contract.ENV_ATTEMPT: "1", contract.ENV_FENCE: "1"}
        command = build(job, io=io, args=given, identity={**who, **(identity or {})}, python=python, environ=environ)
        env = {**command.env, "TMPDIR": str(work)}
        code, out, err, log = _execute([*wrap, *command.argv], env, Path(command.cwd or work), terminate_on)
        result, complaint = read_result(io)
        return Ran(
            code=code,
            stdout=out,
            stderr=err,
            log=[json.loads(line) for line in log.splitlines()],
            result=result,
            complaint=complaint,
            state=read_state_out(io),
            progress=read_progress(io),
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _execute(argv: list[str], env: dict[str, str], cwd: Path, terminate_on: str | None) -> tuple[int, str, str, str]:
    reading, writing = os.pipe()
    child = subprocess.Popen(
        argv,
        env={**env, contract.ENV_LOG_FD: str(writing)},
        cwd=cwd,
        pass_fds=[writing],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(writing)
    assert child.stdout is not None
    assert child.stderr is not None
    parts = {child.stdout.fileno(): b"", child.stderr.fileno(): b"", reading: b""}
    streams = list(parts)

    awaited = terminate_on

    def on_data() -> None:
        nonlocal awaited
        if awaited is not None and awaited.encode() in parts[streams[0]]:
            awaited = None
            child.send_signal(signal.SIGTERM)

    try:
        _drain(parts, once=on_data)
        code = child.wait(TIMEOUT_SECONDS)
    finally:
        child.kill()
        child.stdout.close()
        child.stderr.close()
        os.close(reading)
    out, err, log = (parts[stream].decode("utf-8", "replace") for stream in streams)
    return code, out, err, log


def _drain(parts: dict[int, bytes], once: Callable[[], None]) -> None:
    """Read every stream to its end. once: called after each piece."""
    until = time.monotonic() + TIMEOUT_SECONDS
    open_streams = set(parts)
    while open_streams:
        ready, _, _ = select.select(list(open_streams), [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError("the job did not end")
        for stream in ready:
            data = os.read(stream, 65536)
            parts[stream] += data
            if not data:
                open_streams.discard(stream)
            once()
