"""Durations and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotsched.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("10m", 600), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("2d", 172800), (7, 7), ("0", 0)],
)
def test_durations_are_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-5m", "5 m", "m", "1h-30m", "nan", "inf", True, -1, float("nan"), "5x", "1h30", 10**400, "9" * 400]
)
def test_anything_else_is_refused_with_an_example(text: str | float) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


@given(st.floats(min_value=0, max_value=1e8))
def test_a_shown_duration_is_a_readable_one_and_near(seconds: float) -> None:
    shown = parse_duration(format_duration(seconds))
    assert abs(shown - seconds) <= max(0.06, seconds * 0.05)


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("1.5GiB", 3 << 29), ("64 KB", 64 << 10), ("10", 10), (10, 10)]
)
def test_sizes_are_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "0", 0, "1X", "M", True, "1.5.5G", "9" * 400 + "T"])
def test_other_sizes_are_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match="is not a size such as"):
        parse_size(text)


def test_sizes_are_shown_in_their_unit() -> None:
    assert [format_size(n) for n in (0, 812, 3481, 5 << 30)] == ["0 B", "812 B", "3.4 KiB", "5.0 GiB"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["1" * 1_000_000 + "x", "1." * 500_000, "1h" * 500_000 + "1"])
def test_a_huge_text_that_is_no_duration_is_refused_at_once_in_few_words(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration") as refused:
        parse_duration(text)
    assert len(str(refused.value)) < 200
