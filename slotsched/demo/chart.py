"""Slots over time as text: a row per slot of an instance, a letter per task: one can read what ran beside what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
IDLE = "."


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A task on an instance. start, end: seconds from the chart's left edge."""

    letter: str
    instance: str
    slots: int
    start: float
    end: float


def draw(capacities: Sequence[tuple[str, int]], bars: Sequence[Bar], width: int) -> list[str]:
    """Lines of the chart. capacities: (instance, slots); width: columns for the time axis, at least 10."""
    width = max(10, width)
    longest = max((bar.end for bar in bars), default=0.0) or 1.0
    margin = max((len(name) for name, _ in capacities), default=0) + 4
    lines: list[str] = []
    for name, slots in capacities:
        rows = _rows(slots, [bar for bar in bars if bar.instance == name], longest, width)
        for number, row in enumerate(rows, 1):
            label = f"{name if number == 1 else '':<{margin - 4}} {number:>2}"
            lines.append(f"{label:<{margin}}{row}")
    lines.append(f"{'':<{margin}}{'0 s':<{width - 8}}{longest:>6.1f} s")
    return lines


def _rows(slots: int, bars: Sequence[Bar], longest: float, width: int) -> list[str]:
    """Put each bar, in order of start, on the lowest slots that are free by then."""
    cells = [[IDLE] * width for _ in range(slots)]
    free_from = [0.0] * slots
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.letter)):
        # A slot counts as free a little early: start and end come from two machines' acknowledgements.
        free = [n for n in range(slots) if free_from[n] <= bar.start + 0.02] or list(range(slots))
        first, last = (int(moment / longest * (width - 1)) for moment in (bar.start, bar.end))
        for slot in free[: bar.slots]:
            free_from[slot] = bar.end
            for column in range(first, max(first + 1, last)):
                cells[slot][column] = bar.letter
    return ["".join(row) for row in cells]
