"""Careful reading of documents that anybody may have written: every field is checked before it is believed."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

from slotsched.model.limits import LARGEST_COUNT, LARGEST_SECONDS


class Unreadable(Exception):
    """Raised when a stored document is not what its field says; the message names the field and the value."""


class Reader:
    """Typed access to one (sub)document; `where` is its path, for messages."""

    def __init__(self, document: Any, where: str = "") -> None:
        if not isinstance(document, Mapping):
            raise Unreadable(f"{where or 'document'}: {shorten(document)} is not an object")
        self._document = document
        self._where = where

    def has(self, name: str) -> bool:
        return self._document.get(name) is not None

    def text(self, name: str) -> str:
        value = self._document.get(name)
        if not isinstance(value, str):
            raise self._bad(name, "not a text")
        return value

    def maybe_text(self, name: str) -> str | None:
        return self.text(name) if self.has(name) else None

    def count(self, name: str, *, least: int = 0, largest: int = LARGEST_COUNT) -> int:
        """A whole number; one that a shell stored as a double counts too."""
        value = self.number(name)
        if value != int(value) or not least <= value <= largest:
            raise self._bad(name, f"not a whole number from {least} to {largest}")
        return int(value)

    def maybe_count(self, name: str, *, least: int = 0, largest: int = LARGEST_COUNT) -> int | None:
        return self.count(name, least=least, largest=largest) if self.has(name) else None

    def number(self, name: str) -> float:
        value = self._document.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._bad(name, "not a finite number")
        return value

    def maybe_number(self, name: str) -> float | None:
        return self.number(name) if self.has(name) else None

    def seconds(self, name: str) -> float:
        """A duration, 0 and up."""
        value = self.number(name)
        if not 0 <= value <= LARGEST_SECONDS:
            raise self._bad(name, f"not a duration from 0 to {LARGEST_SECONDS:.0e} s")
        return value

    def maybe_seconds(self, name: str) -> float | None:
        """A duration of more than 0."""
        if not self.has(name):
            return None
        if self.seconds(name) == 0:
            raise self._bad(name, "no duration")
        return self.seconds(name)

    def flag(self, name: str) -> bool:
        value = self._document.get(name, False)
        if not isinstance(value, bool):
            raise self._bad(name, "neither true nor false")
        return value

    def date(self, name: str) -> dt.datetime:
        value = self._document.get(name)
        if not isinstance(value, dt.datetime):
            raise self._bad(name, "not a date between the years 1 and 9999")
        return value

    def maybe_date(self, name: str) -> dt.datetime | None:
        return self.date(name) if self.has(name) else None

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._document.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._bad(name, "not a list of texts")
        return tuple(value)

    def counts(self, name: str, *, least: int = 1) -> dict[str, int]:
        """A map of names to whole numbers; missing is empty."""
        if not self.has(name):
            return {}
        units = self.inner(name)
        return {key: units.count(key, least=least) for key in units.names()}

    def names(self) -> list[str]:
        return list(self._document)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._document.get(name)
        if not isinstance(value, Mapping):
            raise self._bad(name, "not an object")
        return value

    def items(self, name: str) -> list[Reader]:
        """The objects of a list; missing is empty."""
        value = self._document.get(name, [])
        if not isinstance(value, list):
            raise self._bad(name, "not a list")
        return [Reader(item, f"{self._where}{name}[{index}].") for index, item in enumerate(value)]

    def inner(self, name: str) -> Reader:
        return Reader(self._document.get(name), f"{self._where}{name}.")

    def _bad(self, name: str, why: str) -> Unreadable:
        value = shorten(self._document[name]) if name in self._document else "missing"
        return Unreadable(
            f"{self._where}{name}: {value} is {why}" if value != "missing" else f"{self._where}{name}: missing"
        )


def shorten(value: Any) -> str:
    """A value for a message: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
