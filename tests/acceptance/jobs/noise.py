# /// script
# [tool.slotsched]
# max_time = "60s"
# ///
"""Random bytes that the test can make again from the seeds: some on stdout, some on stderr, no order between them."""

import random
import sys


def main(out: int = 0, err: int = 0) -> None:
    sys.stdout.buffer.write(random.Random("out").randbytes(out))
    sys.stderr.buffer.write(random.Random("err").randbytes(err))
