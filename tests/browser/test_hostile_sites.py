"""F30 in a real browser: pages of other origins cannot make somebody's browser change or tell them anything.

The attacker has a site of his own on this machine, which is worse than anywhere else: another port of the same host
gets the same cookies. With `localhost` for its name it is another site; with `evil.example` it is one that rebinds.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import bson
import pymongo
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker
from playwright.sync_api import Browser, Page
from web_user import Web, browsing, serving

PAGE_SECONDS = 15.0
SECRET = "nobody else's business"
JOB = """# /// script
# [tool.slotsched]
# max_time = "20s"
# ///
def main(word: str = "") -> None:
    pass
"""

FORM = """<!doctype html><title>attack</title>
<form id=f method=post action="{target}" enctype="{kind}"><input type=hidden name="{name}" value="{value}"></form>
<script>document.getElementById("f").submit()</script>"""

# Every way a page has to read another's address; a list of [way, what it came to].
READ = """async (target) => {
  const told = [];
  const late = new Promise((done) => setTimeout(() => done("nothing"), 5000));
  const within = (way, promise) => Promise.race([promise, late])
    .then((what) => told.push([way, String(what)]), (error) => told.push([way, `refused: ${error.name}`]));
  const text = (options) => fetch(target, options).then(async (answer) => answer.type + " " + (await answer.text()));
  const element = (name, address) => new Promise((done) => {
    const made = document.createElement(name);
    made.onload = () => done("loaded");
    made.onerror = () => done("error");
    made[name === "link" ? "href" : name === "object" ? "data" : "src"] = address;
    if (name === "link") made.rel = "stylesheet";
    document.body.append(made);
  });
  await Promise.all([
    within("fetch", text({})),
    within("fetch with cookies", text({credentials: "include"})),
    within("fetch without reading", text({credentials: "include", mode: "no-cors"})),
    within("fetch with JSON", text({method: "POST", body: '{"job":"quiet"}', credentials: "include",
      headers: {"Content-Type": "application/json"}})),
    within("fetch with text", text({method: "POST", body: '{"job":"quiet"}', credentials: "include", mode: "no-cors",
      headers: {"Content-Type": "text/plain"}})),
    within("DELETE", text({method: "DELETE", credentials: "include"})),
    within("a beacon", Promise.resolve(navigator.sendBeacon(target, new Blob(['{"job":"quiet"}'])))),
    within("img", element("img", target)),
    within("script", element("script", target)),
    within("link", element("link", target)),
    within("object", element("object", target)),
    within("events", new Promise((done) => {
      const source = new EventSource(target, {withCredentials: true});
      source.onmessage = (event) => done(event.data);
      source.onerror = () => { source.close(); done("error"); };
    })),
    within("socket", new Promise((done) => {
      const socket = new WebSocket(target.replace("http", "ws"));
      socket.onopen = () => done("open");
      socket.onerror = () => done("error");
    })),
    within("a frame", new Promise((done) => {
      const frame = document.createElement("iframe");
      frame.onload = () => {
        try { done("loaded " + frame.contentDocument.body.textContent); }
        catch (error) { done("refused: " + error.name); }
      };
      frame.src = target;
      document.body.append(frame);
    })),
  ]);
  return told;
}"""

REMOVE = """([target, mode]) => fetch(target, {method: "DELETE", credentials: "include", mode})
  .then((answer) => String(answer.status), (error) => `refused: ${error.name}`)"""


@dataclass
class Site:
    """The attacker's server: pages that attack, and a readable, writable victim of the same kind to compare with."""

    port: int
    posted: list[tuple[str, bytes]] = field(default_factory=list)

    def url(self, host: str) -> str:
        return f"http://{host}:{self.port}"


@contextmanager
def hostile_site() -> Iterator[Site]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/form":
                fields = parse_qsl(parts.query, keep_blank_values=True)
                self._say(FORM.format(**{name: html.escape(value) for name, value in fields}))
            else:
                self._say(
                    f"<!doctype html><title>lure</title><p>{SECRET if parts.path == '/careless' else 'hello'}</p>"
                )

        def do_POST(self) -> None:
            site.posted.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self._say("carried out")

        def do_OPTIONS(self) -> None:
            self._say("")

        def _say(self, text: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Access-Control-Allow-Origin", self.headers.get("Origin", "*"))
            self.send_header("Access-Control-Allow-Credentials", "true")
            self.send_header("Access-Control-Allow-Headers", "content-type")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        site = Site(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Victim:
    """A fleet with a web face that somebody's browser is allowed to use. token: None where nobody needs one.

    how: it is used, in words.
    """

    fleet: Fleet
    web: Web
    database: Any
    token: str | None
    how: str

    def later(self) -> str:
        """A task that nothing but a request changes."""
        return self.fleet.client.enqueue("quiet", {"word": SECRET}, in_="1h").id

    def tasks(self) -> list[bytes]:
        return [bson.encode(one) for one in self.database.tasks.find().sort("_id", 1)]

    def visit(self, page: Page) -> None:
        """Somebody who uses it: with a session, where one is needed."""
        page.set_default_timeout(PAGE_SECONDS * 1000)
        page.goto(f"{self.web.url}tasks")
        if self.token is not None:
            page.fill("input[name=token]", self.token)
            page.click("main button")
        page.wait_for_selector("h1:has-text('Tasks')")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser to which evil.example is this machine, as a name server of the attacker's would have it."""
    with browsing("--host-resolver-rules=MAP evil.example 127.0.0.1") as opened:
        yield opened


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with hostile_site() as started:
        yield started


@pytest.fixture(scope="module", params=["nobody needs a token", "signed in"])
def victim(
    request: pytest.FixtureRequest,
    make_fleet: FleetMaker,
    mongo_client: pymongo.MongoClient[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Victim]:
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / "quiet.py").write_text(JOB)
    with make_fleet(jobs=jobs) as fleet, serving(fleet) as web:
        token = fleet.client.store.tokens.add("ann") if request.param == "signed in" else None
        yield Victim(fleet, web, mongo_client[fleet.settings["database"]], token, request.param)


@pytest.fixture(scope="module")
def page(browser: Browser, victim: Victim) -> Iterator[Page]:
    """A browser in which the victim was used just now. Every test leads it elsewhere first."""
    context = browser.new_context()
    try:
        opened = context.new_page()
        victim.visit(opened)
        yield opened
    finally:
        context.close()


HOSTS = ("127.0.0.1", "localhost", "evil.example")
KINDS = {
    "application/x-www-form-urlencoded": ("form_key", "0" * 64),
    "text/plain": ('{"job":"quiet","args":{"word":"', '"}}'),
    "multipart/form-data": ("form_key", ""),
}
FORMS = (
    ("/tasks/{task}/cancel", "application/x-www-form-urlencoded"),
    ("/tasks/{task}/kill", "multipart/form-data"),
    ("/sign-out", "application/x-www-form-urlencoded"),
    ("/api/v1/tasks", "text/plain"),
    ("/api/v1/tasks/{task}/cancel", "text/plain"),
)
READABLE = ("/api/v1/tasks", "/tasks/{task}", "/tasks/{task}/log.events")


def attack(page: Page, site: Site, host: str, target: str, kind: str) -> tuple[int, str]:
    """Lure the browser to a form that sends itself; the status it got, and the page it ended on."""
    name, value = KINDS[kind]
    with page.expect_response(lambda answer: answer.request.method == "POST" and answer.url == target) as waiting:
        lure = page.url  # of this page nothing is left in a moment
        page.evaluate(
            "([url, query]) => { location.href = url + '?' + new URLSearchParams(query); }",
            [f"{site.url(host)}/form", {"target": target, "kind": kind, "name": name, "value": value}],
        )
    status = waiting.value.status
    page.wait_for_load_state()
    assert page.url != lure or status >= 400
    return status, page.content()


def framed(page: Page) -> str:
    """What somebody sees in the page's frame, whoever may read it."""
    return page.frame_locator("iframe").locator("body").text_content() or ""


def test_the_attack_works_where_nobody_looks_at_the_origin(page: Page, site: Site) -> None:
    """Or the tests below would prove nothing: the form is sent, and an answer that allows it is read."""
    site.posted.clear()
    status, shown = attack(page, site, "localhost", f"{site.url('127.0.0.1')}/careless", "text/plain")
    assert (status, "carried out" in shown) == (200, True)
    assert b'{"job":"quiet"' in site.posted[0][1]
    page.goto(f"{site.url('localhost')}/lure")
    told = dict(page.evaluate(READ, f"{site.url('127.0.0.1')}/careless"))
    assert SECRET in told["fetch with cookies"]
    assert "carried out" in told["fetch with JSON"]
    assert told["fetch without reading"] == "opaque "
    assert told["object"] == "loaded"
    assert SECRET in framed(page)


def test_a_form_of_another_origin_changes_nothing(page: Page, victim: Victim, site: Site, figure: Figures) -> None:
    task = victim.later()
    before = victim.tasks()
    answers = {}
    for host in HOSTS:
        for path, kind in FORMS:
            status, shown = attack(page, site, host, f"{victim.web.origin}{path.format(task=task)}", kind)
            answers[f"{host} {path} {kind}"] = status
            assert SECRET not in shown
    assert {asked: status for asked, status in answers.items() if status != 403} == {}
    what = f"changes by {len(answers)} forms of other origins in a browser, {victim.how}"
    figure("F30", what, victim.tasks() != before, "", exactly=0)
    page.goto(f"{victim.web.url}tasks/{task}")
    assert page.locator("form[action$='/cancel'] button").count() == 1, "the session has ended"


def test_a_page_of_another_origin_reads_nothing(page: Page, victim: Victim, site: Site) -> None:
    task = victim.later()
    before = victim.tasks()
    for host in HOSTS:
        for path in READABLE:
            page.goto(f"{site.url(host)}/lure")
            told = dict(page.evaluate(READ, f"{victim.web.origin}{path.format(task=task)}"))
            assert len(told) == 14
            assert told.pop("a beacon") == "true"  # it is sent, and nobody is told what came of it
            read = [way for way, what in told.items() if what != "error" and not what.startswith("refused: ")]
            assert not read, f"{host} {path}: {told}"
            assert SECRET not in framed(page)
    assert victim.tasks() == before


def test_a_page_of_another_origin_removes_nothing(page: Page, victim: Victim, site: Site) -> None:
    """A removal has no body, hence no type that a browser would have to ask for; it asks for the method itself."""
    task = victim.later()
    victim.fleet.client.cancel(task)
    before = victim.tasks()
    target = f"{victim.web.origin}/api/v1/tasks/{task}"
    for host in HOSTS:
        page.goto(f"{site.url(host)}/lure")
        for mode in ("cors", "no-cors"):
            told = page.evaluate(REMOVE, [target, mode])
            assert told == "refused: TypeError", f"{host} {mode}"
    assert victim.tasks() == before
    page.goto(f"{victim.web.url}tasks")
    assert page.evaluate(REMOVE, [target, "same-origin"]) == ("204" if victim.token is None else "401")


def test_a_window_that_another_origin_opens_is_out_of_its_reach(page: Page, victim: Victim, site: Site) -> None:
    victim.later()
    page.goto(f"{site.url('localhost')}/lure")
    with page.expect_popup() as waiting:
        page.evaluate("(target) => { window.opened = window.open(target); }", f"{victim.web.url}tasks")
    opened = waiting.value
    opened.wait_for_selector("h1")
    assert opened.evaluate("() => window.opener") is None
    seen = page.evaluate(
        "() => { try { return String(opened.document.body.textContent); } catch (error) { return error.name; } }"
    )
    assert SECRET not in seen
    opened.close()


def test_a_name_that_is_made_to_lead_here_is_not_served(page: Page, victim: Victim) -> None:
    """DNS rebinding: to the browser these pages and the attacker's are of the same origin."""
    task = victim.later()
    before = victim.tasks()
    rebound = f"http://evil.example:{victim.web.address[1]}"
    answer = page.goto(f"{rebound}/api/v1/tasks")
    assert answer is not None
    assert answer.status == 400
    told = page.evaluate(
        """async ([task]) => {
          const ask = async (path, options) => {
            const answer = await fetch(path, options);
            return [answer.status, await answer.text()];
          };
          return [await ask("/api/v1/tasks"), await ask("/tasks/" + task), await ask("/tasks"),
            await ask("/api/v1/tasks/" + task + "/cancel", {method: "POST", body: "{}",
              headers: {"Content-Type": "application/json"}})];
        }""",
        [task],
    )
    assert [status for status, _ in told] == [400, 400, 400, 400]
    assert SECRET not in str(told)
    assert victim.tasks() == before


def test_the_victims_own_button_works(page: Page, victim: Victim) -> None:
    """What the forms above tried; and what a page of its own origin may read."""
    task = victim.later()
    before = victim.tasks()
    page.goto(f"{victim.web.url}tasks/{task}")
    own = page.evaluate("(target) => fetch(target).then((answer) => answer.text())", f"/tasks/{task}")
    assert SECRET.replace("'", "&#39;") in own
    page.click("form[action$='/cancel'] button")
    page.wait_for_selector(".status.canceled")
    assert victim.tasks() != before
