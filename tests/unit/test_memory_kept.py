"""What a scheduler asks of the C library's allocator, seen in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Large blocks between small ones that stay, again and again: what glibc keeps of them by itself is never given back.
PROGRAM = """
import sys
from slotsched.process.linux import give_large_blocks_back
if sys.argv[1] == "steady":
    give_large_blocks_back()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
kept = []
def turn():
    large = []
    for _ in range(200):
        large.append(bytearray(300_000))
        kept.append(bytearray(600))
for _ in range(2):
    turn()
before = resident()
for _ in range(8):
    turn()
print(before, resident())
"""


def grown(how: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    return [int(figure) for figure in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_blocks_go_back_to_the_kernel() -> None:
    left_alone, steady = grown("alone"), grown("steady")
    assert left_alone[1] > 40e6, "the check sees what is kept"
    assert steady[1] < 20e6 + 8 * 200 * 700
