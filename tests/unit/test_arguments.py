"""Arguments from words and from JSON: what fits, what is said of the rest, and what can be stored."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.catalog import check_arguments, placeholder, read_words
from slotsched.catalog.arguments import variable_names
from slotsched.errors import InvalidArguments
from slotsched.job import typed
from slotsched.model import Parameter

RESIZE = [Parameter(name="folder", type="path"), Parameter(name="width", type="int", required=False, default=1280)]


def parse_words(job: str, parameters: Sequence[Parameter], words: Iterable[str]) -> dict[str, Any]:
    """Arguments as a command line gives them."""
    return check_arguments(job, parameters, read_words(parameters, words))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidArguments) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["widht=3"], 'resize has no argument "widht" (folder, width). Did you mean "width"?'),
        (["folder=/pics", "width=big"], 'width: "big" is not an integer'),
        ([], "resize needs folder=PATH"),
        (["folder"], '"folder" is not key=value'),
        (["=x"], '"=x" is not key=value'),
        (["folder=a", "folder=b"], "folder is given twice"),
        (["folder="], 'folder: "" is not a path'),
        (["folder=/p", "width="], 'width: "" is not an integer'),
        (["folder=/p", "width=1.5"], 'width: "1.5" is not an integer'),
        (["folder=/p", "width=99999999999999999999"], "width: a whole number of more than 64 bits; give it as text"),
    ],
)
def test_mistakes_in_words_are_answered_in_words(words: list[str], message: str) -> None:
    assert refused(lambda: parse_words("resize", RESIZE, words)) == message


def test_a_job_without_arguments_says_that_it_takes_none() -> None:
    assert refused(lambda: parse_words("hello", [], ["a=1"])) == 'hello has no argument "a" (it takes none).'


def test_defaults_are_not_filled_in() -> None:
    assert parse_words("resize", RESIZE, ["folder=a=b"]) == {"folder": "a=b"}


def parameter(kind: str, **more: Any) -> Parameter:
    return Parameter(name="x", type=kind, **more)


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (parameter("str"), "null", "null"),
        (parameter("str"), "", ""),
        (parameter("any"), "5", "5"),
        (parameter("int"), "-7", -7),
        (parameter("int"), "+7", 7),
        (parameter("float"), "7", 7.0),
        (parameter("float"), "1e-3", 0.001),
        (parameter("bool"), "true", True),
        (parameter("bool"), "No", False),
        (parameter("path"), "~/x y", "~/x y"),
        (parameter("date"), "2026-11-21", "2026-11-21"),
        (parameter("datetime"), "2026-11-21T06:30Z", "2026-11-21T06:30:00+00:00"),
        (parameter("datetime"), "2026-11-21", "2026-11-21T00:00:00"),
        (parameter("list"), "a,b", ["a", "b"]),
        (parameter("list"), "", []),
        (parameter("list", item="int"), "1,2", [1, 2]),
        (parameter("list", item="int"), "[1, 2]", [1, 2]),
        (parameter("list", item="path"), "/a,/b", ["/a", "/b"]),
        (parameter("dict"), '{"a": [1]}', {"a": [1]}),
        (parameter("dict", item="float"), '{"a": 1}', {"a": 1.0}),
        (parameter("choice", choices=("s", 2, True)), "2", 2),
        (parameter("choice", choices=("s", 2, True)), "true", True),
        (parameter("int", nullable=True), "null", None),
    ],
)
def test_words_become_values_of_their_type(kind: Parameter, word: str, value: Any) -> None:
    assert parse_words("job", [kind], [f"x={word}"]) == {"x": value}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (parameter("str"), 3, "x: 3 is not a text"),
        (parameter("int"), "3", 'x: "3" is not an integer'),
        (parameter("int"), 3.0, "x: 3.0 is not an integer"),
        (parameter("int"), True, "x: true is not an integer"),
        (parameter("int"), None, "x: null is not an integer"),
        (parameter("float"), "nan", 'x: "nan" is not a number'),
        (parameter("float"), math.nan, "x: nan is not a finite number"),
        (parameter("bool"), "maybe", 'x: "maybe" is not true or false'),
        (parameter("date"), "21.11.2026", 'x: "21.11.2026" is not a date such as 2026-11-21'),
        (parameter("datetime"), "soon", 'x: "soon" is not a date and time such as 2026-11-21T06:30'),
        (parameter("list"), "a", 'x: "a" is not a list'),
        (parameter("list", item="int"), [1, "b"], 'x: "b" is not an integer'),
        (parameter("dict"), [], "x: [] is not a JSON object"),
        (
            parameter("choice", choices=("small", "large")),
            "smal",
            'x: "smal" is not one of small, large. Did you mean "small"?',
        ),
        (parameter("choice", choices=(1, 2)), True, "x: true is not one of 1, 2"),
    ],
)
def test_json_values_are_not_bent_into_shape(kind: Parameter, value: Any, message: str) -> None:
    assert refused(lambda: check_arguments("job", [kind], {"x": value})) == message


@pytest.mark.parametrize(("word", "message"), [("[1", 'x: "[1" is not a JSON array')])
def test_a_word_that_is_half_json_is_refused(word: str, message: str) -> None:
    assert refused(lambda: parse_words("job", [parameter("list")], [f"x={word}"])) == message


def test_a_program_may_give_pythons_own_paths_and_dates() -> None:
    known = [parameter("path"), Parameter(name="d", type="date"), Parameter(name="l", type="list", item="path")]
    given = {"x": Path("/a"), "d": dt.date(2026, 1, 2), "l": (Path("b"),)}
    assert check_arguments("job", known, given) == {"x": "/a", "d": "2026-01-02", "l": ["b"]}


def test_placeholders_say_what_is_expected() -> None:
    kinds = [parameter("path"), parameter("choice", choices=("a", True)), parameter("bool"), parameter("dict")]
    assert [placeholder(kind) for kind in kinds] == ["PATH", "a|true", "true|false", "JSON"]


# --- limits -----------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\0b", "x: holds a NUL character, which cannot be stored"),
        ("\ud800", "x: holds half a surrogate pair, which cannot be stored"),
        ({"k": [0, 2**63]}, "x.k[1]: a whole number of more than 64 bits; give it as text"),
        ({"k\0": 1}, 'x."k\\u0000": holds a NUL character, which cannot be stored'),
        ({1: 1}, "x: the key 1 is not a text"),
        (math.inf, "x: inf is not a finite number"),
        ({1, 2}, "x: a set is not JSON"),
        (b"bytes", "x: a bytes is not JSON"),
        ("x" * 17_000_000, "arguments: more than 1 MiB as JSON; put the data into a file and give its path"),
        (
            ["é" * 300_000, "é" * 300_000],
            "arguments: more than 1 MiB as JSON; put the data into a file and give its path",
        ),
    ],
)
def test_what_mongodb_cannot_hold_is_refused_with_one_clear_sentence(value: Any, message: str) -> None:
    assert refused(lambda: check_arguments("job", None, {"x": value})) == message


@pytest.mark.parametrize("depth", [60, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    message = refused(lambda: check_arguments("job", None, {"x": nested(depth)}))
    assert message.endswith("nested deeper than 50 levels")


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    refused(lambda: check_arguments("job", None, {"x": circle}))


def test_operators_and_dots_are_data() -> None:
    given = {"$where": "1", "a.b": {"$gt": {"c.d": None}}, "n": -(2**63)}
    assert check_arguments("job", None, given) == given


def test_arguments_that_would_share_a_variable_are_refused() -> None:
    message = refused(lambda: check_arguments("job", None, {"a.b": 1, "A_b": 2}))
    assert message == 'arguments "a.b" and "A_b" would both be ARG_A_B'
    assert variable_names(["a-b", "größe"]) == {"a-b": "ARG_A_B", "größe": "ARG_GR_SSE"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=4), JSON, max_size=4))
def test_any_json_is_stored_as_it_is_or_refused_with_one_error(given_values: dict[str, Any]) -> None:
    try:
        checked = check_arguments("job", None, given_values)
    except InvalidArguments:
        return
    assert checked == given_values
    assert json.loads(json.dumps(checked, allow_nan=False).encode()) == given_values


# --- words -> values -> the script's types ----------------------------------------------------------

TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
WORDS = st.text("abc/ .-é", min_size=1, max_size=10)
CASES = st.one_of(
    st.tuples(st.just(parameter("str")), TEXT, st.just(str)),
    st.tuples(st.just(parameter("int")), st.integers(-(2**63), 2**63 - 1), st.just(str)),
    st.tuples(st.just(parameter("float")), st.floats(allow_nan=False, allow_infinity=False), st.just(repr)),
    st.tuples(st.just(parameter("bool")), st.booleans(), st.just(lambda value: str(value).lower())),
    st.tuples(st.just(parameter("path")), WORDS.map(Path), st.just(str)),
    st.tuples(st.just(parameter("date")), st.dates(), st.just(dt.date.isoformat)),
    st.tuples(st.just(parameter("datetime")), st.datetimes(timezones=st.just(dt.UTC)), st.just(dt.datetime.isoformat)),
    st.tuples(
        st.just(parameter("list", item="date")),
        st.lists(st.dates(), max_size=3),
        st.just(lambda values: ",".join(map(str, values))),
    ),
    st.tuples(
        st.just(parameter("dict", item="path")),
        st.dictionaries(TEXT, WORDS.map(Path), max_size=3),
        st.just(lambda values: json.dumps({key: str(value) for key, value in values.items()})),
    ),
)


@given(CASES)
def test_a_value_written_as_a_word_arrives_in_the_script_as_the_same_value(
    case: tuple[Parameter, Any, Callable[[Any], str]],
) -> None:
    kind, value, write = case
    stored = json.loads(json.dumps(parse_words("job", [kind], [f"x={write(value)}"])))
    types = f"x={kind.type}" if kind.item is None else f"x={kind.type}:{kind.item}"
    special = ("path", "date", "datetime")
    arrived = typed(stored, types if kind.type in special or kind.item in special else "")
    assert arrived == {"x": value}
    assert type(arrived["x"]) is type(value)


@given(st.text(), st.sampled_from(["int", "float", "bool", "date", "datetime", "list", "dict", "choice", "path"]))
def test_no_word_makes_reading_fail_in_another_way(word: str, kind: str) -> None:
    known = [parameter(kind, choices=("a",))]
    with contextlib.suppress(InvalidArguments):
        check_arguments("job", known, read_words(known, [f"x={word}"]))
