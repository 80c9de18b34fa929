"""What lists, ranges and steps of plain numbers mean in each field of a cron. The only place that imports croniter.

croniter expands the fields and does nothing else here, because its stepping cannot be used:
- it fires fixed hours twice when clocks go back, and once too often when they are put forward (`0 */2`, `* 2`);
- a step takes it 50 to 120 us, a new iterator 150 to 240 us; ours takes 3 to 7, and a due schedule needs one.

Of its parser, version 7 reads `5-5` as the whole field and counts wrongly in `50-10/7`, so what gets here has been
checked and such ranges written out (see `grammar`). It is imported on first use: it takes 40 ms, and most commands see
no cron.
"""

from __future__ import annotations

from collections.abc import Sequence

from slotsched.errors import InvalidRecurrence


def expand(fields: Sequence[str], allowed: Sequence[range]) -> list[frozenset[int]]:
    """The values of six fields (minute, hour, day of month, month, day of week, second), each within its range."""
    from croniter import CroniterError, croniter

    text = " ".join(fields)
    try:
        expanded, _ = croniter.expand(text)
    except CroniterError as error:
        raise InvalidRecurrence(f'"{text}" is not understood: {error}') from None
    return [
        frozenset(span) if values == ["*"] else frozenset(int(value) for value in values)
        for values, span in zip(expanded, allowed, strict=True)
    ]
