"""JSON of what a damaged document may hold."""

from __future__ import annotations

import datetime as dt
import json
import math

import bson
import pytest

from slotsched.views.objects import strict_json


def test_what_json_has_is_shown_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert json.loads(strict_json(value)) == value
    assert strict_json({"a": "ü"}) == '{"a": "\\u00fc"}'
    assert strict_json({"a": "ü"}, ensure_ascii=False, indent=1) == '{\n "a": "ü"\n}'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_null(number: float) -> None:
    assert json.loads(strict_json({"a": [number, {"b": number}], "c": 1})) == {"a": [None, {"b": None}], "c": 1}


@pytest.mark.parametrize(
    "value", [bson.ObjectId(), bson.Decimal128("1.5"), b"\xff", bson.Timestamp(1, 2), bson.Regex("x"), dt.date.max]
)
def test_types_that_json_lacks_are_their_text(value: object) -> None:
    assert json.loads(strict_json({"a": value, "b": math.nan})) == {"a": str(value), "b": None}
