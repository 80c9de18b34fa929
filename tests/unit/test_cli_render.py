"""Tables for people and for pipes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import bson
import pytest

from slotsched.cli.config import without_password
from slotsched.cli.render import Column, Output, as_json, pairs, show_object, show_rows, table

Pair = tuple[str, str]
COLUMNS = [
    Column[Pair](title="ID", cell=lambda row: row[0]),
    Column[Pair](title="EMPTY", cell=lambda row: "-"),
    Column[Pair](title="N", cell=lambda row: str(len(row[1])), right=True),
    Column[Pair](title="WHY", cell=lambda row: row[1], flexible=True, color=lambda row: "red"),
    Column[Pair](title="MORE", cell=lambda row: "more", wide=True),
]
ROWS = [("8c1d2e3f", "no instance has 8 free slots (most free: 4 on big-1)"), ("8c1d2e4a", "")]


def lines(*, wide: bool = False, limit: int | None = None, color: bool = False) -> list[str]:
    return list(table(ROWS, COLUMNS, wide=wide, limit=limit, color=color))


def test_a_pipe_gets_every_cell_whole_in_aligned_columns() -> None:
    assert lines() == [
        "ID        EMPTY   N  WHY",
        "8c1d2e3f  -      52  no instance has 8 free slots (most free: 4 on big-1)",
        "8c1d2e4a  -       0  -",
    ]


def test_a_narrow_terminal_loses_empty_columns_before_anything_is_cut() -> None:
    assert lines(limit=66)[1] == "8c1d2e3f  52  no instance has 8 free slots (most free: 4 on big-1)"
    assert lines(limit=40)[1] == "8c1d2e3f  52  no instance has 8 free sl…"


def test_no_line_is_wider_than_the_terminal() -> None:
    assert all(len(line) <= 40 for line in lines(limit=40))


def test_wide_shows_more_columns_and_cuts_nothing() -> None:
    assert lines(wide=True, limit=40)[1].endswith("(most free: 4 on big-1)  more")


def test_colour_is_only_where_asked_for() -> None:
    assert "\x1b[31m" in lines(color=True)[1]
    assert "\x1b" not in "".join(lines())


@pytest.mark.parametrize(
    ("output", "printed"),
    [
        (Output.ID, "8c1d2e3f\n8c1d2e4a\n"),
        (Output.JSONL, '{"id": "8c1d2e3f"}\n{"id": "8c1d2e4a"}\n'),
    ],
)
def test_programs_get_one_row_a_line(output: Output, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(ROWS, COLUMNS, output, to_object=lambda row: {"id": row[0]}, to_id=lambda row: row[0])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("rows", [[], [{}], [{"a": ["x\u2028y\n\x85z", {"b": 1}]}, {"c": []}, [1]]])
def test_json_is_one_array_also_of_nothing(rows: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(rows, COLUMNS, Output.JSON, to_object=lambda row: row, to_id=str)
    out = capsys.readouterr().out
    assert json.loads(out) == rows
    assert out == f"{as_json(rows, indent=2)}\n"


@pytest.mark.parametrize("output", [Output.JSON, Output.JSONL])
def test_json_is_json_whatever_a_document_holds(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    odd, shown = {"n": math.nan, "b": b"\xff", "d": bson.Decimal128("1.5")}, {"n": None, "b": "b'\\xff'", "d": "1.5"}
    show_object(odd, output, identity="", lines=list)
    assert json.loads(capsys.readouterr().out) == shown
    show_rows([odd], (), output, to_object=lambda row: row, to_id=str)
    assert json.loads(capsys.readouterr().out) == ([shown] if output is Output.JSON else shown)


@pytest.mark.parametrize("output", [Output.ID, Output.JSONL, Output.JSON])
def test_rows_are_printed_as_they_come(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    def rows() -> Iterator[str]:
        yield "a"
        yield "b"
        assert "a" in capsys.readouterr().out
        yield "c"

    show_rows(rows(), (), output, to_object=str, to_id=str)
    assert "a" not in capsys.readouterr().out


def test_facts_without_a_value_are_left_out() -> None:
    assert list(pairs([("Id", "1"), ("Gone", ""), ("Arguments", "a=1\nb=2")])) == [
        "Id:         1",
        "Arguments:  a=1",
        "            b=2",
    ]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://ann:se@cret@h1,h2/db", "mongodb://ann:***@h1,h2/db"),
        ("mongodb://ann@h/db", "mongodb://ann@h/db"),
        ("mongodb://h:27017", "mongodb://h:27017"),
    ],
)
def test_a_password_is_never_shown(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
