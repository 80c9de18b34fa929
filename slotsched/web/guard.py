"""What holds for every call, whoever makes it: which hosts are answered, which pages may send, what a browser is told.

- A `Host` that is a name has to be known here. A foreign site that lets its own name point at this server (DNS
  rebinding) could read everything otherwise; an address cannot be pointed anywhere.
- What changes something must come from our own pages, or from no page at all: `Origin` and `Sec-Fetch-Site`.
- A page of another site may lead here, and load nothing: where no token is needed its images could start searches.
- The policy lets a page run nothing and load nothing but our own files, be framed by nobody, and send forms to us only.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slotsched.web.problems import Problem, as_json

SAFE_METHODS = frozenset({"GET", "HEAD"})
LOCAL_NAMES = frozenset({"localhost"})
OWN_SITES = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site; none: typed in, or no browser
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Guard:
    """The outermost layer of the application. hosts: names, lower case, beside `localhost` and all addresses."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = LOCAL_NAMES | {host.lower().rstrip(".") for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSocket is spoken here: the server refuses the handshake

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope["method"], Headers(scope=scope))
        except Problem as problem:
            await as_json(problem)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, method: str, headers: Headers) -> None:
        given = headers.getlist("host")
        if len(given) != 1 or not self._is_known(given[0]):
            named = f'"{given[0][:100]}"' if len(given) == 1 else "that"
            raise Problem(400, f"no host {named} is served here; names are allowed by the setting web_hosts")
        if method not in SAFE_METHODS and not _is_ours(headers, given[0]):
            raise Problem(403, "this came from a page of another site, and was not carried out")
        if not _is_visit(headers):
            raise Problem(403, "pages of other sites may lead here, and load nothing")

    def _is_known(self, given: str) -> bool:
        found = _HOST.fullmatch(given)
        if found is None:
            return False
        host = found["host"].strip("[]").lower()
        return host.rstrip(".") in self._hosts or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_visit(headers: Headers) -> bool:
    """Whether this is no page of another site that loads something of ours into itself."""
    if headers.get("sec-fetch-site", "none") in OWN_SITES:
        return True
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")


def _is_ours(headers: Headers, host: str) -> bool:
    """Whether a call that changes something comes from a page of ours, or from a program, which has no page."""
    if headers.get("sec-fetch-site", "none") not in OWN_SITES:
        return False
    origin = headers.get("origin")
    return origin is None or origin.lower() in {f"http://{host.lower()}", f"https://{host.lower()}"}
