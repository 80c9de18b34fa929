"""Reading a cron: five fields, or six with the seconds last; every refusal points at what it refuses.

    minute hour day-of-month month day-of-week [second]

A field is a list of `*`, `5`, `1-5`, `*/15`, `5/15`, `0-30/10`, with JAN and MON for months and days of the week; a
range may run over the end (`22-2`, `FRI-MON`). A day of month may be `L` (the last), `LW` (the last Monday to Friday)
or `15W` (the Monday to Friday nearest to it, in the same month); a day of week `5#3` (the third Friday) or `5L` (the
last one, also `L5`).

`H` is a value chosen by the schedule's name, so that a hundred daily jobs do not start in one second: `H`, `H(0-29)`,
`H/15`, `H(0-29)/10`. It is ours and not croniter's, which chooses hour and minute by neighbouring bits of one sum, and
may choose others in its next version: a schedule's times must not move with an upgrade.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, replace
from functools import lru_cache

from slotsched.errors import InvalidRecurrence
from slotsched.recurrence.expansion import expand
from slotsched.recurrence.pattern import DayRule, Pattern, mask

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MAX_CHARACTERS = 300
_LONGEST = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_HASHED_DAYS = 28  # `H` in the day of month: 29 to 31 would leave months out

_VALUE = "[0-9]{1,9}|[A-Z]+"
_PLAIN = re.compile(rf"(?:[*?]|(?P<low>{_VALUE})(?:-(?P<high>{_VALUE}))?)(?:/(?P<step>[0-9]{{1,9}}))?")
_HASHED = re.compile(r"H(?:\((?P<low>[0-9]{1,9})-(?P<high>[0-9]{1,9})\))?(?:/(?P<step>[0-9]{1,9}))?")
_NEAREST = re.compile(r"([0-9]{1,9})W")
_NTH = re.compile(rf"({_VALUE})#([0-9]{{1,9}})")
_LAST_OF = re.compile(r"(?P<after>[0-9]{1,9}|[A-Z]{3})L|L(?P<before>[0-9]{1,9}|[A-Z]{3})")


@dataclass(frozen=True)
class Field:
    """A field's name in messages, its lowest and highest value, and the names of values from `low` on."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def values(self) -> range:
        return range(self.low, self.high + 1)


MINUTE = Field("minute", 0, 59)
HOUR = Field("hour", 0, 23)
DAY = Field("day of month", 1, 31)
MONTH = Field("month", 1, 12, MONTHS)
WEEKDAY = Field("day of week", 0, 6, WEEKDAYS)  # 7 is read as 0
SECOND = Field("second", 0, 59)
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY, SECOND)
_FORM = "minute hour day-of-month month day-of-week [second]"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a cron says. words: the six fields, upper case, second `0` if not given.

    by_pace: a `*`, `*/n` or `H/n` among hours, minutes or seconds; see `cron` for what that decides.
    """

    words: tuple[str, ...]
    pattern: Pattern
    by_pace: bool


@lru_cache(maxsize=4096)
def read(text: str, name: str) -> Reading:
    """What the cron says for the schedule of that name. Raises InvalidRecurrence."""
    words = _words(text)
    reader = _Reader(words, name)
    plain, rule = reader.read()
    minutes, hours, days, months, weekdays, seconds = expand(plain, [field.values for field in FIELDS])
    # As in Debian's cron: a day must fit both fields when one begins with `*`, else either is enough.
    rule = replace(
        rule,
        both=words[2][0] in "*?" or words[4][0] in "*?",
        days=days if reader.has_plain(DAY) else frozenset(),
        weekdays=weekdays if reader.has_plain(WEEKDAY) else frozenset(),
    )
    if rule.only_dates() and min(days) > max(_LONGEST[month] for month in months):
        # Also where a day of week would fit besides: whoever wrote the date meant it to come.
        raise InvalidRecurrence(f'no such month has a day {min(days)}: "{reader.pointed(DAY, MONTH)}"')
    pattern = Pattern(
        seconds=mask(seconds), minutes=mask(minutes), hours=mask(hours), months=mask(months), day_rule=rule
    )
    if not pattern.is_possible():
        raise InvalidRecurrence(f'no date fits, so it never fires: "{reader.pointed(DAY, MONTH, WEEKDAY)}"')
    return Reading(words=(*words, "0")[:6], pattern=pattern, by_pace=any(map(_is_pace, _clock(words))))


def _clock(words: tuple[str, ...]) -> tuple[str, ...]:
    return (*words[:2], *words[5:])


def _is_pace(word: str) -> bool:
    # Debian's cron decides by the first character of hours and minutes; `H/n` is `*/n` that begins elsewhere.
    return word.startswith(("*", "H/"))


def _words(text: str) -> tuple[str, ...]:
    if not text.strip():
        raise InvalidRecurrence(f'a cron has five fields, or six with seconds last ("{_FORM}")')
    if len(text) > MAX_CHARACTERS:
        raise InvalidRecurrence(f"a cron of {len(text)} characters is too long, {MAX_CHARACTERS} are allowed")
    text = text.strip()
    if text.startswith("@"):
        text = _alias(text.lower())
    words = tuple(text.upper().split())
    if len(words) == 7:
        raise InvalidRecurrence(f'seven fields are one too many, there is no field for years: "{" ".join(words)}"')
    if len(words) not in (5, 6):
        count = f"{len(words)} field{'s' if len(words) > 1 else ''}"
        raise InvalidRecurrence(f'{count}, but a cron has five, or six with seconds last ("{_FORM}"): "{text}"')
    return words


def _alias(text: str) -> str:
    word = text.split(maxsplit=1)[0]
    if word == "@every":
        period = text.removeprefix(word).strip() or "10m"
        raise InvalidRecurrence(
            f'@every is not a cron here, write every "{period}" (every = "{period}", --every {period})'
        )
    if word == "@reboot":
        raise InvalidRecurrence('@reboot has no time to run at; for a steady pace write every "10m", else use systemd')
    if text not in ALIASES:
        near = difflib.get_close_matches(word, ALIASES, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(ALIASES)}"
        raise InvalidRecurrence(f'"{text}" is not known, {hint}')
    return ALIASES[text]


class _Reader:
    """The words of one cron, read item by item; refusals show the item in brackets."""

    def __init__(self, words: tuple[str, ...], name: str) -> None:
        self._words = words
        self._name = name
        self._plain: dict[str, list[str]] = {field.name: [] for field in FIELDS}

    def read(self) -> tuple[list[str], DayRule]:
        """The plain items of all six fields, checked, as croniter takes them; and what days are asked for besides."""
        rule = DayRule()
        for field, word in zip(FIELDS, self._words, strict=False):
            for place, item in enumerate(word.split(",")):
                special = self._special(field, item, place, rule)
                if special is None:
                    self._plain[field.name].append(self._checked(field, item, place))
                else:
                    rule = special
        if len(self._words) < len(FIELDS):
            self._plain[SECOND.name].append("0")
        return [",".join(self._plain[field.name]) or "*" for field in FIELDS], rule

    def has_plain(self, field: Field) -> bool:
        return bool(self._plain[field.name])

    def pointed(self, *fields: Field) -> str:
        """The cron with whole fields in brackets."""
        return " ".join(
            f"[{word}]" if field in fields else word for field, word in zip(FIELDS, self._words, strict=False)
        )

    def _refusal(self, problem: str, field: Field, place: int) -> InvalidRecurrence:
        words = list(self._words)
        at = FIELDS.index(field)
        items = words[at].split(",")
        items[place] = f"[{items[place]}]"
        words[at] = ",".join(items)
        order = " (the sixth field is seconds, last)" if len(words) == len(FIELDS) else ""
        return InvalidRecurrence(f'{problem}: "{" ".join(words)}"{order}')

    def _special(self, field: Field, item: str, place: int, rule: DayRule) -> DayRule | None:
        """The rule with this item added; None if it is a plain one."""
        if field is DAY:
            if item == "L":
                return replace(rule, last=True)
            if item == "LW":
                return replace(rule, last_weekday=True)
            if match := _NEAREST.fullmatch(item):
                return replace(rule, nearest=rule.nearest | {self._value(field, match[1], place)})
        if field is WEEKDAY:
            if match := _NTH.fullmatch(item):
                nth = int(match[2])
                if not 1 <= nth <= 5:
                    raise self._refusal(f"a month has no {nth}th of any day of week, write #1 to #5", field, place)
                return replace(rule, nth=rule.nth | {(self._value(field, match[1], place), nth)})
            if match := _LAST_OF.fullmatch(item):
                weekday = self._value(field, match["after"] or match["before"], place)
                return replace(rule, last_of=rule.last_of | {weekday})
            if item == "L":
                raise self._refusal("L in the day of week needs its day, 5L is the last Friday", field, place)
        return None

    def _checked(self, field: Field, item: str, place: int) -> str:
        if match := _HASHED.fullmatch(item):
            return self._hashed(field, match, place)
        match = _PLAIN.fullmatch(item)
        if match is None or (item[0] == "?" and field not in (DAY, WEEKDAY)):
            raise self._refusal(self._not_understood(field, item), field, place)
        step = self._step(field, match["step"], place)
        if match["low"] is None:
            return f"{field.low}-{field.high}/{step}"
        low = self._value(field, match["low"], place)
        if match["high"] is None:
            # `5/15` goes on to the field's end; `5` alone, and `59/15`, is one value.
            return f"{low}-{field.high}/{step}" if match["step"] and low < field.high else str(low)
        high = self._value(field, match["high"], place)
        if low < high:
            return f"{low}-{high}/{step}"
        # Written out: croniter reads equal ends as the whole field, and counts wrongly over the end.
        count = len(field.values)
        length = (high - low) % count
        if field is WEEKDAY and match["high"] == "7" and match["low"] in ("0", "SUN"):
            length = count - 1  # the whole week, as 1-7 is
        return ",".join(str(field.low + (low - field.low + passed) % count) for passed in range(0, length + 1, step))

    def _hashed(self, field: Field, match: re.Match[str], place: int) -> str:
        if not self._name:
            raise self._refusal("H stands for a time chosen by the schedule's name, and there is none", field, place)
        low, high = field.low, field.high
        if match["low"]:
            low, high = (self._value(field, match[end], place) for end in ("low", "high"))
            if low > high:
                raise self._refusal(
                    f"H({match['low']}-{match['high']}) is no range, it ends before it begins", field, place
                )
        elif field is DAY and not match["step"]:
            high = _HASHED_DAYS
        if not match["step"]:
            return str(low + self._chance(field) % (high - low + 1))
        step = self._step(field, match["step"], place)
        begin = low + self._chance(field) % min(step, high - low + 1)
        return f"{begin}-{high}/{step}" if begin < high else str(begin)

    def _chance(self, field: Field) -> int:
        """A large number that depends on the schedule's name and the field alone, for ever."""
        digest = hashlib.blake2b(f"{self._name}\0{field.name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    def _step(self, field: Field, text: str | None, place: int) -> int:
        if text is None:
            return 1
        step, count = int(text), len(field.values)
        if not 1 <= step <= count:
            unit = {MINUTE.name: "m", HOUR.name: "h", SECOND.name: "s"}.get(field.name)
            hint = f' (for a steady pace write every "{step}{unit}")' if unit and step else ""
            raise self._refusal(f"{field.name} step {step} is not in 1-{count}{hint}", field, place)
        return step

    def _value(self, field: Field, text: str, place: int) -> int:
        if text in field.names:
            return field.low + field.names.index(text)
        if not text.isdigit():
            raise self._refusal(self._not_understood(field, text), field, place)
        value = int(text)
        if field is WEEKDAY and value == 7:
            return 0
        if value not in field.values:
            high = 7 if field is WEEKDAY else field.high
            raise self._refusal(f"{field.name} {value} is not in {field.low}-{high}", field, place)
        return value

    def _not_understood(self, field: Field, item: str) -> str:
        if not item:
            return f"{field.name} has an empty item"
        near = difflib.get_close_matches(item[:3], field.names, n=1) if item.isalpha() else []
        hint = f', did you mean "{near[0]}"?' if near else ""
        return f'{field.name} "{item}" is not understood{hint}'
