"""Durations and sizes as people write them: `10m`, `1h30m`, `90`, `512M`, `1.5GiB`.

The parsers on the package index accept `-5m` or refuse `90`, so these few lines are our own.
"""

from __future__ import annotations

import math
import re

_UNITS_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_SHOWN_CHARACTERS = 60
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_duration(text: str | float) -> float:
    """Seconds of `10m`, `1h30m`, `250ms` or a bare number of seconds; never negative. ValueError otherwise."""
    if isinstance(text, bool):
        raise ValueError(f"{_shown(text)} is not a duration such as 90, 10m or 1h30m")
    try:
        seconds = float(text) if isinstance(text, (int, float)) else _parse_duration_text(text.strip())
    except OverflowError:  # a whole number that no float can hold
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"{_shown(text)} is not a duration such as 90, 10m or 1h30m")
    return seconds


def _parse_duration_text(text: str) -> float:
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    # The whole first: looking for parts in what has none takes time in the square of its length.
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not a duration such as 90, 10m or 1h30m")
    return sum(float(number) * _UNITS_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def format_duration(seconds: float) -> str:
    """The two largest units: `0.3s`, `42s`, `1m05s`, `2h03m`, `3d04h`."""
    if seconds < 0:
        seconds = 0.0
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // lower_size:02d}{lower}"
    return f"{whole}s"


def parse_size(text: str | int) -> int:
    """Bytes of `512M`, `1.5GiB`, `64 KB` (all powers of 1024) or a bare number of bytes. ValueError otherwise."""
    if isinstance(text, bool):
        raise ValueError(f"{_shown(text)} is not a size such as 512M or 2G")
    if isinstance(text, int):
        size = text
    else:
        match = _SIZE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{_shown(text)} is not a size such as 512M or 2G")
        bytes_asked = float(match[1]) * _SIZE_FACTORS[match[2].upper()]
        size = int(bytes_asked) if math.isfinite(bytes_asked) else 0
    if size <= 0:
        raise ValueError(f"{_shown(text)} is not a size such as 512M or 2G")
    return size


def format_size(size: float) -> str:
    """`812 B`, `3.4 KiB`, `1.2 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _shown(text: object) -> str:
    """What was given, shortened to what fits a message."""
    shown = repr(text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
