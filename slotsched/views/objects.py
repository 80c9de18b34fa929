"""Objects for programs as JSON, whatever a document holds that somebody wrote behind slotsched's back."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(value: Any, *, ensure_ascii: bool = True, indent: int | None = None) -> str:
    """JSON that every parser takes: numbers that it lacks are null, values of a type that it lacks their text."""

    def dumped(shown: Any) -> str:
        return json.dumps(shown, allow_nan=False, default=str, ensure_ascii=ensure_ascii, indent=indent)

    try:
        return dumped(value)
    except ValueError:
        return dumped(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
