"""What a fault cost, measured: tests hand in their figures, and the end of the run prints them as one table.

The table is what the README's guarantees quote. It is printed by `pytest -m chaos` and by a default run alike, from
the reports of all workers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import pytest

_KEY = "figure"


@dataclass(frozen=True)
class Figures:
    """The fixture `figure`: one call per figure."""

    record: Callable[[str, object], None]

    def __call__(
        self,
        row: str,
        what: str,
        value: float,
        unit: str = "s",
        *,
        at_most: float | None = None,
        exactly: float | None = None,
    ) -> None:
        """Record a figure of a row of the fault table ("F06", "claims again after the election", 3.2), and hold it
        against its bound. Raises AssertionError beyond it.
        """
        bound = f"<= {_text(at_most)}" if at_most is not None else f"= {_text(exactly)}" if exactly is not None else ""
        self.record(_KEY, [row, what, f"{_text(value)} {unit}".strip(), bound])
        assert at_most is None or value <= at_most, f"{row}: {what}: {value} {unit}, allowed: {at_most}"
        assert exactly is None or value == exactly, f"{row}: {what}: {value} {unit}, wanted: {exactly}"


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figures:
    return Figures(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table, in the order of the rows; nothing where no test measured anything."""
    rows = [
        tuple(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for key, value in report.user_properties
        if key == _KEY
    ]
    if not rows:
        return
    terminalreporter.section("figures of the fault suite")
    terminalreporter.write_line("| row | what | measured | bound |")
    terminalreporter.write_line("| --- | --- | --- | --- |")
    for row in sorted(set(rows), key=operator.itemgetter(0)):
        terminalreporter.write_line(f"| {' | '.join(row)} |")


def _text(value: float | None) -> str:
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
