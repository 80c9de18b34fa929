"""Words to values without pydantic, which typer would load (85 ms) for every command that has an option.

typer decides lazily, per parameter, how a word becomes a value; the plain types used here are decided before it asks.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer._coercion import RuntimeParam  # no public name; typer's version is bounded in pyproject
from typer.core import TyperArgument, TyperOption

if TYPE_CHECKING:
    from typer._click.core import Context, Parameter
    from typer.core import _TyperParameter

_WANTED = {int: "a whole number", float: "a number"}


class PlainParam(RuntimeParam):
    """Texts, numbers, paths, choices, and lists of them."""

    def _coerce_value(self, value: Any, param: _TyperParameter, ctx: Context) -> Any:
        try:
            if self.annotation == list[str]:
                return [str(item) for item in value]
            return self._convert(value)
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from None

    def _convert(self, value: Any) -> Any:
        kind = self.annotation
        if isinstance(value, kind):
            return value
        if issubclass(kind, Enum):
            return _member(kind, value)
        if kind in _WANTED:
            number = _number(kind, value)
            least = self.parameter_info.min
            if least is not None and number < least:
                raise ValueError(f"{value} is less than {least:g}")
            if kind is int:
                from slotsched.model.limits import LARGEST_COUNT  # only where somebody gave a number

                if number > LARGEST_COUNT:
                    raise ValueError(f"{value} is more than {LARGEST_COUNT}")
            return number
        return kind(value)


def coerced_plainly(parameters: list[Parameter]) -> list[Parameter]:
    """The same parameters, those of a plain type decided; others are left to typer."""
    for parameter in parameters:
        if isinstance(parameter, (TyperOption, TyperArgument)):
            kind = parameter.type_descriptor.annotation
            if kind == list[str] or (isinstance(kind, type) and issubclass(kind, (str, int, float, Path, Enum))):
                info = parameter.type_descriptor.parameter_info
                parameter._runtime_param = PlainParam(annotation=kind, parameter_info=info)
    return parameters


def _member(kind: type[Enum], value: Any) -> Enum:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f'"{value}" is none of {", ".join(str(member.value) for member in kind)}') from None


def _number(kind: type[int] | type[float], value: Any) -> int | float:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f'"{value}" is not {_WANTED[kind]}') from None
