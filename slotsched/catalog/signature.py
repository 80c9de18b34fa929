"""The parameters of a job: from the signature of a top-level `main`, or declared under `[tool.slotsched.args]`.

Annotations are read as they are written, through `ast`; the file never runs.
"""

from __future__ import annotations

import ast
import datetime as dt
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from slotsched.catalog.storable import refuse_unstorable
from slotsched.catalog.values import shown, suggestion
from slotsched.errors import InvalidArguments
from slotsched.model import Parameter
from slotsched.model.job import storable_text

_SCALARS = {
    "str": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "Path": "path",
    "path": "path",
    "date": "date",
    "datetime": "datetime",
    "Any": "any",
    "object": "any",
}
_LISTS = ("list", "List", "Sequence", "Iterable")
_DICTS = ("dict", "Dict", "Mapping")
_KNOWN_TYPES = "str int float bool Path date datetime Literal list dict, Optional or | None, Annotated"
_DECLARED_KEYS = ("type", "default", "description", "choices")
MAX_TYPE_CHARACTERS = 1000
MAX_DOCSTRING_CHARACTERS = 4000


class SignatureError(ValueError):
    """Raised when a file's `main` cannot be called with named arguments. line: of the file."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a Python file says about itself. parameters: None without a top-level `main`."""

    docstring: str
    parameters: tuple[Parameter, ...] | None


def read_source(data: bytes) -> Source:
    """The docstring and the parameters of `main`. Raises SignatureError, also where the file is not Python."""
    tree = _parse(data)
    main = _find_main(tree)
    docstring = ast.get_docstring(tree) or (ast.get_docstring(main) if main else None) or ""
    docstring = storable_text(docstring[:MAX_DOCSTRING_CHARACTERS].replace("\0", ""))
    return Source(docstring=docstring, parameters=None if main is None else tuple(_parameters(main, _aliases(tree))))


def _parse(data: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape in a user's string is no news of ours
            return ast.parse(data)
    except SyntaxError as error:
        raise SignatureError(error.lineno or 1, f"not Python: {error.msg}") from None
    except ValueError as error:
        raise SignatureError(1, f"not Python: {error}") from None
    except (RecursionError, MemoryError):
        raise SignatureError(1, "not Python: nested too deeply") from None


def _find_main(tree: ast.Module) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The last definition wins, as when the file runs."""
    found = None
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == "main":
            found = node
    return found


def _aliases(tree: ast.Module) -> dict[str, ast.expr]:
    """Top-level `Size = Literal["s", "m"]`, so that a signature may use the name."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def _parameters(main: ast.FunctionDef | ast.AsyncFunctionDef, aliases: Mapping[str, ast.expr]) -> Iterator[Parameter]:
    spec = main.args
    if spec.vararg or spec.kwarg:
        star = f"*{spec.vararg.arg}" if spec.vararg else f"**{spec.kwarg.arg if spec.kwarg else ''}"
        raise SignatureError(main.lineno, f"main takes {star}, but a job's arguments need names")
    positional = [*spec.posonlyargs, *spec.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
    defaults = [*missing, *spec.defaults, *spec.kw_defaults]
    for argument, default in zip([*positional, *spec.kwonlyargs], defaults, strict=True):
        yield _parameter(argument, default, aliases)


def _parameter(argument: ast.arg, default: ast.expr | None, aliases: Mapping[str, ast.expr]) -> Parameter:
    value = _literal(default)
    if argument.annotation is None:
        shape = Parameter(name=argument.arg, type=_type_of(value))
    else:
        try:
            shape = replace(_annotation(argument.annotation, aliases), name=argument.arg)
        except ValueError as error:
            raise SignatureError(argument.lineno, f"{argument.arg}: {error}") from None
    none_default = isinstance(default, ast.Constant) and default.value is None
    return replace(shape, required=default is None, default=value, nullable=shape.nullable or none_default)


def _type_of(default: Any) -> str:
    """The type an unannotated parameter takes from its default."""
    names = {bool: "bool", int: "int", float: "float", str: "str", list: "list", dict: "dict"}
    return names.get(type(default), "any")


def _literal(node: ast.expr | None) -> Any:
    """The default as a JSON value; None where only running the file could tell."""
    if isinstance(node, ast.Call) and _name(node.func) == "Path" and len(node.args) == 1:
        node = node.args[0]
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    value = _jsonable(value)
    return value if _can_be_stored(value) else None


def _can_be_stored(value: Any) -> bool:
    try:
        refuse_unstorable(value, "default", InvalidArguments)
    except InvalidArguments:
        return False
    return True


def _jsonable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool)) else None


# --- types ------------------------------------------------------------------------------------------


def _annotation(node: ast.expr, aliases: Mapping[str, ast.expr], depth: int = 0) -> Parameter:
    """A nameless parameter of that type. Raises ValueError for a type that arguments cannot have."""
    if depth > 8:
        raise ValueError("its type goes in circles")
    deeper = depth + 1
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _annotation(_expression(node.value), aliases, deeper)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right], aliases, deeper)
    if isinstance(node, ast.Subscript):
        return _subscript(node, aliases, deeper)
    name = _name(node)
    if name in _SCALARS:
        return Parameter(name="", type=_SCALARS[name])
    if name in (*_LISTS, *_DICTS):
        return Parameter(name="", type="list" if name in _LISTS else "dict")
    if isinstance(node, ast.Name) and node.id in aliases:
        return _annotation(aliases[node.id], aliases, deeper)
    raise ValueError(f"an argument cannot be of type {shown(_source(node))} ({_KNOWN_TYPES})")


def _subscript(node: ast.Subscript, aliases: Mapping[str, ast.expr], depth: int) -> Parameter:
    name = _name(node.value)
    inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Optional":
        return _union([*inner, ast.Constant(None)], aliases, depth)
    if name == "Union":
        return _union(inner, aliases, depth)
    if name == "Annotated":
        texts = [item.value for item in inner[1:] if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        return replace(_annotation(inner[0], aliases, depth), description=texts[0] if texts else "")
    if name == "Literal":
        return _choice(inner)
    if name in _LISTS and len(inner) == 1:
        return Parameter(name="", type="list", item=_item(inner[0], aliases, depth))
    if name in _DICTS and len(inner) == 2:
        if _name(inner[0]) != "str":
            raise ValueError("the keys of a dict must be str")
        return Parameter(name="", type="dict", item=_item(inner[1], aliases, depth))
    raise ValueError(f"an argument cannot be of type {shown(_source(node))} ({_KNOWN_TYPES})")


def _union(members: list[ast.expr], aliases: Mapping[str, ast.expr], depth: int) -> Parameter:
    others = [member for member in members if not (isinstance(member, ast.Constant) and member.value is None)]
    if len(others) != 1:
        raise ValueError("an argument has one type, or one type and None")
    nullable = len(others) < len(members)
    inner = _annotation(others[0], aliases, depth)
    return replace(inner, nullable=nullable or inner.nullable)


def _item(node: ast.expr, aliases: Mapping[str, ast.expr], depth: int) -> str | None:
    inner = _annotation(node, aliases, depth)
    if inner.type in ("list", "dict", "choice") or inner.nullable:
        return None  # deeper types are the script's own affair: any JSON value
    return None if inner.type == "any" else inner.type


def _choice(values: list[ast.expr]) -> Parameter:
    choices = [_literal(value) for value in values]
    if not choices or not all(_can_be_chosen(choice) for choice in choices):
        raise ValueError("Literal may hold texts, whole numbers, True and False")
    return Parameter(name="", type="choice", choices=tuple(choices))


def _can_be_chosen(value: Any) -> bool:
    return isinstance(value, (str, int, bool)) and _can_be_stored(value)


def _name(node: ast.expr) -> str:
    """The last part of a dotted name: `pathlib.Path` is `Path`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _source(node: ast.expr) -> str:
    try:
        return ast.unparse(node)
    except (ValueError, RecursionError):
        return type(node).__name__


def _expression(text: str) -> ast.expr:
    if len(text) > MAX_TYPE_CHARACTERS:
        raise ValueError("its type is too long")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{shown(text)} is not a type ({_KNOWN_TYPES})") from None


# --- [tool.slotsched.args] --------------------------------------------------------------------------


def read_declared(table: Any) -> tuple[tuple[Parameter, ...], list[tuple[tuple[str, ...], str]]]:
    """The declared parameters, and what is wrong with them: (path of the key below `args`, message)."""
    if not isinstance(table, dict):
        return (), [((), f"args: {shown(table)} is not a table")]
    parameters: list[Parameter] = []
    problems: list[tuple[tuple[str, ...], str]] = []
    for name, value in table.items():
        try:
            parameters.append(_declared(name, value))
        except ValueError as error:
            problems.append(((name,), f"args.{name}: {error}"))
    return tuple(parameters), problems


def _declared(name: str, value: Any) -> Parameter:
    if not name or "\0" in name or "=" in name:
        raise ValueError("not a name")
    entry = {"type": value} if isinstance(value, str) else value
    if not isinstance(entry, dict):
        raise ValueError(f'{shown(value)} is neither a type nor {{ type = "int", default = 7 }}')
    for key in entry:
        if key not in _DECLARED_KEYS:
            raise ValueError(f'unknown key "{key}"{suggestion(key, _DECLARED_KEYS)}')
    shape = _declared_type(entry)
    description = entry.get("description", "")
    if not isinstance(description, str):
        raise ValueError("the description is not a text")
    return replace(
        shape,
        name=name,
        description=description,
        required="default" not in entry and not shape.nullable,
        default=_jsonable(entry.get("default")),
    )


def _declared_type(entry: Mapping[str, Any]) -> Parameter:
    choices = entry.get("choices")
    if choices is not None:
        if not isinstance(choices, list) or not choices or not all(_can_be_chosen(choice) for choice in choices):
            raise ValueError("choices are a list of texts or whole numbers")
        return Parameter(name="", type="choice", choices=tuple(choices))
    kind = entry.get("type", "str")
    if not isinstance(kind, str):
        raise ValueError(f"{shown(kind)} is not a type ({_KNOWN_TYPES})")
    return _annotation(_expression(kind), {})
