"""Log lines: what a terminal shows of them, which are chosen, and that the printed bytes come back exactly."""

from __future__ import annotations

import datetime as dt
import json
import re
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched import loglines
from slotsched.errors import UsageError
from slotsched.loglines import Filter, Line, Renderer, compile_pattern, parse, plain, raw, render
from slotsched.process.capture import PIECE_BYTES, Stream

MS = 1_772_582_945_000  # 2026-03-04 00:09:05 UTC


def line(**fields: Any) -> bytes:
    return json.dumps({"level": 30, "time": MS, "msg": "shrunk"} | fields, separators=(",", ":")).encode() + b"\n"


def shown(text: bytes, **options: Any) -> str:
    return render(parse(text), zone=dt.UTC, **options)


# --- rendering --------------------------------------------------------------------------------------


def test_a_line_shows_time_level_message_and_fields() -> None:
    assert shown(line(file="0.png")) == "00:09:05 INFO  shrunk  file=0.png"
    assert shown(line(level=40, stream="stderr")) == "00:09:05 WARN  shrunk"


def test_the_time_is_shown_in_the_zone_asked_for() -> None:
    assert render(parse(line()), zone=zoneinfo.ZoneInfo("Asia/Kolkata")).startswith("05:39:05 ")


def test_values_with_blanks_are_quoted_and_structures_are_json() -> None:
    text = shown(line(a="x y", b={"c": [1, None]}, d="", e='"', f=1.5))
    assert text == '00:09:05 INFO  shrunk  a="x y" b={"c":[1,null]} d="" e="\\"" f=1.5'


def test_where_a_logger_ran_is_not_shown() -> None:
    assert shown(line(pid=1, hostname="h", name="n", v=1)) == "00:09:05 INFO  shrunk"


def test_a_field_of_the_scripts_own_is_shown_even_if_loggers_use_its_name() -> None:
    assert shown(line(name="ann", pid=7)) == "00:09:05 INFO  shrunk  name=ann pid=7"


def test_a_stack_follows_indented() -> None:
    err = {"type": "ValueError", "message": "no", "stack": "Traceback:\n  File x\nValueError: no"}
    assert shown(line(level=50, err=err)).split("\n") == [
        "00:09:05 ERROR shrunk",
        "    Traceback:",
        "      File x",
        "    ValueError: no",
    ]


def test_colour_is_there_only_when_asked_for() -> None:
    assert "\x1b" not in shown(line())
    assert shown(line(), color=True) == "00:09:05 \x1b[32mINFO \x1b[0m shrunk"


@pytest.mark.parametrize(("level", "name"), [(5, "TRACE"), (10, "TRACE"), (35, "INFO"), (60, "FATAL"), (99, "FATAL")])
def test_levels_between_have_the_next_lower_name(level: int, name: str) -> None:
    assert shown(line(level=level)).split()[1] == name


def test_level_names_are_read_in_any_case_and_unknown_ones_listed() -> None:
    assert [loglines.level_number(name) for name in ("warn", "WARNING", "error", "35")] == [40, 40, 50, 35]
    with pytest.raises(ValueError, match="trace, debug, info, warn, error, fatal"):
        loglines.level_number("loud")


@pytest.mark.parametrize(
    "text", [b"not json\n", b'{"level":30,"tim', b"[1]\n", b"\xff\xfe\n", b"[" * 100_000, b"\n", b"7\n"]
)
def test_a_torn_line_is_shown_as_it_stands(text: bytes) -> None:
    assert shown(text).startswith("--:--:-- INFO  ")


@pytest.mark.parametrize(
    "fields", [{"time": 1e300}, {"time": "x"}, {"time": -1e18}, {"level": "x"}, {"msg": 3}, {"msg": None}]
)
def test_odd_values_do_not_stop_the_reader(fields: dict[str, Any]) -> None:
    assert "INFO" in shown(line(**fields))


# --- control sequences ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil/\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1b]0;title\x07x", "x"),
        ("\x9b31mred", "red"),
        ("\x9d0;title\x9cx", "x"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b(Bx\x1bc", "x"),
        ("a\x1b", "a"),
        ("a\x1b]0;never ended", "a0;never ended"),
        ("a\x00\x08\x7fb", "ab"),
        ("50%\r60%\r\nx", "50% 60%\nx"),
        ("a\u202eb\u2066c", "abc"),
        ("a\u2028b", "a b"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("grüße 日本 🚀", "grüße 日本 🚀"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(text: str, expected: str) -> None:
    assert plain(text) == expected


@given(st.text(st.characters(min_codepoint=0, max_codepoint=0x2070), max_size=60))
def test_no_control_character_but_tab_and_newline_is_left(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", plain(text))


@given(
    st.text(max_size=40), st.text(max_size=20), st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3)
)
def test_a_rendered_line_holds_no_controls_whatever_its_fields(msg: str, err: str, fields: dict[str, str]) -> None:
    text = shown(line(**(fields | {"msg": msg, "level": 50, "err": {"stack": err, "type": "\x1b", "message": "\x9b"}})))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_message_cannot_forge_a_line_of_its_own() -> None:
    assert shown(line(msg="a\n00:09:06 INFO  fake")).split("\n")[1] == "    00:09:06 INFO  fake"
    assert "\n" not in shown(line(**{"k\ney": "v"})).replace("\n    ", "")


# --- long lines -------------------------------------------------------------------------------------


def test_pieces_of_a_long_line_are_joined_and_broken_by_another_stream() -> None:
    renderer = Renderer(zone=dt.UTC)
    out = "".join(
        renderer.feed(parse(text))
        for text in (
            line(msg="a", stream="stdout", part=True),
            line(msg="b", stream="stdout", part=True),
            line(msg="!", stream="stderr"),
            line(msg="c", stream="stdout", part=True),
        )
    )
    assert out + renderer.end() == "00:09:05 INFO  ab\n00:09:05 INFO  !\n00:09:05 INFO  c\n"
    assert renderer.end() == ""


# --- choosing ---------------------------------------------------------------------------------------


def test_the_level_filter_keeps_that_level_and_above() -> None:
    assert [Filter(min_level=40).accepts(parse(line(level=level))) for level in (30, 40, 50)] == [False, True, True]


def test_a_pattern_is_searched_in_what_is_shown() -> None:
    wanted = Filter(pattern=compile_pattern("file=0.*png"))
    assert wanted.accepts(parse(line(file="0.png")))
    assert not wanted.accepts(parse(line()))
    assert Filter(pattern=compile_pattern("^shrunk")).accepts(parse(line(msg="\x1b[31mshrunk")))


@pytest.mark.parametrize("text", ["(", "a" * 1001, "a{99999}", "(?P<n>a", "(?<=a)b", "a\\1", "\ud800"])
def test_a_bad_pattern_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(UsageError, match=r"pattern|regular expression"):
        compile_pattern(text)


@pytest.mark.parametrize(
    "text", ["(a|aa)+$", "(a+)+$", "(x+x+)+y", "(.*)(.*)(.*)(.*)(.*)x[0-9]{300}", "[ab]*a[ab]{900}$"]
)
@pytest.mark.timeout(30)  # with `re` the first of them takes longer than the universe is old
def test_no_pattern_takes_long_on_a_long_line(text: str) -> None:
    assert not Filter(pattern=compile_pattern(text)).accepts(Line(msg="ab" * 40_000 + "b"))


def test_a_pattern_finds_what_is_not_valid_unicode_by_what_is_beside_it() -> None:
    assert Filter(pattern=compile_pattern("é.b")).accepts(Line(msg="xé\ud800b"))


# --- the printed bytes ------------------------------------------------------------------------------


def captured(name: str, chunks: list[bytes], flush_after: frozenset[int] = frozenset()) -> list[bytes]:
    """The log lines which the real capture makes of what was read from one pipe."""
    stream = Stream(name)
    out = b""
    for number, chunk in enumerate(chunks):
        out += stream.feed(chunk, 0.0, MS)[0]
        if number in flush_after:
            out += stream.flush(MS)[0]
    out += stream.end(MS)[0]
    return out.splitlines(keepends=True) if b"\r" not in out else [piece + b"\n" for piece in out.split(b"\n")[:-1]]


PINO = st.sampled_from(
    [
        b'{"level":30,"time":1,"msg":"x"}\n',
        b'{"level":30,"time":1,"msg":"x"} \n',
        b'{"level":30,"time":1,"msg":"x"}\t\n',
        b'{"level":30,"time":1,"msg":"x","part":true,"eol":false,"bytes":"eA=="}\n',
        b'{"level":30,"time":1,"msg":"x","stream":"stderr"}\n',
        b'{"level":30,"time":1,"msg":"x","truncated":3,"hole":9}\n',
        b'{"level":30,"time":1,"msg":"x","stream":null}\n',
        b'{"level":30,"time":1,"msg":"\xff"}\n',
        '{"level":30,"time":1,"msg":"ü\u2028\x85"}\n'.encode(),
    ]
)
CHUNKS = st.lists(
    st.one_of(st.binary(max_size=40), PINO, st.text(max_size=20).map(str.encode), st.just(b"\r\n")), max_size=12
)


@given(CHUNKS, st.frozensets(st.integers(0, 11)), st.sampled_from(["stdout", "stderr", "log"]))
def test_every_byte_of_a_stream_comes_back(chunks: list[bytes], flush_after: frozenset[int], name: str) -> None:
    lines = captured(name, chunks, flush_after)
    assert b"".join(raw(lines)) == b"".join(chunks)
    assert b"".join(raw(lines, name)) == b"".join(chunks)
    assert [piece for other in {"stdout", "stderr", "log"} - {name} for piece in raw(lines, other)] == []
    for text in lines:
        render(parse(text))


@given(
    st.integers(-3, 3),
    st.sampled_from([b"x", "é".encode(), "🚀".encode(), b"\xff"]),
    st.sampled_from([b"", b"\n", b"\ny"]),
)
def test_lines_around_the_longest_piece_come_back(delta: int, filling: bytes, end: bytes) -> None:
    data = (filling * (PIECE_BYTES // len(filling) + 2))[: PIECE_BYTES + delta] + end
    assert b"".join(raw(captured("stdout", [data]))) == data


@given(CHUNKS, CHUNKS)
def test_streams_are_taken_apart_again(first: list[bytes], second: list[bytes]) -> None:
    out, err = captured("stdout", first), captured("stderr", second)
    mixed = [text for pair in zip(out, err, strict=False) for text in pair]
    mixed += out[len(err) :] + err[len(out) :]
    assert b"".join(raw(mixed, "stdout")) == b"".join(first)
    assert b"".join(raw(mixed, "stderr")) == b"".join(second)


def test_what_slotsched_put_in_and_torn_lines_are_not_in_the_printed_bytes() -> None:
    lines = [line(stream="stdout"), line(truncated=7, hole=100), b'{"level":30,"ti']
    assert b"".join(raw(lines)) == b"shrunk\n"


def test_the_marker_tells_how_far_the_rest_moved() -> None:
    assert loglines.hole(line(truncated=7, hole=100)) == 100
    assert loglines.hole(line(truncated=7)) == 0
    assert loglines.hole(line(msg='"hole"')) == 0
    assert loglines.hole(line(hole=100)) == 0  # printed by a script


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "introducer", ["\x90", "\x98", "\x9b", "\x9d", "\x9f", "\x1bP", "\x1b]", "\x1b[", "\x1b[0", "\x1b "]
)
def test_a_row_of_introducers_takes_time_in_proportion_to_its_length(introducer: str) -> None:
    assert plain(introducer * 500_000).strip("P][ 0") == ""
