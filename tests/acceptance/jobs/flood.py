# /// script
# [tool.slotsched]
# max_time = "120s"
# ///
"""Writes megabytes to stdout without a single newline, numbered so that every cut and every loss shows."""

import os

from _witness import tell

MEGABYTE = 1 << 20
# One megabyte in 8-byte steps; its first step is replaced by the megabyte's own number.
PATTERN = b"".join(b"%07d." % step for step in range(MEGABYTE // 8))


def megabyte(number: int) -> bytes:
    return b"%07d#" % number + PATTERN[8:]


def main(megabytes: int = 1) -> None:
    tell("start")
    for number in range(megabytes):
        view = memoryview(megabyte(number))
        while view:
            view = view[os.write(1, view) :]
    tell("end")
