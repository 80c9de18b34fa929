"""The part of a log that a page shows: its last rows, those before a line, those that match, pieces joined."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.loglines import Filter, compile_pattern
from slotsched.web.loglook import MOST_BYTES, MOST_CHARACTERS, MOST_ROWS, SEARCH_SECONDS, Look, look

MS = 1_772_582_945_000


def line(msg: str = "out", **fields: Any) -> bytes:
    return json.dumps({"level": 30, "time": MS, "stream": "stdout", "msg": msg} | fields).encode() + b"\n"


def piece(msg: str, **fields: Any) -> bytes:
    """A piece of a long line that goes on."""
    return line(msg, part=True, **fields)


def numbered(count: int) -> Iterator[bytes]:
    return (line(f"out {number}") for number in range(1, count + 1))


def numbers(found: Look) -> list[int]:
    return [row.number for row in found.rows]


def texts(found: Look) -> list[str]:
    return [row.text for row in found.rows]


def grep(pattern: str, level: int = 0) -> Filter:
    return Filter(min_level=level, pattern=compile_pattern(pattern))


# --- which lines ------------------------------------------------------------------------------------
def test_an_empty_log_has_no_rows() -> None:
    assert look([]) == Look()


def test_a_row_has_its_lines_number_time_level_stream_and_text() -> None:
    [one, other] = look([line("a", n=1), line("b", level=40, stream="stderr", time=None)]).rows
    assert (one.number, one.at, one.level, one.stream, one.text) == (1, MS, "info", "stdout", "a  n=1")
    assert (other.number, other.at, other.level, other.stream, other.text) == (2, None, "warn", "stderr", "b")


@pytest.mark.parametrize("count", [1, MOST_ROWS - 1, MOST_ROWS])
def test_a_log_that_fits_is_shown_whole(count: int) -> None:
    found = look(numbered(count))
    assert numbers(found) == list(range(1, count + 1))
    assert (found.earlier, found.stopped_at) == (False, None)


def test_of_a_longer_one_the_last_rows_are_shown() -> None:
    count = MOST_ROWS + 1
    found = look(numbered(count))
    assert (numbers(found)[0], numbers(found)[-1], len(found.rows)) == (2, count, MOST_ROWS)
    assert found.earlier


def test_going_back_page_by_page_shows_every_line_once() -> None:
    count = 2 * MOST_ROWS + 7
    seen: list[int] = []
    found = look(numbered(count))
    while True:
        seen = numbers(found) + seen
        if not found.earlier:
            break
        found = look(numbered(count), before=found.rows[0].number)
    assert seen == list(range(1, count + 1))


def test_the_rows_of_a_page_are_bounded_together_and_the_pages_hold_every_line_once() -> None:
    """2,000 rows of 64 Ki characters would be 128 MiB, and several times that while a page is made of them."""
    log = [line("x" * (MOST_CHARACTERS - number)) for number in range(200)]
    assert sum(map(len, log)) > 5 * MOST_BYTES
    pages = [look(log)]
    while pages[-1].earlier:
        pages.append(look(log, before=pages[-1].rows[0].number))
    assert max(sum(map(len, texts(page))) for page in pages) <= MOST_BYTES
    assert [number for page in reversed(pages) for number in numbers(page)] == list(range(1, len(log) + 1))


def test_a_line_that_is_larger_than_a_page_may_be_is_shown_alone() -> None:
    large = line("x", n="y" * MOST_BYTES)
    found = look([line("a"), large, line("b")], before=3)
    assert (numbers(found), found.earlier) == ([2], True)
    assert numbers(look([line("a"), large, line("b")])) == [3]


@pytest.mark.parametrize(("before", "last"), [(1, None), (2, 1), (5, 4), (6, 5), (10**12, 5)])
def test_the_rows_before_a_line_end_there(before: int, last: int | None) -> None:
    found = look(numbered(5), before=before)
    assert numbers(found) == list(range(1, (last or 0) + 1))


def test_what_is_behind_the_line_asked_for_is_not_read() -> None:
    def endless() -> Iterator[bytes]:
        for number in itertools.count(1):
            assert number <= 3
            yield line()

    assert numbers(look(endless(), before=3)) == [1, 2]


# --- choosing ---------------------------------------------------------------------------------------
def test_lines_that_match_keep_their_numbers() -> None:
    log = [line("a"), line("bee", level=50), line("bee"), line("c", level=50)]
    assert numbers(look(log, grep("b"))) == [2, 3]
    assert numbers(look(log, Filter(min_level=40))) == [2, 4]
    assert numbers(look(log, grep("b", 40))) == [2]
    assert numbers(look(log, grep("b"), before=3)) == [2]
    assert look(log, grep("z")) == Look()


def test_earlier_rows_are_earlier_matches() -> None:
    log = [line("yes" if number % 2 else "no") for number in range(2 * MOST_ROWS)]
    found = look(log, grep("yes"))
    assert (len(found.rows), found.earlier) == (MOST_ROWS, False)
    found = look([*log, line("yes")], grep("yes"))
    assert (len(found.rows), found.earlier) == (MOST_ROWS, True)
    assert numbers(look(log, grep("yes"), before=found.rows[0].number)) == [2]


def ticking(seconds: float) -> Callable[[], float]:
    """A clock on which that much passes whenever somebody looks."""
    ticks = itertools.count()
    return lambda: next(ticks) * seconds


def test_a_search_that_takes_too_long_gives_up_and_says_where() -> None:
    found = look(numbered(1000), grep("out"), clock=ticking(SEARCH_SECONDS / 100))
    assert found.stopped_at == 101
    assert numbers(found) == list(range(1, 101))
    assert look(numbered(1000), grep("nothing"), clock=ticking(SEARCH_SECONDS / 100)).rows == []


def test_a_search_in_time_goes_to_the_end() -> None:
    found = look(numbered(90), grep("out"), clock=ticking(SEARCH_SECONDS / 100))
    assert (len(found.rows), found.stopped_at) == (90, None)


def test_reading_without_a_search_has_all_the_time_it_takes() -> None:
    found = look(numbered(50), clock=ticking(SEARCH_SECONDS))
    assert (len(found.rows), found.stopped_at) == (50, None)


# --- pieces of long lines ---------------------------------------------------------------------------
def test_the_pieces_of_a_long_line_are_one_row_by_the_first_ones_number() -> None:
    found = look([line("a"), piece("b1 "), piece("b2 "), line("b3"), line("c")])
    assert [(row.number, row.text) for row in found.rows] == [(1, "a"), (2, "b1 b2 b3"), (5, "c")]


def test_a_line_of_another_stream_breaks_a_long_one() -> None:
    log = [piece("a1"), line("err", stream="stderr"), line("a2"), line("b")]
    assert texts(look(log)) == ["a1", "err", "a2", "b"]


def test_a_piece_whose_beginning_is_on_an_earlier_page_stands_alone() -> None:
    log = [piece("first"), *(line(str(number)) for number in range(MOST_ROWS))]
    found = look(log)
    assert found.rows[0].text == "0"
    assert found.earlier


def test_matching_pieces_are_joined_only_where_they_adjoin() -> None:
    """Not with the next line that matches, where the piece between them does not."""
    log = [piece("x1"), line("y"), line("x2"), piece("x3"), line("x4")]
    assert texts(look(log, grep("x"))) == ["x1", "x2", "x3x4"]


def test_a_line_of_pieces_without_end_is_one_short_row() -> None:
    found = look([piece("x" * 20_000) for _ in range(50)])
    [row] = found.rows
    assert len(row.text) == MOST_CHARACTERS
    assert row.text.endswith("x…")
    assert row.text.count("…") == 1


@pytest.mark.parametrize(
    ("length", "cut"), [(MOST_CHARACTERS - 1, False), (MOST_CHARACTERS, False), (MOST_CHARACTERS + 1, True)]
)
def test_a_text_is_cut_where_it_is_longer_than_a_row_may_be(length: int, cut: bool) -> None:
    [row] = look([line("x" * length)]).rows
    assert len(row.text) == min(length, MOST_CHARACTERS)
    assert row.text.endswith("…") == cut


# --- damage -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b'{"level":30,"msg":"to\n', '{"level":30,"msg":"to'),
        (b"\n", ""),
        (b"", ""),
        (b"\0\0\0\n", ""),
        (b'\0\0{"level":30,"msg":"a"}\n', '{"level":30,"msg":"a"}'),
        (b"\xff\xfe\n", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"[1,2]\n", "[1,2]"),
        (b'"text"\n', '"text"'),
        (b"[" * 100_000 + b"\n", "[" * (MOST_CHARACTERS - 1) + "…"),
        (b"9" * 5000 + b"\n", "9" * 5000),
        (b"\x1b[31mred\x1b]8;;http://x\x07\xe2\x80\xae\n", "red"),
    ],
    ids=["torn", "empty", "nothing", "NUL", "a hole", "no UTF-8", "a list", "a text", "deep", "a number", "sequences"],
)
def test_a_line_that_is_no_object_is_its_own_text(text: bytes, shown: str) -> None:
    found = look([line("before"), text, line("behind")])
    assert texts(found) == ["before", shown, "behind"]
    assert found.rows[1].stream == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"level": None},
        {"level": -5},
        {"level": 10**30},
        {"level": 1.5},
        {"level": True},
        {"time": "now"},
        {"time": float("nan")},
        {"time": float("inf")},
        {"time": 10**30},
        {"msg": None},
        {"msg": {"a": [1]}},
        {"stream": 7},
        {"part": "yes"},
        {"bytes": 5},
        {"bytes": "!"},
        {"err": "boom"},
        {"err": {"stack": 7}},
        {"msg": "\ud800"},
        {"msg": "\0"},
    ],
    ids=repr,
)
def test_fields_of_wrong_types_are_a_row_all_the_same(fields: dict[str, Any]) -> None:
    found = look([line(**fields), line("behind")])
    assert len(found.rows) == 2
    assert found.rows[1].text == "behind"


def test_a_torn_piece_joins_nothing() -> None:
    torn = b'{"level":30,"part":true,"msg":"torn'
    assert len(look([torn, torn, b'{"truncated":1,"part":true,"msg":"m"}\n', torn]).rows) == 4


@given(st.lists(st.binary(max_size=40) | st.sampled_from([piece("p"), line("l"), line("e", stream="stderr")])))
def test_whatever_is_in_a_log_has_rows_in_order_that_hold_no_control_characters(log: list[bytes]) -> None:
    found = look(log)
    assert numbers(found) == sorted(set(numbers(found)))
    assert all(character >= " " or character in "\t\n" for row in found.rows for character in row.text)
