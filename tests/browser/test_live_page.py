"""The page of a task that goes on, in a real browser: it learns the end however its stream goes, or says it cannot.

An EventSource gives up for good, and without a word to anybody, on any answer that is no stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fleet import Fleet, FleetMaker, until
from playwright.sync_api import Browser, Page, Route
from web_user import Web, browsing, serving

PAGE_SECONDS = 30.0  # a browser opens a broken stream again after some seconds
ENDING_SECONDS = 5.0  # for a server that nobody keeps from ending, on a busy machine
STREAM = "**/log.events"
LINES = 60
HOLDING = """# /// script
# [tool.slotsched]
# max_time = "2m"
# ///
import os, time

def main(until: str) -> None:
    print("begun", flush=True)
    while not os.path.exists(until):
        time.sleep(0.05)
    for number in range({lines}):
        print("x" * 60_000)
    print("last", flush=True)
    time.sleep(100)
"""


@dataclass
class Desk:
    """A signed-in browser at the web face of one instance. wrong: what its pages should not have met."""

    fleet: Fleet
    web: Web
    page: Page
    session: str
    folder: Path
    wrong: list[str] = field(default_factory=list)

    @property
    def go(self) -> Path:
        """At which a running task writes the rest of its log."""
        return self.folder / "go"

    def enqueue(self, in_: str | None = None) -> str:
        return self.fleet.client.enqueue("holding", {"until": str(self.go)}, in_=in_).id

    def running(self) -> str:
        """A task that has written its first line."""
        task = self.enqueue()
        until(lambda: "begun" in self.written(task), what="the first line")
        return task

    def written(self, task: str) -> list[str]:
        """What it has logged so far."""
        return [str(line["msg"]) for line in self.fleet.client.logs(task)]

    def kill(self, task: str) -> None:
        """Returns once it has ended."""
        self.fleet.client.kill(task)
        self.fleet.ended(task)

    def open(self, task: str) -> None:
        self.page.goto(f"{self.web.url}tasks/{task}")

    def before_the_stream(self, act: Callable[[Route], None]) -> None:
        """Does this once, when the page is there and asks for its stream; the request has to be let go by it."""
        self.page.route(STREAM, act, times=1)

    def shows(self, status: str) -> None:
        self.page.wait_for_selector(f"h1 .status.{status}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def staff(make_fleet: FleetMaker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, str]]:
    """One instance, and a token."""
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / "holding.py").write_text(HOLDING.format(lines=LINES))
    with make_fleet(jobs=jobs) as fleet:
        fleet.start("here", slots=8)
        yield fleet, fleet.client.store.tokens.add("ann")


@pytest.fixture
def desk(staff: tuple[Fleet, str], browser: Browser, tmp_path: Path) -> Iterator[Desk]:
    fleet, token = staff
    with serving(fleet) as web:
        context = browser.new_context()
        name, _, session = web.sign_in(token).partition("=")
        context.add_cookies([{"name": name, "value": session, "url": web.url}])
        made = Desk(fleet, web, context.new_page(), session, tmp_path)
        made.page.set_default_timeout(PAGE_SECONDS * 1000)
        made.page.on("pageerror", lambda error: made.wrong.append(str(error)))
        try:
            yield made
            assert made.wrong == []
        finally:
            context.close()


def test_what_ends_between_the_page_and_its_stream_is_shown_as_ended(desk: Desk) -> None:
    task = desk.running()

    def end(route: Route) -> None:
        desk.kill(task)
        route.continue_()

    desk.before_the_stream(end)
    desk.open(task)
    desk.shows("canceled")


def test_what_is_canceled_before_it_started_is_shown_as_ended(desk: Desk) -> None:
    task = desk.enqueue(in_="1h")
    with desk.page.expect_response(STREAM):
        desk.open(task)
    desk.shows("scheduled")
    desk.fleet.client.cancel(task)
    desk.shows("canceled")


@pytest.mark.parametrize("to_the_end", [False, True], ids=["goes on", "ends meanwhile"])
def test_a_server_that_is_started_anew_goes_on_with_the_page(desk: Desk, to_the_end: bool) -> None:
    """It ends in no time although the page is open."""
    task = desk.running()
    desk.open(task)
    desk.page.wait_for_selector("tr#L1 :text('begun')")
    desk.web.process.terminate()
    assert desk.web.process.wait(ENDING_SECONDS) == 0
    if to_the_end:
        desk.kill(task)
    with serving(desk.fleet, listen=desk.web.host, name="anew"):
        if to_the_end:
            desk.shows("canceled")
            return
        desk.go.touch()
        desk.page.wait_for_selector(f"tr#L{LINES + 2} :text('last')")
        desk.shows("running")
        desk.kill(task)
        desk.shows("canceled")


@pytest.mark.parametrize("refused", ["signed out", "too many follow"])
def test_a_stream_that_is_refused_is_told(desk: Desk, refused: str) -> None:
    task = desk.running()

    def refuse(route: Route) -> None:
        if refused == "signed out":
            desk.fleet.client.store.tokens.close_session(desk.session)
            route.continue_()
        else:
            route.fulfill(status=503, content_type="text/html", body="<p>50 logs are being followed here already")

    desk.before_the_stream(refuse)
    desk.open(task)
    note = desk.page.wait_for_selector("main p.note")
    assert note is not None
    assert "reload the page" in note.inner_text()
    desk.page.reload()
    if refused == "signed out":
        desk.page.wait_for_selector("input[name=token]")
    else:
        desk.page.wait_for_selector("tr#L1 :text('begun')")
        assert desk.page.locator("p.note").count() == 0
    desk.kill(task)


def test_what_the_stream_leaves_out_is_on_the_page_of_the_earlier_lines(desk: Desk) -> None:
    """A log that was short when the page was made."""
    task = desk.running()

    def log(route: Route) -> None:
        assert not desk.page.is_visible("a#earlier")
        desk.go.touch()
        until(lambda: "last" in desk.written(task), what="the last line")
        route.continue_()

    desk.before_the_stream(log)
    desk.open(task)
    rows = desk.page.locator("table.log tr")
    desk.page.wait_for_selector(f"tr#L{LINES + 2} :text('last')")
    first = int((rows.first.get_attribute("id") or "").removeprefix("L"))
    assert 1 < first < LINES
    desk.page.click("a#earlier")
    desk.page.wait_for_url("**?before=*")
    assert rows.last.get_attribute("id") == f"L{first - 1}"
    desk.kill(task)
