"""`spec.json`: everything a supervisor needs to know, written by the scheduler before the launch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from slotsched import contract
from slotsched.process.files import write_whole

LOG_LIMIT_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What to run and within which bounds. Seconds and bytes throughout."""

    argv: list[str]
    env: dict[str, str]  # complete, except what only the supervisor knows: deadline, log descriptor, TMPDIR
    max_time: float
    grace: float
    deadline_file: str  # the instance's lease deadline file
    cwd: str | None = None  # None: the attempt's private folder
    memory: int | None = None  # of the whole tree
    user: str | None = None  # drop to this user; needs root
    user_namespace: bool = True  # False for scripts that use setuid programs
    log_limit: int = LOG_LIMIT_BYTES  # of captured bytes: head and tail are kept
    die_at_deadline: bool = False  # another attempt could follow: die at the local deadline whatever the scheduler does
    containment: str = "auto"


_NAMES = {field.name for field in fields(Spec)}


def write_spec(run_dir: Path, spec: Spec) -> None:
    """Write `spec.json`, readable by the owner only: the environment may hold secrets."""
    write_whole(run_dir / contract.RUN_SPEC, json.dumps(asdict(spec)).encode())


def read_spec(run_dir: Path) -> Spec:
    """Read `spec.json` back; unknown keys of a newer scheduler are ignored.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a spec.
    """
    value: Any = json.loads((run_dir / contract.RUN_SPEC).read_bytes())
    if not isinstance(value, dict):
        raise ValueError("spec.json is not an object")
    try:
        spec = Spec(**{key: item for key, item in value.items() if key in _NAMES})
    except TypeError as error:
        raise ValueError(f"spec.json: {error}") from error
    if not spec.argv:
        raise ValueError("spec.json: there is nothing to run")
    return spec
