"""`/api/v1`: tasks for programs, in the same shapes and words as `-o json` on the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.responses import Response, StreamingResponse

from slotsched.errors import InvalidBatch, UsageError
from slotsched.loglines import raw
from slotsched.views.objects import strict_json
from slotsched.views.tasks import page
from slotsched.web.calls import JSON_TYPE, Call
from slotsched.web.query import FILTERS
from slotsched.web.reading import chosen, in_pieces, open_log

if TYPE_CHECKING:
    from slotsched.client import Client, Handle

LINES_TYPE = "application/x-ndjson"
RAW_TYPE = "application/octet-stream"  # whatever the script printed: no browser may take it for a page
DEFAULT_ROWS = 50
MOST_ROWS = 500
MOST_BATCH = 10_000
_DECIDED = ("owner", "trigger")  # follow from the caller, and cannot be chosen


class Api:
    """The handlers of the API, one per route."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def tasks(self, call: Call) -> Response:
        """GET tasks: one array, newest first; `Link: rel="next"` where there are more."""
        words = call.query(*FILTERS, "limit", "after")
        limit = words.number("limit", least=1, most=MOST_ROWS) or DEFAULT_ROWS
        now = self._client.store.now()
        wanted = words.filter(now)
        found = page(self._client.store, wanted, limit, after=words.task_id("after"), now=now)
        headers = {}
        if found.more:
            query = urlencode([*words.filters(wanted), *words.pairs(["limit"]), ("after", found.tasks[-1].id)])
            headers["Link"] = f'<{call.request.url.path}?{query}>; rel="next"'
        return _answer([task.to_object() for task in found.tasks], headers=headers)

    def enqueue(self, call: Call) -> Response:
        """POST tasks: an object makes one, an array one each, none where one is refused. 201 if any is new, else 200.

        An outage halfway, or a key that somebody else takes in that moment, leaves some: see `Client.enqueue_many`.
        """
        call.query()
        given = call.json()
        if isinstance(given, list):
            if len(given) > MOST_BATCH:
                raise UsageError(f"{len(given)} tasks at once are more than {MOST_BATCH}")
            handles = self._client.enqueue_many([_owned(item, call) for item in given])
            return _answer([_stored(handle) for handle in handles], 201 if _any_new(handles) else 200)
        try:
            [handle] = self._client.enqueue_many([_owned(given, call)])
        except InvalidBatch as batch:
            raise UsageError(batch.problems[0][1]) from None
        return _answer(_stored(handle), 200 if handle.existed else 201)

    def task(self, call: Call) -> Response:
        """GET one, by any part of its id that is enough."""
        call.query()
        return _answer(self._client.get(self._id(call)).to_object())

    def why(self, call: Call) -> Response:
        call.query()
        return _answer({"why": self._client.why(self._id(call))})

    def log(self, call: Call) -> Response:
        """GET an attempt's log: the stored lines, or with `raw=1` the bytes that were printed."""
        words = call.query("attempt", "level", "grep", "raw")
        wanted, as_printed = chosen(words), words.flag("raw")
        if as_printed and wanted is not None:
            raise UsageError("raw gives exact bytes; it goes with neither level nor grep")
        log = open_log(self._client, self._id(call), words)
        if as_printed:
            return StreamingResponse(in_pieces(raw(log.lines)), media_type=RAW_TYPE)
        found = in_pieces(log.lines, wanted)
        return StreamingResponse(chain([next(found)], found), media_type=LINES_TYPE)

    def cancel(self, call: Call) -> Response:
        return self._canceled(call, kill=False)

    def kill(self, call: Call) -> Response:
        return self._canceled(call, kill=True)

    def _canceled(self, call: Call, *, kill: bool) -> Response:
        call.query()
        return _answer(self._client.store.tasks.cancel(self._id(call), by=call.caller.name, kill=kill).to_object())

    def retry(self, call: Call) -> Response:
        call.query()
        again = self._client.store.tasks.retry(self._id(call), owner=call.caller.name)
        return _answer(self._client.get(again.id).to_object(), 201)

    def remove(self, call: Call) -> Response:
        call.query()
        self._client.remove(self._id(call))
        return Response(status_code=204)

    def _id(self, call: Call) -> str:
        return self._client.resolve(call.path["task"])


def _owned(item: Any, call: Call) -> Any:
    if not isinstance(item, Mapping):
        return item
    for name in _DECIDED:
        if name in item:
            raise UsageError(f'"{name}" is not given: it is what the token says')
    return {**item, "owner": call.caller.name}


def _stored(handle: Handle) -> dict[str, Any]:
    return {"id": handle.id, "status": handle.status.value, "existed": handle.existed}


def _any_new(handles: Iterable[Handle]) -> bool:
    return any(not handle.existed for handle in handles)


def _answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(strict_json(value), status, dict(headers or {}), JSON_TYPE)
