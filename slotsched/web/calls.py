"""From a request to a handler and back: who calls, the body within its bound, errors as answers.

Handlers are plain functions on worker threads, since the store's driver blocks. They get a `Call` and return a
`Response`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from slotsched.errors import UsageError
from slotsched.web.access import COOKIE, Access, Caller
from slotsched.web.guard import SAFE_METHODS
from slotsched.web.problems import Problem, as_json, told
from slotsched.web.query import Words

MOST_API_BYTES = 16 << 20  # a batch of tasks; what one of them may hold, the store decides
MOST_FORM_BYTES = 64 << 10
BODY_SECONDS = 60.0
JSON_TYPE = "application/json"
FORM_TYPE = "application/x-www-form-urlencoded"
FORM_KEY = "form_key"

Endpoint = Callable[[Request], Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request. body: whole, within its bound."""

    request: Request
    caller: Caller
    body: bytes = b""

    @property
    def path(self) -> dict[str, Any]:
        return self.request.path_params

    def query(self, *known: str) -> Words:
        """The query string. Raises UsageError for what is not known."""
        return Words(self.request.query_params.multi_items(), known)

    def form(self, *known: str) -> Words:
        """The fields of a form of ours, beside its key. Raises UsageError for what is not known."""
        return Words(_fields(self.body), (*known, FORM_KEY))

    def json(self) -> Any:
        """The body. Raises UsageError for what is not JSON; NaN and Infinity are none."""
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the body is not JSON: {error}") from None


Handler = Callable[[Call], Response]


def api(access: Access, handler: Handler) -> Endpoint:
    """An endpoint for programs: a token on every call, JSON both ways."""

    def authorized(request: Request) -> Caller:
        caller = access.program(request.headers)
        if request.method not in SAFE_METHODS:
            caller.must_write()
            if request.method == "POST" or _has_body(request):
                _must_be(request, JSON_TYPE)  # no form of another site can send it, nor any method but POST
        return caller

    async def endpoint(request: Request) -> Response:
        try:
            caller = await run_in_threadpool(authorized, request)
            body = await _body(request, MOST_API_BYTES)
            return await run_in_threadpool(handler, Call(request=request, caller=caller, body=body))
        except Exception as error:  # noqa: BLE001 - every error is an answer
            return as_json(told(error))

    return endpoint


def page(access: Access, handler: Handler, show: Callable[[Problem, Caller | None], Response]) -> Endpoint:
    """An endpoint for people: a session, a form's key on what changes something, errors as pages (`show`)."""

    async def endpoint(request: Request) -> Response:
        caller: Caller | None = None
        try:
            caller = await run_in_threadpool(access.person, request.cookies.get(COOKIE))
            if caller is None:
                return RedirectResponse("/sign-in", 303)
            body = await _body(request, MOST_FORM_BYTES)
            if request.method not in SAFE_METHODS:
                _must_be(request, FORM_TYPE)
                access.check_form(caller, dict(_fields(body)).get(FORM_KEY, ""))
            return await run_in_threadpool(handler, Call(request=request, caller=caller, body=body))
        except Exception as error:  # noqa: BLE001 - every error is an answer
            return await run_in_threadpool(show, told(error), caller)

    return endpoint


def anyone(handler: Handler, show: Callable[[Problem, Caller | None], Response]) -> Endpoint:
    """An endpoint that needs no caller: signing in, readiness."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await _body(request, MOST_FORM_BYTES)
            return await run_in_threadpool(handler, Call(request=request, caller=Caller(name="-"), body=body))
        except Exception as error:  # noqa: BLE001 - every error is an answer
            return await run_in_threadpool(show, told(error), None)

    return endpoint


async def _body(request: Request, most: int) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is too large, whatever it said of itself; 408 if it is slow."""
    pieces, size = [], 0
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                size += len(piece)
                if size > most:
                    raise Problem(413, f"the body has more than {most} bytes")
                pieces.append(piece)
    except TimeoutError:
        raise Problem(408, f"the body did not come within {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise Problem(400, "the body ended early") from None
    return b"".join(pieces)


def _has_body(request: Request) -> bool:
    """What the request says of itself, before anything is read."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _must_be(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Problem(415, f"Content-Type has to be {wanted}")


def _fields(body: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:  # a UnicodeError is one
        raise Problem(400, "the form cannot be read") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
