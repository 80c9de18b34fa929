"""F28, the web's half: in a real browser nothing that a script printed or a database holds is more than text.

Every text that can be set from outside tries to become markup, a script, an attribute or a control sequence; then
every page that shows one is opened with scripts on. No policy is needed to stop any of it, and there is a strict one.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import pymongo
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, until
from hostile_text import NASTY, OBEYED, job_that_writes, poison
from playwright.sync_api import Browser, Dialog, Download, Page, Request, Route
from web_user import Web, browsing, serving

MARKUP = (
    "</td></tr></table></dd></dl></option></select></title></style>"
    "<script>window.owned='script'</script><img src='http://evil.example/x.png' onerror='window.owned=1'>"
    "<svg onload=window.owned=1></svg><x-made>made</x-made><a href='javascript:window.owned=1'>x</a>"
    "<iframe src='http://evil.example/frame'></iframe><link rel=stylesheet href='http://evil.example/x.css'>"
    "<form action='http://evil.example/'><meta http-equiv=refresh content='999;url=http://evil.example/'>"
    "<base href='http://evil.example/'>\" owned=\"1\" onmouseover=\"alert(2)\" ' owned='1' "
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;"
)
TEXT = f"{MARKUP}{NASTY}<!--"
PAGE_SECONDS = 15.0

LINGERING = """# /// script
# [tool.slotsched]
# max_time = "2m"
# ///
import base64, time
from slotsched import log

def main() -> None:
    nasty = base64.b64decode({text!r}).decode()
    for number in range(300):
        print(number, nasty, flush=True)
        log.info(nasty, **{{nasty: nasty}})
        time.sleep(0.3)
"""

# Everything in a page that none of our templates makes.
STRANGE = """() => {
  const known = new Set(("html head meta title link body header a nav span form input button main h1 h2 p div dl dt " +
    "dd label select option table thead tbody tr th td footer code b noscript script").split(" "));
  const found = [];
  for (const element of document.querySelectorAll("*")) {
    const name = element.localName;
    if (!known.has(name)) found.push(`element ${name}`);
    if (name === "script" && !/^\\/static\\/[a-z]+\\.js$/.test(element.getAttribute("src"))) found.push("script");
    if (name === "meta" && element.hasAttribute("http-equiv")) found.push("meta refresh");
    for (const attribute of element.attributes) {
      if (attribute.name.startsWith("on")) found.push(`handler ${attribute.name}`);
      if (["owned", "style", "srcdoc"].includes(attribute.name)) found.push(`attribute ${attribute.name}`);
      if (["href", "src", "action", "data", "formaction"].includes(attribute.name)) {
        const url = new URL(attribute.value, location.href);
        if (url.origin !== location.origin) found.push(`address ${url}`);
      }
    }
  }
  if (window.owned !== undefined) found.push(`a script ran: ${window.owned}`);
  for (const violation of window.violations) found.push(`the policy was needed: ${violation}`);
  return found;
}"""
LISTEN = """window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.effectiveDirective} ${event.blockedURI}`));"""


@dataclass
class Watched:
    """A page, and everything that happened on it which should not have."""

    page: Page
    home: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PAGE_SECONDS * 1000)
        self.page.add_init_script(LISTEN)
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.on("pageerror", lambda error: self.wrong.append(f"an error in a script: {error}"))
        self.page.on("popup", lambda _: self.wrong.append("a window was opened"))

    def _dialog(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.home).netloc:
            self.wrong.append(f"request {request.url}")

    def found(self) -> list[str]:
        """All that is wrong with the page as it is now, and went wrong since it was opened."""
        strange: list[str] = self.page.evaluate(STRANGE)
        obeyed = [f"character U+{ord(found[0][0]):04X}" for found in OBEYED.finditer(self.page.content())]
        return [*self.wrong, *strange, *obeyed]

    def text(self) -> str:
        """What stands on it, and in its fields."""
        shown: str = self.page.evaluate(
            "() => [document.title, document.body.textContent, "
            "...[...document.querySelectorAll('input')].map((field) => field.value)].join('\\n')"
        )
        return shown


@dataclass
class Poisoned:
    """A fleet whose database and logs are full of markup. tasks: by what they are. cookie: of a hostile name."""

    fleet: Fleet
    web: Web
    tasks: dict[str, str]
    cookie: str

    @property
    def pages(self) -> dict[str, str]:
        """Each page that shows a text of somebody else's, and what of it; messages cut long ones."""
        typed = quote(MARKUP, safe="")
        begun = "<script>window.owned="
        return {
            "tasks": MARKUP,
            f"tasks?{'&'.join(f'{name}={typed}' for name in ('job', 'owner', 'tag', 'instance'))}": MARKUP,
            **{f"tasks/{task}": MARKUP for task in self.tasks.values()},
            f"tasks/{self.tasks['done']}?level=info&grep=HERE&attempt=1": MARKUP,
            f"tasks/{self.tasks['done']}?grep={quote('x-made>|' + NASTY[-3:])}": MARKUP,
            f"tasks/{self.tasks['done']}": MARKUP,
            f"tasks/{self.tasks['done']}?level={typed}": begun,
            f"tasks/{self.tasks['done']}?grep=({typed}": begun,
            f"tasks/{typed.replace('%2F', '_')}": begun,
            f"tasks?status={typed}": begun,
            f"tasks?since={typed}": begun,
            f"tasks?after={typed}": begun,
            f"tasks?{typed}=1": begun,
            f"{typed.replace('%2F', '_')}": "there is nothing at this address",
        }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="module")
def poisoned(
    make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Poisoned]:
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / "nasty.py").write_text(job_that_writes(TEXT))
    (jobs / "lingering.py").write_text(LINGERING.format(text=base64.b64encode(TEXT.encode()).decode()))
    with make_fleet(jobs=jobs, name="here") as fleet, serving(fleet) as web:
        fleet.start("here", slots=3)
        client = fleet.client
        tasks = {
            "done": client.enqueue("nasty", {"word": TEXT}, owner=TEXT, tags=["t"], key=NASTY).id,
            "failed": client.enqueue("nasty", {"word": TEXT, "fail": True}).id,
            "waiting": client.enqueue("nasty", {"word": TEXT}, in_="1h").id,
            "wide": client.enqueue("nasty", {"word": TEXT}, slots=99).id,
            "running": client.enqueue("lingering", {}).id,
        }
        client.wait([tasks["done"], tasks["failed"]], 30)
        until(lambda: client.get(tasks["running"]).attempts, what="the task to run")
        database = mongo_client[fleet.settings["database"]]
        poison(database, tasks, TEXT)
        secret = "slot_hostile"
        made = database.tasks.find_one({})["created_at"]
        hashed = hashlib.sha256(secret.encode()).hexdigest()
        database.tokens.insert_one({"_id": TEXT, "hash": hashed, "read_only": False, "created_at": made})
        yield Poisoned(fleet, web, tasks, web.sign_in(secret))
        client.kill(tasks["running"])
        client.wait([tasks["running"]], 20)


@pytest.fixture
def watched(browser: Browser, poisoned: Poisoned) -> Iterator[Watched]:
    """A page of somebody who has signed in with a token of a hostile name."""
    context = browser.new_context(accept_downloads=True)
    name, _, value = poisoned.cookie.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": poisoned.web.url}])
    try:
        yield Watched(context.new_page(), poisoned.web.url)
    finally:
        context.close()


def test_the_checker_goes_red(browser: Browser, poisoned: Poisoned) -> None:
    """The same texts on a page that escapes nothing and has no policy."""
    context = browser.new_context()
    watched = Watched(context.new_page(), poisoned.web.url)
    careless = f"<!doctype html><meta charset=utf-8><table><tr><td>{TEXT}</td></tr></table>"

    def answer(route: Route) -> None:
        if "evil.example" in route.request.url:
            route.abort()
        else:
            route.fulfill(body=careless, content_type="text/html; charset=utf-8")

    context.route("**/*", answer)
    watched.page.goto(f"{poisoned.web.url}careless")
    found = "\n".join(watched.found())
    context.close()
    for wanted in (
        "dialog 1", "request http://evil.example/x.png", "request http://evil.example/frame", "element x-made",
        "element svg", "element iframe", "element base", "script", "meta refresh", "handler onerror", "a script ran",
        "address http://evil.example/", "address javascript:", "character U+202E", "character U+0008",
    ):  # fmt: skip
        assert wanted in found, f"{wanted}: {found}"


def test_every_page_shows_hostile_text_as_text(watched: Watched, poisoned: Poisoned, figure: Figures) -> None:
    strange, silent = {}, []
    for path, wanted in poisoned.pages.items():
        watched.page.goto(poisoned.web.url + path, wait_until="load")
        if bad := watched.found():
            strange[path[:60]] = bad
        watched.wrong.clear()
        shown = watched.text()
        if wanted not in shown:
            silent.append(f"{path[:60]}: {shown[:300]}")
    assert not silent, "the text never reached the page, so nothing was tested"
    assert not strange
    what = f"markup, scripts, requests, control characters from hostile text on {len(poisoned.pages)} pages"
    figure("F28", what, sum(map(len, strange.values())), "", exactly=0)


def test_a_log_that_grows_while_it_is_watched_is_text(watched: Watched, poisoned: Poisoned) -> None:
    """Rows that a script of ours adds, from what a running job writes."""
    watched.page.goto(f"{poisoned.web.url}tasks/{poisoned.tasks['running']}")
    rows = watched.page.locator("table.log tr")
    first = rows.count()
    watched.page.wait_for_function("(count) => document.querySelectorAll('table.log tr').length > count + 3", arg=first)
    assert not watched.found()
    last = rows.last.text_content() or ""
    assert "x-made" in last
    assert "HERE" in last


def test_what_is_sent_holds_no_control_character(poisoned: Poisoned) -> None:
    """Before a browser makes its own of it."""
    for path in poisoned.pages:
        answer = poisoned.web.get(f"/{path}", {"Cookie": poisoned.cookie})
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert OBEYED.findall(answer.text) == [], path[:60]
        assert "<x-made" not in answer.text
    assert OBEYED.findall(NASTY), "the checker"


def test_the_policy_refuses_what_a_page_should_not_hold(watched: Watched, poisoned: Poisoned) -> None:
    """Were a text to become markup after all: our own page with all of it in, and the policy as it is sent."""

    def careless(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("</main>", f"{TEXT}--></main>"))

    watched.page.route(f"{poisoned.web.url}tasks", careless)
    watched.page.goto(f"{poisoned.web.url}tasks")
    found = watched.found()
    assert "element x-made" in found, "the markup is not in the page"
    refused = [one for one in found if one.startswith("the policy was needed")]
    for directive in ("script-src", "script-src-attr", "img-src", "frame-src", "style-src", "base-uri"):
        assert any(directive in one for one in refused), f"{directive}: {refused}"
    assert [one for one in found if one.startswith(("dialog", "a script ran"))] == []


def test_no_script_of_anybody_else_is_run(watched: Watched, poisoned: Poisoned) -> None:
    watched.page.goto(f"{poisoned.web.url}tasks")
    assert not watched.found()
    with pytest.raises(Exception, match=r"(?i)content security policy|refused|violates"):
        watched.page.add_script_tag(content="window.owned = 1")
    with pytest.raises(Exception, match=r"(?i)failed to load|refused|violates|content security policy"):
        watched.page.add_script_tag(url="http://evil.example/x.js")
    watched.page.evaluate(
        "(log) => { const made = document.createElement('script'); made.src = log; document.head.append(made); }",
        f"/api/v1/tasks/{poisoned.tasks['done']}/log?raw=1",
    )
    watched.page.wait_for_function("() => window.violations.length >= 2")
    assert watched.page.evaluate("() => window.owned") is None


@pytest.mark.parametrize("path", ["log.txt", "log.ndjson.gz"])
def test_a_download_is_saved_and_never_shown(watched: Watched, poisoned: Poisoned, path: str) -> None:
    target = f"tasks/{poisoned.tasks['done']}/{path}"
    answer = poisoned.web.get(f"/{target}", {"Cookie": poisoned.cookie})
    assert answer.status == 200
    assert re.fullmatch(r'attachment; filename="[0-9a-f]{24}\.[a-z.]+"', answer.headers["content-disposition"])
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-type"] in ("application/octet-stream", "application/gzip")
    printed = answer.body if path == "log.txt" else gzip.decompress(answer.body)
    assert b"x-made" in printed, "there was nothing to be shown"
    watched.page.goto(f"{poisoned.web.url}tasks/{poisoned.tasks['done']}")
    with watched.page.expect_download() as waiting:
        watched.page.locator(f"a[href*='{path}']").click()
    download: Download = waiting.value
    assert download.suggested_filename == f"{poisoned.tasks['done']}.{path.removeprefix('log.')}"
    assert download.path().read_bytes() == answer.body
    assert not watched.found()


def test_what_the_api_says_is_never_a_page(poisoned: Poisoned) -> None:
    """Whole texts, in types that no browser makes a page or a script of."""
    answer = poisoned.web.call("GET", f"/tasks/{poisoned.tasks['done']}", "slot_hostile")
    assert answer.json["args"]["word"] == TEXT
    paths = ("/tasks", f"/tasks/{poisoned.tasks['done']}", f"/tasks/{quote(MARKUP, safe='')}", "/nothing")
    logs = (f"/tasks/{poisoned.tasks['done']}/log", f"/tasks/{poisoned.tasks['done']}/log?raw=1")
    for path in (*paths, *logs):
        answer = poisoned.web.call("GET", path, "slot_hostile")
        kind = answer.headers["content-type"]
        assert kind in (
            "application/json",
            "application/problem+json",
            "application/x-ndjson",
            "application/octet-stream",
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        if "json" in kind and path not in logs:
            assert json.loads(answer.body)
