"""Arguments of a task against the parameters of its job: from `key=value` words, or from JSON values.

What comes out is plain JSON: dates and paths stay text until the job's own process turns them into its types.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from slotsched import contract
from slotsched.catalog.storable import refuse_unstorable
from slotsched.catalog.values import nearest, shown
from slotsched.errors import InvalidArguments
from slotsched.model import Parameter

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_WANTED = {
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "path": "a path",
    "date": "a date such as 2026-11-21",
    "datetime": "a date and time such as 2026-11-21T06:30",
    "list": "a list",
    "dict": "a JSON object",
}
_PLACEHOLDERS = {
    "str": "TEXT",
    "int": "INTEGER",
    "float": "NUMBER",
    "bool": "true|false",
    "dict": "JSON",
    "any": "VALUE",
}


class _Unfit(ValueError):
    """A value that is not what its parameter takes; the message is what it should be."""


def read_words(parameters: Sequence[Parameter] | None, words: Iterable[str]) -> dict[str, Any]:
    """The values of `key=value` words, not yet checked as a whole. Raises InvalidArguments for a malformed word."""
    known = {parameter.name: parameter for parameter in parameters or ()}
    given: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise InvalidArguments(f"{shown(word)} is not key=value")
        if name in given:
            raise InvalidArguments(f"{name} is given twice")
        given[name] = text if name not in known else _converted(known[name], text, _from_text)
    return given


def check_arguments(job: str, parameters: Sequence[Parameter] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given values as storable JSON, if they fit; defaults are not filled in. Raises InvalidArguments.

    parameters: None where the job takes anything. Dates and paths may be given as Python's own objects.
    """
    plain = {name: _plain(value) for name, value in given.items()}
    refuse_unstorable(plain, "arguments", InvalidArguments)
    if parameters is None:
        variable_names(plain)
        return plain
    known = {parameter.name: parameter for parameter in parameters}
    for name in plain:
        if name not in known:
            raise InvalidArguments(_unknown(job, name, list(known)))
    checked = {name: _converted(known[name], value, _from_json) for name, value in plain.items()}
    missing = [parameter for parameter in parameters if parameter.required and parameter.name not in plain]
    if missing:
        wanted = " ".join(f"{parameter.name}={placeholder(parameter)}" for parameter in missing)
        raise InvalidArguments(f"{job} needs {wanted}")
    return checked


def placeholder(parameter: Parameter) -> str:
    """How a value of this parameter is written in help: `PATH`, `INTEGER`, `s|m|l`."""
    if parameter.type == "choice":
        return "|".join(str(_text_of(choice)) for choice in parameter.choices)
    return _PLACEHOLDERS.get(parameter.type, parameter.type.upper())


def variable_names(names: Iterable[str]) -> dict[str, str]:
    """The `ARG_<NAME>` of each argument. Raises InvalidArguments where two arguments meet in one variable."""
    variables: dict[str, str] = {}
    for name in names:
        variable = contract.ARG_PREFIX + re.sub(r"[^A-Z0-9_]", "_", name.upper())
        if variable in variables:
            raise InvalidArguments(f'arguments "{variables[variable]}" and "{name}" would both be {variable}')
        variables[variable] = name
    return {name: variable for variable, name in variables.items()}


def _unknown(job: str, name: str, known: list[str]) -> str:
    near = nearest(name, known)
    hint = f' Did you mean "{near}"?' if near else ""
    return f"{job} has no argument {shown(name)} ({', '.join(known) or 'it takes none'}).{hint}"


def _plain(value: Any) -> Any:
    """Python's own paths, dates and tuples as JSON has them."""
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)) and len(value) < contract.VALUE_BYTES:
        return [item if isinstance(item, (list, tuple, dict)) else _plain(item) for item in value]
    return value


def _converted(parameter: Parameter, value: Any, convert: Callable[[Parameter, Any], Any]) -> Any:
    try:
        return convert(parameter, value)
    except _Unfit as error:
        raise InvalidArguments(f"{parameter.name}: {error}") from None


# --- words ------------------------------------------------------------------------------------------


def _from_text(parameter: Parameter, text: str) -> Any:
    kind = parameter.type
    if parameter.nullable and text == "null" and kind not in ("str", "any"):
        return None
    if kind == "choice":
        return next((choice for choice in parameter.choices if _text_of(choice) == text), text)
    if kind == "list":
        return _list_from_text(parameter, text)
    if kind == "dict":
        return _json(text, f"{shown(text)} is not {_WANTED['dict']}")
    return _scalar_from_text(kind, text)


def _scalar_from_text(kind: str | None, text: str) -> Any:
    """The JSON value of a word; a word that does not fit stays text, and the check of values refuses it."""
    if kind == "int" and _WHOLE.fullmatch(text.strip()):
        return int(text)
    if kind == "float":
        return _float_from_text(text)
    if kind == "bool" and text.lower() in (*_TRUE, *_FALSE):
        return text.lower() in _TRUE
    return text


def _float_from_text(text: str) -> float | int | str:
    if _WHOLE.fullmatch(text.strip()):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _list_from_text(parameter: Parameter, text: str) -> Any:
    """`[1, 2]` is JSON, `a,b,c` is a list of words, an empty text an empty list."""
    if text.lstrip().startswith("["):
        return _json(text, f"{shown(text)} is not a JSON array")
    if not text:
        return []
    return [_scalar_from_text(parameter.item, item) for item in text.split(",")]


def _json(text: str, complaint: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _Unfit(complaint) from None


def _text_of(choice: Any) -> str:
    return json.dumps(choice) if isinstance(choice, bool) else str(choice)


# --- values -----------------------------------------------------------------------------------------


def _from_json(parameter: Parameter, value: Any) -> Any:
    if value is None:
        if parameter.nullable or parameter.type == "any":
            return None
        raise _Unfit(f"null is not {_WANTED.get(parameter.type, 'one of the choices')}")
    if parameter.type == "choice":
        return _choice(parameter, value)
    if parameter.type == "list":
        if not isinstance(value, list):
            raise _Unfit(f"{shown(value)} is not {_WANTED['list']}")
        return [_scalar(parameter.item, item) for item in value]
    if parameter.type == "dict":
        if not isinstance(value, dict):
            raise _Unfit(f"{shown(value)} is not {_WANTED['dict']}")
        return {key: _scalar(parameter.item, item) for key, item in value.items()}
    return _scalar(parameter.type, value)


def _choice(parameter: Parameter, value: Any) -> Any:
    for choice in parameter.choices:
        if type(choice) is type(value) and choice == value:
            return choice
    allowed = [_text_of(choice) for choice in parameter.choices]
    near = nearest(value, allowed) if isinstance(value, str) else None
    hint = f'. Did you mean "{near}"?' if near else ""
    raise _Unfit(f"{shown(value)} is not one of {', '.join(allowed)}{hint}")


def _scalar(kind: str | None, value: Any) -> Any:
    """The value of one type; None and `any` take everything. Dates come out as Python writes them."""
    if kind is None or kind == "any":
        return value
    fits = isinstance(value, _JSON_TYPES[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not fits or (kind == "path" and not value):
        raise _Unfit(f"{shown(value)} is not {_WANTED[kind]}")
    try:
        return _NORMAL[kind](value) if kind in _NORMAL else value
    except ValueError:
        raise _Unfit(f"{shown(value)} is not {_WANTED[kind]}") from None


_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "path": str,
    "date": str,
    "datetime": str,
}
_NORMAL: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "date": lambda text: dt.date.fromisoformat(text).isoformat(),
    "datetime": lambda text: dt.datetime.fromisoformat(text).isoformat(),
}
