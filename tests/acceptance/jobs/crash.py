# /// script
# [tool.slotsched]
# max_time = "60s"
# ///
"""Raises where nobody catches: in a thread of its own, then (if asked to) in `main`."""

import threading


def main(main: bool = True) -> None:
    thread = threading.Thread(target=_fail, args=("the thread's own trouble",), name="helper")
    thread.start()
    thread.join()
    if main:
        _fail("nobody catches this")


def _fail(words: str) -> None:
    raise RuntimeError(words)
