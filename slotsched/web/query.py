"""Query strings and forms, read strictly: a name that is not known is refused, and every value is a text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from slotsched.errors import UsageError

if TYPE_CHECKING:
    import datetime as dt

    from slotsched.store import TaskFilter

FILTERS = ("status", "job", "owner", "tag", "reason", "instance", "since", "until")
LOG_CHOICES = ("attempt", "level", "grep", "before")
MOST_PAIRS = 100
LONGEST_VALUE = 2000
_ID = re.compile(r"[0-9a-f]{24}")


class Words:
    """Names with their values. Raises UsageError where one is not known, or more is given than anybody means."""

    def __init__(self, pairs: Iterable[tuple[str, str]], known: Collection[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for count, (name, value) in enumerate(pairs, 1):
            if count > MOST_PAIRS:
                raise UsageError(f"more than {MOST_PAIRS} parameters")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f', did you mean "{near[0]}"?' if near else f" (known: {', '.join(known) or 'none'})"
                raise UsageError(f'unknown parameter "{name[:100]}"{hint}')
            if len(value) > LONGEST_VALUE:
                raise UsageError(f"{name}: {len(value)} characters are more than {LONGEST_VALUE}")
            if value:  # an empty field of a form is one that was not filled in
                self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str) -> str | None:
        """The value, None for none. Raises UsageError for several."""
        found = self.all(name)
        if len(found) > 1:
            raise UsageError(f"{name}: given {len(found)} times, one is meant")
        return found[0] if found else None

    def number(self, name: str, *, least: int, most: int) -> int | None:
        """A whole number. Raises UsageError for anything else."""
        text = self.one(name)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,15}", text) or not least <= int(text) <= most:
            raise UsageError(f'{name}: "{text[:100]}" is not a whole number from {least} to {most}')
        return int(text)

    def flag(self, name: str) -> bool:
        """`1` or `true`, and their opposites. Raises UsageError for anything else."""
        text = self.one(name) or "0"
        if text not in ("0", "1", "false", "true"):
            raise UsageError(f'{name}: "{text[:100]}" is neither 1 nor 0')
        return text in ("1", "true")

    def task_id(self, name: str) -> str | None:
        """A full id. Raises UsageError for anything else."""
        text = self.one(name)
        if text is not None and not _ID.fullmatch(text):
            raise UsageError(f'{name}: "{text[:100]}" is no full id of a task')
        return text

    def filter(self, now: dt.datetime) -> TaskFilter:
        """What FILTERS ask for. Raises UsageError."""
        from slotsched.views.tasks import read_filter

        return read_filter(
            status=self.all("status"),
            jobs=self.all("job"),
            owner=self.one("owner"),
            tags=self.all("tag"),
            reason=self.one("reason"),
            instance=self.one("instance"),
            since=self.one("since"),
            until=self.one("until"),
            now=now,
        )

    def filters(self, wanted: TaskFilter) -> list[tuple[str, str]]:
        """What was given of FILTERS, for a link to the next page: an hour ago has to mean the same hour there."""
        settled = {"since": wanted.since, "until": wanted.until}
        found = self.pairs(FILTERS)
        return [(name, moment.isoformat() if (moment := settled.get(name)) else value) for name, value in found]

    def pairs(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """What was given of these names, to make a link with."""
        return [(name, value) for name in names for value in self.all(name)]
