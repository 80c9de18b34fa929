# /// script
# [tool.slotsched]
# retries = 1
# retry_delay = "0s"
# ///
"""Speaks on every level, in two voices; fails once."""

import sys

from slotsched import log, task


def main() -> None:
    log.debug("quiet word", n=1)
    log.info("plain word")
    log.warning("loud word")
    sys.stdout.buffer.write(b"raw \xff\x00 bytes, no end")
    sys.stdout.flush()
    sys.stderr.write("to the other\n")
    if task.attempt == 1:
        sys.exit(7)
