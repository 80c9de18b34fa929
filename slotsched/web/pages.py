"""The pages: a list of tasks, a task with its log, signing in. What they show is what the command line shows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import RedirectResponse, Response, StreamingResponse

from slotsched.errors import ArchiveError, InvalidSettings, NotFound
from slotsched.loglines import raw
from slotsched.model import OPEN, TERMINAL, Reason, Status, Task
from slotsched.store.tokens import SESSION_SECONDS
from slotsched.views.tasks import page
from slotsched.views.text import short
from slotsched.views.words import progress_words, ran, waited, why_words
from slotsched.web.access import COOKIE, Access
from slotsched.web.calls import Call
from slotsched.web.following import Followers, ended
from slotsched.web.loglook import Look, look
from slotsched.web.query import FILTERS, LOG_CHOICES, Words
from slotsched.web.reading import chosen, in_pieces, open_log

if TYPE_CHECKING:
    from slotsched.client import Client
    from slotsched.web.rendering import Renderer

PAGE_ROWS = 50
REFRESH_SECONDS = 5  # of a page about what is still going on, without a script
MOST_LINES = 10**12


class Pages:
    """The handlers of the pages, one per route. is_ending: whether the server was told to end."""

    def __init__(self, client: Client, access: Access, renderer: Renderer, is_ending: Callable[[], bool]) -> None:
        self._client = client
        self._access = access
        self._renderer = renderer
        self._followers = Followers(is_ending)

    # --- looking ----------------------------------------------------------------------------------
    def home(self, call: Call) -> Response:
        call.query()
        return RedirectResponse("/tasks", 303)

    def tasks(self, call: Call) -> Response:
        """A page of tasks, newest first, by keys: the next one begins behind the last row of this one."""
        words = call.query(*FILTERS, "after")
        store = self._client.store
        now = store.now()
        wanted = words.filter(now)
        found = page(store, wanted, PAGE_ROWS, after=words.task_id("after"), now=now)
        rows = [
            {
                "task": task,
                "waited": waited(task, now),
                "ran": ran(task, now),
                "progress": progress_words(task),
                "why": why_words(task, found.fleet, now),
            }
            for task in found.tasks
        ]
        given = words.pairs(FILTERS)
        following = urlencode([*words.filters(wanted), ("after", found.tasks[-1].id)]) if found.more else None
        return self._renderer.page(
            "tasks.html",
            call.caller,
            rows=rows,
            given=_filled_in(FILTERS, given),
            chosen=urlencode(given),
            first=words.one("after") is None,
            following=following,
            counts=store.tasks.counts(),
            statuses=list(Status),
            reasons=list(Reason),
        )

    def task(self, call: Call) -> Response:
        """One task: its facts, what can be done with it, its log. A part of its id leads to it, too."""
        words = call.query(*LOG_CHOICES)
        given = call.path["task"]
        task_id = self._client.resolve(given)
        if task_id != given:
            return RedirectResponse(f"/tasks/{task_id}", 303)
        from slotsched.views.facts import facts

        task = self._client.get(task_id)
        shown, notes = self._log(task, words)
        kept = words.pairs(("attempt", "level", "grep"))
        live = task.status in OPEN and not words.pairs(LOG_CHOICES)
        return self._renderer.page(
            "task.html",
            call.caller,
            task=task,
            title=f"{task.job} {short(task.id)}",
            facts=facts(task, self._client.explain(task), self._client.store.now()),
            open=task.status in OPEN,
            live=live,
            refresh=REFRESH_SECONDS if live else None,
            log=shown,
            notes=notes,
            given=_filled_in(LOG_CHOICES, kept),
            earlier=urlencode([*kept, ("before", shown.rows[0].number)]) if shown.earlier else None,
            attempt=urlencode(words.pairs(("attempt",))),
        )

    def _log(self, task: Task, words: Words) -> tuple[Look, list[str]]:
        """What can be shown of its log. That there is none, or that it cannot be had now, is no reason for no page."""
        wanted, before = chosen(words), words.number("before", least=1, most=MOST_LINES)
        if not task.attempts and words.one("attempt") is None:
            return Look(), []
        try:
            log = open_log(self._client, task.id, words)
            found = look(log.lines, wanted, before=before)
        except (NotFound, ArchiveError, InvalidSettings) as error:  # settings of ours: the query was read before
            return Look(), [str(error)]
        if found.stopped_at is not None:
            log.notes.append(f"the search took too long and ended at line {found.stopped_at}; make the pattern simpler")
        return found, log.notes

    def log_events(self, call: Call) -> Response:
        """What a running attempt logs, as it comes; of a task that has ended, its end."""
        call.query()
        task = self._client.get(self._client.resolve(call.path["task"]))
        if task.status in TERMINAL:
            return ended()
        cookie = call.caller.session
        return self._followers.follow(self._client, task.id, lambda: self._access.person(cookie) is not None)

    def log_printed(self, call: Call) -> Response:
        """The bytes that the script printed, to save."""
        return self._download(call, "txt", "application/octet-stream", lambda lines: in_pieces(raw(lines)))

    def log_packed(self, call: Call) -> Response:
        """The stored lines, gzipped, to save."""
        return self._download(call, "ndjson.gz", "application/gzip", _packed)

    def _download(self, call: Call, ending: str, kind: str, form: Any) -> Response:
        words = call.query("attempt")
        task_id = self._client.resolve(call.path["task"])
        log = open_log(self._client, task_id, words)
        headers = {"Content-Disposition": f'attachment; filename="{task_id}.{ending}"'}
        return StreamingResponse(form(log.lines), headers=headers, media_type=kind)

    # --- doing ------------------------------------------------------------------------------------
    def cancel(self, call: Call) -> Response:
        return self._ended(call, kill=False)

    def kill(self, call: Call) -> Response:
        return self._ended(call, kill=True)

    def _ended(self, call: Call, *, kill: bool) -> Response:
        task_id = self._writable(call)
        self._client.store.tasks.cancel(task_id, by=call.caller.name, kill=kill)
        return RedirectResponse(f"/tasks/{task_id}", 303)

    def retry(self, call: Call) -> Response:
        again = self._client.store.tasks.retry(self._writable(call), owner=call.caller.name)
        return RedirectResponse(f"/tasks/{again.id}", 303)

    def remove(self, call: Call) -> Response:
        self._client.remove(self._writable(call))
        return RedirectResponse("/tasks", 303)

    def _writable(self, call: Call) -> str:
        call.caller.must_write()
        call.form()
        return self._client.resolve(call.path["task"])

    # --- signing in and out -----------------------------------------------------------------------
    def sign_in_form(self, call: Call) -> Response:
        call.query()
        return self._renderer.page("sign_in.html", None, wrong=False)

    def sign_in(self, call: Call) -> Response:
        secret = self._access.sign_in((call.form("token").one("token") or "").strip())
        if secret is None:
            return self._renderer.page("sign_in.html", None, status=401, wrong=True)
        answer = RedirectResponse("/tasks", 303)
        answer.set_cookie(
            COOKIE,
            secret,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="lax",  # a link from a chat leads to the page; what changes something needs a form of ours anyway
            secure="https" in (call.request.url.scheme, call.request.headers.get("x-forwarded-proto")),
        )
        return answer

    def sign_out(self, call: Call) -> Response:
        call.form()
        self._access.sign_out(call.caller)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(COOKIE)
        return answer


def _filled_in(names: Iterable[str], given: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What a form's fields show: each one's value, empty where none was given."""
    return dict.fromkeys(names, "") | dict(given)


def _packed(lines: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for line in lines:
        if data := packer.compress(line):
            yield data
    yield packer.flush()
