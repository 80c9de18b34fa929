"""What MongoDB can hold of a user's value, checked before it is sent: its own errors come late and differ by case."""

from __future__ import annotations

import json
import math
from typing import Any

from slotsched import contract
from slotsched.catalog.values import shown
from slotsched.errors import SlotschedError

MAX_DEPTH = 50  # BSON allows 100 levels for a whole document


def refuse_unstorable(value: Any, what: str, error: type[SlotschedError]) -> None:
    """Raise `error` with one clear sentence unless the value can be stored as data and read back the same.

    Text without NUL and lone surrogates, whole numbers of 64 bits, finite numbers, JSON types, at most
    VALUE_BYTES as JSON. Keys such as `$where` or `a.b` are data like any other.
    """
    stack: list[tuple[Any, str, int]] = [(value, "", 0)]
    size = 0
    while stack:
        item, where, depth = stack.pop()
        size += _least_bytes(item)
        if size > contract.VALUE_BYTES:
            break  # the exact size is worth knowing only when everything else is cheap to look at
        complaint = _complaint(item, depth)
        if complaint:
            raise error(f"{where or what}: {complaint}")
        if isinstance(item, dict):
            stack += ((key, _inside(where, shown(key)), depth + 1) for key in item)
            stack += ((inner, _inside(where, str(key)), depth + 1) for key, inner in item.items())
        elif isinstance(item, list):
            stack += ((inner, f"{where}[{number}]", depth + 1) for number, inner in enumerate(item))
    else:
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    if size > contract.VALUE_BYTES:
        raise error(f"{what}: more than 1 MiB as JSON; put the data into a file and give its path")


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _least_bytes(item: Any) -> int:
    if isinstance(item, str):
        return len(item)
    return len(item) if isinstance(item, (list, dict)) else 1


def _complaint(item: Any, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    if item is None or isinstance(item, bool):
        return None
    if isinstance(item, str):
        return _text_complaint(item)
    if isinstance(item, int):
        return None if -(2**63) <= item < 2**63 else "a whole number of more than 64 bits; give it as text"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"{item} is not a finite number"
    if isinstance(item, dict):
        bad = next((key for key in item if not isinstance(key, str)), None)
        return None if bad is None else f"the key {shown(bad)} is not a text"
    return None if isinstance(item, list) else f"a {type(item).__name__} is not JSON"


def _text_complaint(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL character, which cannot be stored"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "holds half a surrogate pair, which cannot be stored"
    return None
