"""The command line: it reads words, asks the client and prints; it decides nothing."""

from __future__ import annotations


def main() -> None:
    """The console script. Ends the process with one of the exit codes of `slotsched.contract`."""
    import sys

    from slotsched.cli.app import open_closed_streams, run

    open_closed_streams()
    sys.exit(run(sys.argv[1:]))
