"""The application: which address leads to which handler."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from slotsched.web.access import Access
from slotsched.web.api import Api
from slotsched.web.calls import Call, Handler, anyone, api, page
from slotsched.web.guard import Guard
from slotsched.web.pages import Pages
from slotsched.web.problems import as_json, told
from slotsched.web.rendering import Renderer

if TYPE_CHECKING:
    from slotsched.client import Client

API = "/api/v1"
_STATIC = Path(__file__).parent / "static"


def create(
    client: Client, *, local: bool, hosts: Collection[str] = (), is_ending: Callable[[], bool] = lambda: False
) -> Starlette:
    """The web face on a client. local: only this machine can connect; hosts: names that it is reached by.

    is_ending: whether the server was told to end; answers that would go on without end look at it.
    """
    access = Access(lambda: client.store, local=local)
    renderer = Renderer(access)

    async def outside_of_handlers(request: Request, error: Exception) -> Response:
        """No such address, or not with this method."""
        problem = told(error)
        if request.url.path.startswith(f"{API}/"):
            return as_json(problem)
        return await run_in_threadpool(renderer.problem, problem, None)

    return Starlette(
        routes=[
            *_page_routes(Pages(client, access, renderer, is_ending), access, renderer),
            *_api_routes(Api(client), access),
            *_health_routes(client, renderer),
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: outside_of_handlers},
    )


def _page_routes(pages: Pages, access: Access, renderer: Renderer) -> list[BaseRoute]:
    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(path, page(access, handler, renderer.problem), methods=[method])

    return [
        route("/", pages.home),
        route("/tasks", pages.tasks),
        route("/tasks/{task}", pages.task),
        route("/tasks/{task}/log.events", pages.log_events),
        route("/tasks/{task}/log.txt", pages.log_printed),
        route("/tasks/{task}/log.ndjson.gz", pages.log_packed),
        route("/tasks/{task}/cancel", pages.cancel, "POST"),
        route("/tasks/{task}/kill", pages.kill, "POST"),
        route("/tasks/{task}/retry", pages.retry, "POST"),
        route("/tasks/{task}/remove", pages.remove, "POST"),
        route("/sign-out", pages.sign_out, "POST"),
        Route("/sign-in", anyone(pages.sign_in_form, renderer.problem), methods=["GET"]),
        Route("/sign-in", anyone(pages.sign_in, renderer.problem), methods=["POST"]),
    ]


def _api_routes(handlers: Api, access: Access) -> list[BaseRoute]:
    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        return Route(f"{API}{path}", api(access, handler), methods=[method])

    return [
        route("/tasks", handlers.tasks),
        route("/tasks", handlers.enqueue, "POST"),
        route("/tasks/{task}", handlers.task),
        route("/tasks/{task}", handlers.remove, "DELETE"),
        route("/tasks/{task}/why", handlers.why),
        route("/tasks/{task}/log", handlers.log),
        route("/tasks/{task}/cancel", handlers.cancel, "POST"),
        route("/tasks/{task}/kill", handlers.kill, "POST"),
        route("/tasks/{task}/retry", handlers.retry, "POST"),
    ]


def _health_routes(client: Client, renderer: Renderer) -> list[BaseRoute]:
    """For what looks after processes: no credentials, and nothing told but that all is well."""

    async def alive(_: Request) -> Response:
        return PlainTextResponse("ok\n")  # needs no thread: all of them may be waiting for a store that is away

    def ready(_: Call) -> Response:
        client.store.now()  # raises where the store is away, which is told as 503
        return PlainTextResponse("ok\n")

    return [
        Route("/livez", alive, methods=["GET"]),
        Route("/readyz", anyone(ready, renderer.problem), methods=["GET"]),
    ]
