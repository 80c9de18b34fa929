"""Who is told how a task ended: a command or a web address, for the kinds of ends that were asked for."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from typing import Any

NOTIFY_ON = ("failure", "success", "canceled")
_KEYS = ("command", "url", "on")
_WANTED = 'a web address, or a table such as { command = ["mail", "-s", "failed", "ann"], on = ["failure"] }'


def read_notify(value: Any) -> dict[str, Any]:
    """`{"command": [...], "on": [...]}` or `{"url": ..., "on": [...]}`: plain values, checked. ValueError otherwise.

    A text is the address; `on` is `failure` unless it says otherwise.
    """
    table = {"url": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise ValueError(f"{value!r:.60} is not {_WANTED}")
    for key in table:
        if key not in _KEYS:
            raise ValueError(f'unknown key "{key}" ({", ".join(_KEYS)})')
    if ("command" in table) == ("url" in table):
        raise ValueError("either command or url must say whom to tell")
    target = {"command": _command(table["command"])} if "command" in table else {"url": _address(table["url"])}
    return {**target, "on": _ends(table.get("on", ["failure"]))}


def _command(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(word, str) for word in value):
        raise ValueError("command: must be a list of texts, the program first")
    if not value[0] or any("\0" in word for word in value):
        raise ValueError("command: names no program")
    return list(value)


def _address(value: Any) -> str:
    try:
        parts = urllib.parse.urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except (ValueError, TypeError, AttributeError):
        usable = False
    if not usable or any(ord(character) <= 32 for character in value):
        raise ValueError(f"{value!r:.60} is no address that begins with https:// or http://")
    return str(value)


def _ends(value: Any) -> list[str]:
    ends = [value] if isinstance(value, str) else value
    if not isinstance(ends, (list, tuple)) or not ends:
        raise ValueError(f"on: must be a list of {', '.join(NOTIFY_ON)}")
    for end in ends:
        if end not in NOTIFY_ON:
            raise ValueError(f"on: {end!r:.40} is none of {', '.join(NOTIFY_ON)}")
    return list(dict.fromkeys(ends))
