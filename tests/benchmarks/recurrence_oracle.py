"""Crons in five zones over five years, held against an oracle that walks through every minute; and a step's cost.

    python tests/benchmarks/recurrence_oracle.py [years [crons]]

prints the fires compared and the mismatches (0 is right) per zone, and microseconds per call of `next_after`. Every
fire is compared on the way forward; on the way back those of crons that fire at most some ten times a day.
"""

from __future__ import annotations

import datetime as dt
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from recurrence_lab import B5_ZONES, NAMED_CRONS, Spec, Walk, first_difference, some_crons, within

from slotsched.recurrence import Cron, parse_cron

FIRST_YEAR = 2024
BACKWARDS_FIRES_A_YEAR = 4000
SEED = 5
MARGIN = dt.timedelta(days=2)


def backwards(cron: Cron, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    found = []
    fire = cron.previous_before(end + dt.timedelta(microseconds=1))
    while fire is not None and fire > start:
        found.append(fire)
        fire = cron.previous_before(fire)
    return found[::-1]


def compare(zone: str, crons: list[str], years: int) -> tuple[int, list[str]]:
    """(fires compared, mismatches in words) of one zone."""
    start, end = dt.datetime(FIRST_YEAR, 1, 1, tzinfo=dt.UTC), dt.datetime(FIRST_YEAR + years, 1, 1, tzinfo=dt.UTC)
    walk = Walk(zone, start - MARGIN, end)
    compared, wrong = 0, []
    for text in crons:
        expected = within(walk.fires(Spec(text)), start, end)
        cron = parse_cron(text, zone)
        ways = [cron.between(start, end)]
        if len(expected) <= BACKWARDS_FIRES_A_YEAR * years:
            ways.append(iter(backwards(cron, start, end)))
        for way in ways:
            count, difference = first_difference(expected, way)
            compared += count
            if difference is not None:
                wrong.append(f"{text} {zone}: {difference}")
    return compared, wrong


def microseconds_a_step(text: str, zone: str, steps: int = 20_000) -> float:
    cron = parse_cron(text, zone)
    first = moment = dt.datetime(FIRST_YEAR, 1, 1, tzinfo=dt.UTC)
    began = time.perf_counter()
    for _ in range(steps):
        fire = cron.next_after(moment)
        moment = first if fire is None or fire.year > FIRST_YEAR + 40 else fire
    return (time.perf_counter() - began) / steps * 1e6


def main() -> None:
    years = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    crons = list(dict.fromkeys([*NAMED_CRONS, *some_crons(count, SEED)]))[:count]
    total, mismatches, began = 0, 0, time.perf_counter()
    for zone in B5_ZONES:
        compared, wrong = compare(zone, crons, years)
        total += compared
        mismatches += len(wrong)
        print(f"{zone:22} {len(crons)} crons, {compared / 1e6:6.2f} million fires, {len(wrong)} mismatches", flush=True)
        print("\n".join(f"  {line}" for line in wrong[:10]), end="\n" if wrong else "")
    seconds = time.perf_counter() - began
    print(f"compared {total / 1e6:.2f} million fires over {years} years in {seconds:.0f} s: {mismatches} mismatches")
    for text in ("*/15 * * * *", "30 2 * * *", "0 9 * * MON-FRI", "0 0 1 * *", "0 0 29 2 *"):
        print(f"next_after {text:16} {microseconds_a_step(text, 'Europe/Paris'):5.1f} us")
    sys.exit(1 if mismatches else 0)


if __name__ == "__main__":
    main()
