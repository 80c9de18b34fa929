"""A program run as an ordinary user, by the system's Python, on a copy of the package that everybody can read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NOBODY = 65534
PYTHON = "/usr/bin/python3"
_TESTS = Path(__file__).resolve().parent
_DROP = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")


@contextlib.contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder with the package and `process_lab`, and in it `state`, which is nobody's own."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not Path(PYTHON).exists():
        pytest.skip("NOT TESTED HERE: needs root, setpriv and a Python that everybody can run")
    here = Path(tempfile.mkdtemp(prefix="slotsched-nobody-"))
    try:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_TESTS.parent / "slotsched", here / "slotsched", ignore=ignore)
        shutil.copy(_TESTS / "process_lab.py", here)
        subprocess.run(["chmod", "-R", "a+rX", here], check=True)
        (here / "state").mkdir()
        os.chown(here / "state", NOBODY, NOBODY)
        yield here
    finally:
        shutil.rmtree(here)


def run_as_nobody(here: Path, program: str, *arguments: str) -> Any:
    """What `program` prints as JSON; its first argument is the folder `state`."""
    done = subprocess.run(
        [*_DROP, PYTHON, "-B", "-c", program, here / "state", *arguments],
        capture_output=True,
        timeout=50,
        check=False,
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(here)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)
