"""The `# /// script` block: where it is, where it ends, and the line of every key."""

from __future__ import annotations

import textwrap
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.catalog.header import HeaderError, read_block, read_sidecar


def block(text: str, marker: str = "#") -> bytes:
    lines = [f"{marker} /// script", *(f"{marker} {line}".rstrip() for line in text.splitlines()), f"{marker} ///"]
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize("marker", ["#", "//"])
def test_a_block_is_read_from_either_kind_of_comment(marker: str) -> None:
    header = read_block(b"#!/usr/bin/env thing\n" + block("[tool.slotsched]\nslots = 4", marker) + b"code\n")
    assert header is not None
    assert header.facts == {"slots": 4}
    assert header.line("tool", "slotsched", "slots") == 4


def test_a_file_without_a_block_has_no_header() -> None:
    assert read_block(b"# script\nprint(1)\n") is None
    assert read_block(b"") is None
    assert read_block(b"    # /// script\n    # [tool.slotsched]\n    # ///\n") is None


def test_windows_line_ends_and_a_byte_order_mark_are_no_trouble() -> None:
    data = b"\xef\xbb\xbf" + block("[tool.slotsched]\nslots = 4").replace(b"\n", b"\r\n")
    header = read_block(data)
    assert header is not None
    assert header.facts == {"slots": 4}


def test_the_block_ends_at_the_last_closing_line_of_its_comments_as_in_pep_723() -> None:
    header = read_block(block('[tool.slotsched]\ndescription = """\n///\n"""'))
    assert header is not None
    assert header.facts == {"description": "///\n"}
    trailing = block("[tool.slotsched]\nslots = 2") + b"# a comment right behind\n"
    header = read_block(trailing)
    assert header is not None
    assert header.facts == {"slots": 2}


def test_a_block_that_is_never_closed_says_so_at_its_first_line() -> None:
    with pytest.raises(HeaderError, match="not closed") as caught:
        read_block(b"#!/bin/sh\n# /// script\n# [tool.slotsched]\necho\n")
    assert (caught.value.line, caught.value.ours) == (2, True)


def test_two_blocks_are_refused() -> None:
    with pytest.raises(HeaderError, match="two script blocks"):
        read_block(block("[tool.slotsched]") + b"x\n" + block("[tool.slotsched]"))


def test_bad_toml_is_reported_with_the_line_of_the_file() -> None:
    with pytest.raises(HeaderError) as caught:
        read_block(b"#!/bin/sh\n" + block("[tool.slotsched]\nslots = = 4"))
    assert caught.value.line == 4
    with pytest.raises(HeaderError) as caught:
        read_block(block("[tool.slotsched]\nslots = " + "9" * 5000))
    assert "not TOML" in str(caught.value)


def test_a_block_that_is_not_utf8_is_reported_with_its_line() -> None:
    with pytest.raises(HeaderError, match="not UTF-8") as caught:
        read_block(b"# /// script\n# [tool.slotsched]\n# description = '\xff'\n# ///\n")
    assert caught.value.line == 3


def test_every_key_has_its_own_line_whatever_stands_before_it() -> None:
    text = textwrap.dedent(
        '''\
        # a comment with = and [brackets]
        [other."x.y"]
        text = """
        [tool.slotsched]
        slots = 1
        """
        list = [
          "a", # ]
          { b = "]" },
        ]
        [tool.slotsched]
        slots = 4
        'max_time' = '30m'
        env.A = "1"
        [tool.slotsched.args]
        width = { type = "int",  default = 3 }
        [[tool.slotsched.notify]]
        url = "u"
        '''
    )
    header = read_sidecar(text.encode())
    lines = {".".join(path): line for path, line in header.lines.items()}
    assert lines["tool.slotsched"] == 11
    assert lines["tool.slotsched.slots"] == 12
    assert lines["tool.slotsched.max_time"] == 13
    assert lines["tool.slotsched.env.A"] == 14
    assert lines["tool.slotsched.args.width"] == 16
    assert lines["tool.slotsched.notify.url"] == 18
    assert lines["other.x.y.list"] == 7
    assert header.line("tool", "slotsched", "args", "width", "default") == 16
    assert header.line("nothing", "here") == 1


KEYS = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
SCALARS = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(['"a # b"', "'[x]'", '"""\n = \n"""', "'''\n[t]\n'''", "true", '"\\""', "1979-05-27", "[1,\n 2]"]),
)


@given(st.lists(st.tuples(KEYS, SCALARS, st.sampled_from(["", "  # note = 1", "\n", "\n# [no]"])), max_size=8))
def test_the_lines_of_generated_toml_are_those_the_generator_wrote(entries: list[tuple[str, str, str]]) -> None:
    text, expected = "[t]\n", {}
    for key, value, after in entries:
        if (key,) in expected:
            continue
        expected[key,] = text.count("\n") + 1
        text += f"{key} = {value}{after}\n"
    tomllib.loads(text)
    lines = read_sidecar(text.encode()).lines
    assert {path[1:]: line for path, line in lines.items() if len(path) == 2} == expected
