# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# ///
"""Removes its run directory, or only what a shell finds in it (`"$TMPDIR"/../*`), and works on for a while."""

import os
import shutil
import time
from pathlib import Path

from _witness import tell


def main(folder_too: bool = True, seconds: float = 0.0) -> None:
    tell("start")
    run = Path(os.environ["TMPDIR"]).parent
    assert run.name.startswith(os.environ["SLOTSCHED_TASK_ID"]), run
    if folder_too:
        shutil.rmtree(run)
    else:
        for path in run.glob("[!.]*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    tell("cleared")
    time.sleep(seconds)
    tell("end")
