# /// script
# [tool.slotsched]
# slots = 4
# max_time = "30m"
# retries = 2
# ///
"""Shrink every picture in a folder."""

from pathlib import Path

from slotsched import Cancel, log, task


def main(folder: Path, width: int = 1280) -> dict:
    if width == 0:
        raise Cancel("nothing to do")
    print(f"pictures of {folder}")
    task.progress(0.5, "half.png")
    log.debug("shrunk", file="half.png")
    return {"width": width}
