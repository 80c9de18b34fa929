"""The signature of `main`, read without running it, and `[tool.slotsched.args]`."""

from __future__ import annotations

from typing import Any

import pytest

from slotsched.catalog.signature import SignatureError, read_declared, read_source
from slotsched.model import Parameter


def parameters_of(signature: str, before: str = "") -> tuple[Parameter, ...]:
    source = read_source(f"{before}\ndef main({signature}): ...\n".encode())
    assert source.parameters is not None
    return source.parameters


def one(signature: str, before: str = "") -> Parameter:
    return parameters_of(signature, before)[0]


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("str", {"type": "str"}),
        ("int", {"type": "int"}),
        ("float", {"type": "float"}),
        ("bool", {"type": "bool"}),
        ("Path", {"type": "path"}),
        ("pathlib.Path", {"type": "path"}),
        ("date", {"type": "date"}),
        ("dt.datetime", {"type": "datetime"}),
        ("'int'", {"type": "int"}),
        ("list", {"type": "list"}),
        ("list[int]", {"type": "list", "item": "int"}),
        ("t.List[Path]", {"type": "list", "item": "path"}),
        ("list[dict[str, int]]", {"type": "list"}),
        ("dict[str, float]", {"type": "dict", "item": "float"}),
        ("Optional[int]", {"type": "int", "nullable": True}),
        ("int | None", {"type": "int", "nullable": True}),
        ("Union[None, list[str]]", {"type": "list", "item": "str", "nullable": True}),
        ("Literal['s', 2, True]", {"type": "choice", "choices": ("s", 2, True)}),
        ("Annotated[Literal['s'] | None, 1, 'help']", {"type": "choice", "choices": ("s",), "nullable": True}),
        ("Any", {"type": "any"}),
        ("Size", {"type": "choice", "choices": ("s", "m")}),
    ],
)
def test_annotations_become_types(annotation: str, expected: dict[str, Any]) -> None:
    parameter = one(f"x: {annotation}", "Size = Literal['s', 'm']")
    shown = {"type": parameter.type, "item": parameter.item, "nullable": parameter.nullable}
    assert shown | {"choices": parameter.choices} == {"item": None, "nullable": False, "choices": ()} | expected
    assert parameter.required


def test_annotated_help_is_the_description() -> None:
    assert one("x: Annotated[int, 'how wide']").description == "how wide"


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("x: int = 3", (False, 3, "int", False)),
        ("x: int = None", (False, None, "int", True)),
        ("x=3", (False, 3, "int", False)),
        ("x=True", (False, True, "bool", False)),
        ("x=None", (False, None, "any", True)),
        ("x", (True, None, "any", False)),
        ("x: Path = Path('/srv')", (False, "/srv", "path", False)),
        ("x: list[str] = ('a', 'b')", (False, ["a", "b"], "list", False)),
        ("x: date = date.today()", (False, None, "date", False)),
        ("x: float = 1e999", (False, None, "float", False)),
        ("x: int = 2 ** 64", (False, None, "int", False)),
        ("x: int = 18446744073709551616", (False, None, "int", False)),
        ("x: str = '\\ud800'", (False, None, "str", False)),
        ("*, x: int = -1", (False, -1, "int", False)),
    ],
)
def test_defaults_are_read_where_they_are_literals(signature: str, expected: tuple[Any, ...]) -> None:
    parameter = one(signature)
    assert (parameter.required, parameter.default, parameter.type, parameter.nullable) == expected


def test_positional_only_and_keyword_only_parameters_are_parameters_like_others() -> None:
    names = [(p.name, p.required) for p in parameters_of("a, b=1, /, c=2, *, d, e=3")]
    assert names == [("a", True), ("b", False), ("c", False), ("d", True), ("e", False)]


def test_the_last_main_counts_and_async_is_one_too() -> None:
    source = read_source(b"def main(a): ...\nasync def main(b): ...\n")
    assert source.parameters is not None
    assert [p.name for p in source.parameters] == ["b"]


def test_only_a_top_level_main_counts() -> None:
    assert read_source(b"class A:\n    def main(self): ...\nif 1:\n    def main(): ...\n").parameters is None


def test_the_docstring_of_the_file_or_else_of_main_describes_the_job() -> None:
    assert read_source(b'"""File."""\ndef main():\n    """Main."""\n').docstring == "File."
    assert read_source(b'def main():\n    """Main."""\n').docstring == "Main."


@pytest.mark.parametrize(
    ("signature", "line", "message"),
    [
        ("*rest", 2, "main takes *rest"),
        ("**options", 2, "main takes **options"),
        ("\n  a: int,\n  b: DataFrame", 4, 'b: an argument cannot be of type "DataFrame"'),
        ("a: int | str", 2, "a: an argument has one type, or one type and None"),
        ("a: dict[int, str]", 2, "a: the keys of a dict must be str"),
        ("a: Literal[1.5]", 2, "a: Literal may hold texts"),
        ("a: 'nope('", 2, 'a: "nope(" is not a type'),
        ("a: A", 2, "a: its type goes in circles"),
    ],
)
def test_what_cannot_be_an_argument_is_refused_at_its_line(signature: str, line: int, message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parameters_of(signature, "A = A")
    assert caught.value.line == line
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "source",
    [
        b"def main(:",
        b"\0",
        b"# coding: nonsense\n",
        b"\xff\xfe",
        b"x = " + b"-" * 100_000 + b"1",
        b"(" * 5000,
        b"f('\\d')",
    ],
)
def test_no_source_whatever_makes_reading_fail_in_another_way(source: bytes) -> None:
    if source.startswith(b"f("):
        read_source(source)
        return
    with pytest.raises(SignatureError, match=r"^not Python: "):
        read_source(source)


def test_the_file_is_never_run() -> None:
    read_source(b"raise SystemExit(3)\ndef main(): ...\n")


def test_declared_arguments_have_types_defaults_and_descriptions() -> None:
    table = {
        "database": "str",
        "keep": {"type": "int", "default": 7, "description": "dumps to keep"},
        "mode": {"choices": ["fast", "slow"], "default": "slow"},
        "days": {"type": "list[date]"},
        "tag": "str | None",
    }
    declared, problems = read_declared(table)
    assert problems == []
    assert declared == (
        Parameter(name="database"),
        Parameter(name="keep", type="int", required=False, default=7, description="dumps to keep"),
        Parameter(name="mode", type="choice", choices=("fast", "slow"), required=False, default="slow"),
        Parameter(name="days", type="list", item="date"),
        Parameter(name="tag", nullable=True, required=False),
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("integer", 'args.x: an argument cannot be of type "integer"'),
        ({"typ": "int"}, 'args.x: unknown key "typ", did you mean "type"?'),
        ({"type": 3}, "args.x: 3 is not a type"),
        ({"choices": []}, "args.x: choices are a list"),
        ({"type": "int", "description": 3}, "args.x: the description is not a text"),
        (3, "args.x: 3 is neither a type nor"),
    ],
)
def test_a_bad_declaration_is_refused_in_words(value: Any, message: str) -> None:
    _, problems = read_declared({"x": value})
    assert problems[0][0] == ("x",)
    assert problems[0][1].startswith(message)
