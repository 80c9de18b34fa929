# /// script
# [tool.slotsched]
# max_time = "20s"
# grace = "1s"
# ///
"""Removes its own run directory, as a careless `rm -rf "$TMPDIR/.."` does, and ends well."""

import os
import shutil
from pathlib import Path

from _witness import tell


def main() -> None:
    tell("start")
    run = Path(os.environ["TMPDIR"]).parent
    assert run.name.startswith(os.environ["SLOTSCHED_TASK_ID"]), run
    shutil.rmtree(run)
    tell("end")
