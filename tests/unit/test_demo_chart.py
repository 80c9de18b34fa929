"""The demo's picture of slots over time."""

from slotsched.demo.chart import Bar, draw


def test_each_task_covers_as_many_rows_as_it_holds_slots() -> None:
    bars = [
        Bar(letter="A", instance="big", slots=2, start=0.0, end=5.0),
        Bar(letter="B", instance="big", slots=1, start=0.0, end=10.0),
        Bar(letter="C", instance="big", slots=2, start=5.0, end=10.0),
        Bar(letter="D", instance="small", slots=1, start=2.0, end=4.0),
    ]
    lines = draw([("big", 3), ("small", 1)], bars, 21)
    assert lines == [
        "big    1 AAAAAAAAAACCCCCCCCCC.",
        "       2 AAAAAAAAAACCCCCCCCCC.",
        "       3 BBBBBBBBBBBBBBBBBBBB.",
        "small  1 ....DDDD.............",
        "         0 s            10.0 s",
    ]


def test_a_task_too_short_for_a_column_is_still_seen() -> None:
    line = draw([("one", 1)], [Bar(letter="A", instance="one", slots=1, start=0.0, end=0.001)], 10)[0]
    assert line.count("A") >= 1


def test_an_empty_chart_is_drawn() -> None:
    assert draw([("one", 1)], [], 12)[0] == "one  1 ............"
