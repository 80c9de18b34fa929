"""The system calls Python 3.11 has no name for, through the C library. Every failure is an OSError with its errno."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_REC, MS_SLAVE = 0x4000, 0x80000
MNT_DETACH = 0x2

RLIMIT_LOCKS = 10  # heeded by no kernel since 2.4.25, but inherited like every limit; Python has no name for it

_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_TFD_CLOEXEC, _TFD_NONBLOCK, _TFD_TIMER_ABSTIME = 0o2000000, 0o4000, 1
_SFD_CLOEXEC, _SFD_NONBLOCK = 0o2000000, 0o4000
_FALLOC_KEEP_SIZE = 0x1
_FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x3

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_LARGE_BYTES = 128 << 10
_HEAPS = 2

_SIGNALFD_RECORD = struct.Struct("=IiiII108x")  # ssi_signo, ssi_errno, ssi_code, ssi_pid, ssi_uid, the rest
_NANOSECONDS = 1_000_000_000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def give_large_blocks_back() -> None:
    """Have every freed block of 128 KiB and more go back to the kernel, and few heaps for the rest.

    Left alone, glibc raises that bound with each such block that is freed, up to 32 MiB, and has a heap for almost
    every thread: a process of a dozen threads that lives for weeks grows by what lies free between what is in use.
    Other C libraries have no such setting, and nothing is done.
    """
    with suppress(AttributeError):
        _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        _libc.mallopt(_M_ARENA_MAX, _HEAPS)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags`; CLONE_NEWPID takes effect for the next child."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without options."""
    encode = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    _check(_libc.mount(encode[0], encode[1], encode[2], flags, None), f"mount {target}")


def unmount(target: str) -> None:
    """Detach a mount at once, whoever still uses it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def become_subreaper() -> None:
    """Orphans of this process's descendants become its own children."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def hide_from_scripts() -> None:
    """A process of the same user cannot attach to this one or read its memory."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def set_name(name: str) -> None:
    """What `ps` and `top` show in their command column; at most 15 bytes."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    _check(_libc.prctl(_PR_SET_NAME, ctypes.cast(text, ctypes.c_void_p), 0, 0, 0), "prctl")


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back; the range reads as zeros and all offsets stay."""
    _check(_libc.fallocate(fd, _FALLOC_PUNCH_HOLE_KEEP_SIZE, offset, length), "fallocate")


def reserve(fd: int, offset: int, length: int) -> None:
    """Take the blocks of a range now, also beyond the end of the file, whose size stays as it is."""
    _check(_libc.fallocate(fd, _FALLOC_KEEP_SIZE, offset, length), "fallocate")


class Timer:
    """A descriptor that is readable from a moment on CLOCK_BOOTTIME; unlike a poll timeout it counts suspend."""

    def __init__(self) -> None:
        self.fd = _check(_libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_CLOEXEC | _TFD_NONBLOCK), "timerfd_create")
        self._at: float | None = None

    def arm(self, at: float | None) -> None:
        """Fire at `at` (CLOCK_BOOTTIME seconds; the past means now); None means never."""
        if at == self._at:
            return
        nanoseconds = 0 if at is None else max(1, int(at * _NANOSECONDS))
        value = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, _NANOSECONDS))
        _check(_libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, value, None), "timerfd_settime")
        self._at = at

    def drain(self) -> None:
        """Take the expiry, so that the descriptor is no longer readable."""
        self._at = None
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return


class Arrived(NamedTuple):
    """One signal: its number and its sender, 0 for a sender outside of this PID namespace."""

    number: int
    sender: int


class Signals:
    """The given signals as something to read instead of something that interrupts; they must be blocked."""

    def __init__(self, numbers: Iterable[int]) -> None:
        mask = (ctypes.c_ulong * 16)()
        for number in numbers:
            mask[(number - 1) // 64] |= 1 << ((number - 1) % 64)
        self.fd = _check(_libc.signalfd(-1, mask, _SFD_CLOEXEC | _SFD_NONBLOCK), "signalfd")

    def fileno(self) -> int:
        return self.fd

    def take(self) -> list[Arrived]:
        """What has arrived since the last call."""
        try:
            data = os.read(self.fd, 16 * _SIGNALFD_RECORD.size)
        except BlockingIOError:
            return []
        records: Iterable[tuple[Any, ...]] = _SIGNALFD_RECORD.iter_unpack(data)
        return [Arrived(record[0], record[3]) for record in records]
