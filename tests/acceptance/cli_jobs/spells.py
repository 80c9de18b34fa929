"""Writes one line of 200,000 characters in colour, with a pause in its middle."""

import sys
import time


def main() -> None:
    sys.stdout.write("\x1b[31m" + "long" * 30_000)
    sys.stdout.flush()
    time.sleep(0.7)  # longer than the supervisor holds the beginning of a line
    print("long" * 20_000 + "\x1b[0m")
