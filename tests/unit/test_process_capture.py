"""From bytes to log lines and back."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotsched.process.capture import PASSED_END, PIECE_BYTES, Stream, is_log_line

PINO = b'{"level":30,"time":1,"msg":"hi"}'


def captured(name: str, *chunks: bytes | None) -> list[bytes]:
    """The log lines of a stream that wrote `chunks`; None stands for a pause that is long enough to flush."""
    stream, out, counted = Stream(name), b"", 0
    for chunk in chunks:
        lines, count = stream.flush(7) if chunk is None else stream.feed(chunk, 0.0, 7)
        out, counted = out + lines, counted + count
    lines, count = stream.end(7)
    assert counted + count == sum(len(chunk) for chunk in chunks if chunk is not None)
    return (out + lines).splitlines(keepends=True)


def exact(lines: list[bytes]) -> bytes:
    """What the stream wrote, had back by the rules in the module's text."""
    out = b""
    for line in lines:
        value = json.loads(line)
        if "stream" not in value:
            out += line.rstrip(b" \t\n") + b"\n"
            continue
        out += base64.b64decode(value["bytes"]) if "bytes" in value else value["msg"].encode()
        if not value.get("part") and value.get("eol", True):
            out += b"\n"
    return out


def test_lines_are_pino_shaped_with_the_level_of_their_stream():
    assert captured("stdout", b"one\ntwo\n") == [
        b'{"level":30,"time":7,"stream":"stdout","msg":"one"}\n',
        b'{"level":30,"time":7,"stream":"stdout","msg":"two"}\n',
    ]
    assert json.loads(captured("stderr", b'\xc3\xa4 \x1b[1m "\\\r\n')[0]) == {
        "level": 40,
        "time": 7,
        "stream": "stderr",
        "msg": 'ä \x1b[1m "\\\r',
    }


def test_output_without_a_newline_at_its_end_says_so():
    assert json.loads(captured("stdout", b"a\nb")[1]) == {
        "level": 30,
        "time": 7,
        "stream": "stdout",
        "msg": "b",
        "eol": False,
    }


def test_a_line_that_waited_is_shown_in_parts():
    shown = [json.loads(line) for line in captured("stdout", b"name? ", None, b"ada\n", b"more", None)]
    assert [(each["msg"], each.get("part"), each.get("eol")) for each in shown] == [
        ("name? ", True, None),
        ("ada", None, None),
        ("more", True, None),
        ("", None, False),
    ]


def test_a_pause_does_not_tear_a_character():
    lines = captured("stdout", b"\xe2\x82", None, b"\xac\n")
    assert [json.loads(line)["msg"] for line in lines] == ["€"]


def test_a_long_line_is_cut_into_pieces_between_characters():
    lines = captured("stdout", ("a" + "ä" * 70_000 + "\n").encode())
    pieces = [json.loads(line) for line in lines]
    assert [piece.get("part", False) for piece in pieces] == [True, True, False]
    assert not any("bytes" in piece for piece in pieces)
    assert "".join(piece["msg"] for piece in pieces) == "a" + "ä" * 70_000


def test_bytes_that_are_not_text_stand_beside_a_message_to_read_or_an_empty_one():
    readable, unreadable = (json.loads(line) for line in captured("stdout", b"caf\xe9 au lait\n\x80\x81\x82x\n"))
    assert readable["msg"] == "caf\ufffd au lait"
    assert base64.b64decode(readable["bytes"]) == b"caf\xe9 au lait"
    assert unreadable["msg"] == ""


@pytest.mark.parametrize("name", ["stdout", "stderr", "log"])
def test_a_log_line_passes_unchanged_and_still_tells_its_stream(name):
    assert captured(name, PINO + b"\n", b"plain\n")[0] == PINO + PASSED_END[name]


@pytest.mark.parametrize(
    "line",
    [
        b'{"level":30,"time":1,"msg":"x","stream":"stderr"}',
        b'{"level":30,"time":1,"msg":"x","truncated":5}',
        b'{"level":"30","time":1,"msg":"x"}',
        b'{"level":true,"time":1,"msg":"x"}',
        b'{"level":30.0,"time":1,"msg":"x"}',
        b'{"level":30,"time":NaN,"msg":"x"}',
        b'{"level":30,"time":true,"msg":"x"}',
        b'{"level":30,"time":1,"msg":5}',
        b'{"level":30,"time":1}',
        b'{"level":30,"time":1,"msg":"x"} ',
        b' {"level":30,"time":1,"msg":"x"}',
        b'{"level":30,"time":1,"msg":"x"}\r',
        b'{"level":30,"time":1,"msg":"\xff"}',
        b'{"level":30,"time":1,"msg":"' + b"x" * PIECE_BYTES + b'"}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"level":30,"time":1,"msg":"x","n":' + b"9" * 5000 + b"}",
        b'["level"]',
        b"{}",
    ],
)
def test_what_only_looks_like_a_log_line_is_wrapped(line):
    assert not is_log_line(line)
    lines = captured("stdout", line + b"\n")
    assert all(json.loads(each)["stream"] == "stdout" for each in lines)
    assert exact(lines) == line + b"\n"


def test_a_log_line_is_not_passed_as_the_rest_of_another_line():
    lines = captured("stdout", b"prompt", None, PINO + b"\n")
    assert exact(lines) == b"prompt" + PINO + b"\n"
    assert "stream" in json.loads(lines[1])


BITS = st.one_of(
    st.binary(max_size=50),
    st.sampled_from(
        [b"\n", b"\r\n", b"text\n", PINO + b"\n", PINO + b" \n", "ä€😀".encode(), b"\xe2\x82", b"{", b"\0", b"\n{"]
    ),
    st.integers(PIECE_BYTES - 3, PIECE_BYTES + 3).map(lambda count: b"x" * count),
    st.none(),
)


@given(st.sampled_from(["stdout", "stderr", "log"]), st.lists(BITS, max_size=12))
@example("stdout", [b"\xf0\x9f", None, b"\x98\x80"])
@example("log", [b"x" * PIECE_BYTES * 2, b"\n"])
def test_the_exact_bytes_can_be_had_back(name, chunks):
    lines = captured(name, *chunks)
    assert exact(lines) == b"".join(chunk for chunk in chunks if chunk is not None)
    for line in lines:
        value = json.loads(line)
        assert type(value["level"]) is int
        assert isinstance(value["msg"], str)
        assert "time" in value


def test_a_waiting_line_is_due_from_its_first_byte():
    stream = Stream("stdout")
    stream.feed(b"a\nb", 1.0, 7)
    stream.feed(b"c", 2.0, 7)
    assert stream.waiting_since == 1.0
    stream.feed(b"\nd", 3.0, 7)
    assert stream.waiting_since == 3.0
    stream.feed(b"\n", 4.0, 7)
    assert stream.waiting_since is None
