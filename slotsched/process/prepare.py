"""The entry of a Python job with dependencies: `python -I -S prepare.py UV HIDDEN HARNESS SCRIPT MODE`.

Makes the script's own environment with uv, then becomes (exec) its interpreter running the harness, so that no
process stands between the supervisor's signals and the script. Runs inside the attempt: what uv says is in the log,
and its time counts. UV: its path. HIDDEN: names of variables, separated by commas, that are for uv only.

`uv sync` runs when the header is new or changed; else the environment is only looked up (30 ms).
"""

from __future__ import annotations

import os
import sys

_OPENING = (b"# /// script", b"# ///")
_MARKER = "slotsched-header"
_READ_BYTES = 65536


def main(uv: str, hidden: str, harness: str, script: str, mode: str) -> None:
    """Ends by exec, or by SystemExit with one sentence."""
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    header = _header(script)
    interpreter = _find(uv, script, environment)
    if interpreter is None or _known_header(interpreter) != header:
        words = [uv, "sync", "--no-progress", "--script", script]
        if os.spawnve(os.P_WAIT, uv, words, environment) != 0:  # noqa: S606 - no shell is wanted
            sys.exit(f"slotsched: uv could not make the environment of {script}")
        interpreter = _find(uv, script, environment)
        if interpreter is None:
            sys.exit(f"slotsched: uv made no environment for {script}")
        _remember_header(interpreter, header)
    for name in hidden.split(","):
        os.environ.pop(name, None)
    os.execv(interpreter, [interpreter, harness, script, mode])  # noqa: S606 - no shell is wanted


def _header(script: str) -> bytes:
    """The script block as it is written: what the environment depends on."""
    with open(script, "rb") as file:  # noqa: PTH123 - pathlib would double this program's start
        data = file.read()
    return data[data.find(_OPENING[0]) : data.rfind(_OPENING[1])]


def _find(uv: str, script: str, environment: dict[str, str]) -> str | None:
    """The interpreter of the script's environment; some other one while there is no environment yet."""
    reading, writing = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
    child = os.posix_spawn(uv, [uv, "python", "find", "--script", script], environment, file_actions=actions)
    os.close(writing)
    answer = b""
    while piece := os.read(reading, _READ_BYTES):
        answer += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return os.fsdecode(answer).strip() if status == 0 else None


def _marker(interpreter: str) -> str:
    return f"{interpreter.rpartition('/bin/')[0]}/{_MARKER}"


def _known_header(interpreter: str) -> bytes | None:
    try:
        with open(_marker(interpreter), "rb") as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return None


def _remember_header(interpreter: str, header: bytes) -> None:
    temporary = f"{_marker(interpreter)}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:  # noqa: PTH123 - as above
            file.write(header)
        os.replace(temporary, _marker(interpreter))  # noqa: PTH105 - as above
    except OSError as error:
        sys.stderr.write(f"slotsched: uv will look again next time: {error}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
