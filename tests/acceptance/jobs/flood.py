# /// script
# [tool.slotsched]
# max_time = "120s"
# ///
"""Writes megabytes to stdout without a single newline: a counter in blocks of 16 bytes, so that every cut shows."""

import os

from work import tell

BLOCKS_PER_WRITE = 65536


def main(megabytes: int = 1) -> None:
    tell("start")
    body = bytearray(16 * BLOCKS_PER_WRITE)
    for megabyte in range(megabytes):
        body[:] = b"".join(b"%015d." % (megabyte * BLOCKS_PER_WRITE + block) for block in range(BLOCKS_PER_WRITE))
        view = memoryview(body)
        while view:
            view = view[os.write(1, view) :]
        view.release()
    tell("end")
