"""What this machine offers: processors and memory this process may use, and which boot this is."""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")

# Below this the spool could no longer take the logs of what runs. A small file system keeps a share instead.
SPACE_FLOOR_BYTES = 64 << 20
SPACE_FLOOR_SHARE = 1 / 10
FILES_FLOOR = 256  # an attempt needs about a dozen


@dataclass(frozen=True)
class Space:
    """What a file system has left for us. floor: bytes that are to stay free. files: inodes, None where uncounted."""

    free: int
    floor: int
    files: int | None = None

    @property
    def low(self) -> bool:
        """Too little for another task."""
        return self.free < self.floor or (self.files is not None and self.files < FILES_FLOOR)


def space_at(path: Path) -> Space:
    """What is left where `path` is. Raises OSError."""
    stats = os.statvfs(path)
    return Space(
        free=stats.f_bavail * stats.f_frsize,
        floor=min(SPACE_FLOOR_BYTES, int(stats.f_blocks * stats.f_frsize * SPACE_FLOOR_SHARE)),
        files=stats.f_favail if stats.f_files else None,
    )


def boot_id() -> str:
    """The kernel's id of this boot; pids and CLOCK_BOOTTIME values mean something only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def host_name() -> str:
    return socket.gethostname()


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, lowered by a cgroup quota (v2 or v1), at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cgroup_cpus()
    return max(1, min(allowed, math.ceil(quota))) if quota is not None else allowed


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, lowered by a cgroup limit."""
    import psutil

    total: int = psutil.virtual_memory().total
    limits = [_read_number(path) for path in _cgroup_files("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(limit for limit in limits if limit)])


def usable_resources(named: Mapping[str, int], devices: Path = Path("/dev")) -> dict[str, int]:
    """Units by name: NVIDIA devices as `gpu`, and what the settings name, which counts more; nothing of 0 units."""
    return {name: units for name, units in ({"gpu": nvidia_devices(devices)} | dict(named)).items() if units}


def nvidia_devices(devices: Path = Path("/dev")) -> int:
    """How many NVIDIA devices there are: `nvidia0`, `nvidia1`, ..."""
    return sum(re.fullmatch(r"nvidia[0-9]+", path.name) is not None for path in devices.glob("nvidia[0-9]*"))


def _cgroup_cpus() -> float | None:
    for path in _cgroup_files("cpu.max"):
        quota, _, period = _read(path).partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            return int(quota) / int(period)
    for path in _cgroup_files("cpu/cpu.cfs_quota_us"):
        quota_us, period_us = _read_number(path), _read_number(path.with_name("cpu.cfs_period_us"))
        if quota_us and period_us:
            return quota_us / period_us
    return None


def _cgroup_files(*names: str) -> list[Path]:
    """The named files in this process's own cgroup (v2) and at the root a container sees."""
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    folders = (_CGROUP_ROOT, _CGROUP_ROOT / own.lstrip("/"))
    return [path for folder in dict.fromkeys(folders) for name in names if (path := folder / name).is_file()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None
