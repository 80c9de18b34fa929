"""A wall clock of one's own for a process and what it starts: ahead, behind, and changed while it runs.

`clock_shim.c` is built with the machine's C compiler and loaded before everything else (LD_PRELOAD). Durations are
not touched: the monotonic and the boot clock stay the machine's, as they do when somebody sets a real clock.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")
_DOUBLE = struct.Struct("=d")


def build(folder: Path) -> Path:
    """The library. Without a compiler the test fails in CI and is skipped, loudly, elsewhere."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        words = "the clock tests need a C compiler (apt-get install gcc libc6-dev)"
        if os.environ.get("CI"):
            pytest.fail(words, pytrace=False)
        pytest.skip(f"NOT TESTED HERE: {words}")
    library = folder / "clock_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(SOURCE)]
    done = subprocess.run([*command, "-ldl", "-lm", "-lpthread"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return library


class Clock:
    """One clock; every process with its `environ` goes by it. offset: seconds ahead of the machine's."""

    def __init__(self, library: Path, file: Path, offset: float = 0.0) -> None:
        file.write_bytes(_DOUBLE.pack(offset))
        with file.open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), _DOUBLE.size)
        self._view = memoryview(self._map).cast("d")  # stored in one piece: nobody reads half a number
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_SHIM": str(file)}

    def set(self, offset: float) -> None:
        self._view[0] = offset

    def close(self) -> None:
        self._view.release()
        self._map.close()
