"""The scheduler's own log: pino's shape, whatever is logged."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import threading
import tty
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from slotsched import logs


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is written after the test, as before it."""
    handlers = list(logging.getLogger().handlers)
    monkeypatch.setattr(logs, "_threshold", logs._SILENT)
    monkeypatch.setattr(logs._output, "stream", None)
    yield
    logging.getLogger().handlers[:] = handlers


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_pinos_shape() -> None:
    out = io.StringIO()
    logs.configure(out)
    logs.get_logger("claim", instance="big-1").info("claimed", tasks=3)
    [line] = written(out)
    assert list(line) == ["level", "time", "pid", "hostname", "name", "msg", "instance", "tasks"]
    assert (line["level"], line["pid"], line["name"], line["msg"], line["tasks"]) == (
        30,
        os.getpid(),
        "claim",
        "claimed",
        3,
    )
    assert isinstance(line["time"], int)
    assert line["time"] > 1_700_000_000_000


def test_each_method_writes_its_level_and_lower_ones_are_silent() -> None:
    out = io.StringIO()
    logs.configure(out, level="debug")
    log = logs.get_logger()
    for method in (log.trace, log.debug, log.info, log.warning, log.error, log.fatal):
        method("x")
    assert [line["level"] for line in written(out)] == [20, 30, 40, 50, 60]


def test_any_field_name_may_be_used() -> None:
    out = io.StringIO()
    logs.configure(out)
    logs.get_logger().bind(event="fire").info("m", name="n", msg="o", level="l", time=1, self=2, exc="e", positional=3)
    [line] = written(out)
    assert (line["event"], line["name_"], line["msg_"], line["level_"], line["time_"]) == ("fire", "n", "o", "l", 1)
    assert (line["msg"], line["level"], line["self"]) == ("m", 30, 2)


def test_an_exception_becomes_err() -> None:
    out = io.StringIO()
    logs.configure(out)
    log = logs.get_logger()
    try:
        int("no\nway")
    except ValueError as error:
        log.exception("failed")
        kept = error
    log.warning("later", exc_info=kept)
    first, second = (line["err"] for line in written(out))
    assert (first["type"], first["message"]) == ("ValueError", str(kept))
    assert first["stack"].startswith("Traceback")
    assert second == first


class Odd:
    def __str__(self) -> str:
        return "odd"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(float("nan"), "nan"), (Odd(), "odd"), ({(1, 2): 3}, "{(1, 2): 3}"), ("\udc80", "\udc80"), (b"x", "b'x'")],
)
def test_values_that_json_lacks_are_written_as_text(value: object, expected: str) -> None:
    out = io.StringIO()
    logs.configure(out)
    logs.get_logger().info("x", value=value)
    assert written(out)[0]["value"] == expected


def test_a_cycle_is_written_as_text() -> None:
    out = io.StringIO()
    logs.configure(out)
    cycle: list[Any] = []
    cycle.append(cycle)
    logs.get_logger().info("x", value=cycle)
    assert written(out)[0]["value"] == "[[...]]"


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    out = io.StringIO()
    logs.configure(out)
    out.close()
    logs.get_logger().info("x")


def test_it_is_silent_until_configured(capsys: pytest.CaptureFixture[str]) -> None:
    logs.get_logger().fatal("x")
    assert capsys.readouterr() == ("", "")


def test_loggers_made_before_follow_a_later_configuration() -> None:
    log = logs.get_logger()
    first, second = io.StringIO(), io.StringIO()
    logs.configure(first)
    log.info("a")
    logs.configure(second, level="error")
    log.info("b")
    log.error("c")
    assert [line["msg"] for line in written(first) + written(second)] == ["a", "c"]


def test_warnings_of_libraries_come_in_and_their_chatter_does_not() -> None:
    out = io.StringIO()
    logs.configure(out, level="trace")
    library = logging.getLogger("pymongo.test")
    library.setLevel(logging.DEBUG)
    library.debug("chatter")
    library.info("chatter")
    library.warning("%s is slow", "server")
    library.error("gone")
    assert [(line["level"], line["name"], line["msg"]) for line in written(out)] == [
        (40, "pymongo.test", "server is slow"),
        (50, "pymongo.test", "gone"),
    ]


def test_a_librarys_malformed_message_is_shown_unformatted() -> None:
    out = io.StringIO()
    logs.configure(out)
    [handler] = [each for each in logging.getLogger().handlers if type(each).__module__ == logs.__name__]
    handler.emit(logging.LogRecord("x", logging.ERROR, "f", 1, "bad %d", ("text",), None))
    assert written(out)[0]["msg"] == "bad %d"


def test_configuring_twice_routes_once() -> None:
    out = io.StringIO()
    logs.configure(out)
    logs.configure(out)
    logging.getLogger("x").warning("w")
    assert len(written(out)) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_readable_lines_and_colour_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    logs.configure(out)
    logs.get_logger("claim").info("instance up", slots=4, evil="\x1b[2J")
    assert '\x1b[32mINFO \x1b[0m instance up  slots=4 evil=""\n' in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    logs.configure(plain)
    logs.get_logger().info("x")
    assert "\x1b" not in plain.getvalue()


def test_lines_of_threads_are_never_mixed() -> None:
    out = io.StringIO()
    logs.configure(out)
    log = logs.get_logger()
    threads = [threading.Thread(target=lambda: [log.info("x" * 500) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(written(out)) == 800


# --- nobody reads -------------------------------------------------------------------------------------
def pipe() -> tuple[int, int]:
    return os.pipe()


def terminal() -> tuple[int, int]:
    reader, writer = pty.openpty()
    tty.setraw(writer)  # as many bytes come out as went in
    return reader, writer


@pytest.mark.parametrize("opened", [pipe, terminal])
def test_a_log_that_nobody_reads_holds_nobody_up_and_says_what_is_missing(
    opened: Callable[[], tuple[int, int]],
) -> None:
    reader, writer = opened()
    try:
        with open(writer, "w", closefd=False) as stream:
            logs.configure(stream, pretty=False)
            log = logs.get_logger()
            for number in range(3000):
                log.info("x" * 500, number=number)  # far more than fits; this would never return
            read = read_all(reader)
            log.info("there is a reader again")
        lines = [line for line in [*read.splitlines(), *read_all(reader).splitlines()] if line.startswith(b"{")]
    finally:
        os.close(reader)
        os.close(writer)
    whole = [json.loads(line) for line in lines if line.endswith(b"}")]
    assert len(lines) - len(whole) <= 1, "at most one line is torn"
    *before, notice, last = whole
    assert [line["number"] for line in before] == list(range(len(before)))
    assert (notice["msg"], notice["lines"]) == ("lines left out: nobody read", 3000 - len(before))
    assert last["msg"] == "there is a reader again"


def read_all(reader: int) -> bytes:
    """What is there to read, without waiting for more."""
    os.set_blocking(reader, False)
    read = b""
    with contextlib.suppress(BlockingIOError):
        while some := os.read(reader, 65536):
            read += some
    return read
