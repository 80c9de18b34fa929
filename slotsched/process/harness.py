"""The entry of a Python job's process: `python harness.py SCRIPT main|script [DEPENDENCY ...]`.

Started as a file, by whatever interpreter the job names, so slotsched need not be installed there: a finder makes
this one package importable, and nothing else of the place it is in. What a started file holds is compiled anew each
time, so it holds only this; the rest is `slotsched.script`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing would cost as much as all the rest
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_PROCESS = __file__.rpartition("/")[0]
_INSTALLED_IN = _PROCESS.rpartition("/")[0].rpartition("/")[0]


class SlotschedFinder:
    """Finds the package `slotsched` where this file is."""

    @classmethod
    def find_spec(cls, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != "slotsched":
            return None
        from _frozen_importlib_external import PathFinder  # what importlib.machinery hands on, 0.6 ms later

        return PathFinder.find_spec(name, [_INSTALLED_IN])


# At import, not below: a child that multiprocessing started imports this file under another name.
if not any(getattr(finder, "__name__", "") == SlotschedFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, SlotschedFinder)

if __name__ == "__main__":
    if sys.path and sys.path[0] == _PROCESS:
        del sys.path[0]
    from slotsched.script import run

    run(sys.argv[1], sys.argv[2], sys.argv[3:])
