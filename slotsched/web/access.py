"""Who is calling, and what they may do.

Programs show a token on every call (`Authorization: Bearer`). A browser shows one once, on the sign-in page, and has
a session cookie from then on. As long as no token was ever made, and only where nobody but this machine can connect,
everybody is let in: whoever is on this machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotsched.model import Token
from slotsched.request import user_name
from slotsched.web.problems import Problem

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from slotsched.store import Store

COOKIE = "slotsched"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="slotsched"'}


@dataclass(frozen=True, kw_only=True)
class Caller:
    """name: the owner of what it enqueues, `by` of what it cancels. session: the secret in the browser's cookie."""

    name: str
    read_only: bool = False
    session: str | None = None

    def must_write(self) -> None:
        """Raises Problem for one who may only look."""
        if self.read_only:
            raise Problem(403, f'the token "{self.name}" may look, and change nothing')


class Access:
    """local: only this machine can connect. store: asked for each time, since it connects on first use."""

    def __init__(self, store: Callable[[], Store], *, local: bool) -> None:
        self._store = store
        self._local = local
        self._secret = secrets.token_urlsafe()  # of this process: for forms of callers without a session

    def program(self, headers: Headers) -> Caller:
        """The caller of an API call. Raises Problem 401 for none, or a wrong one."""
        given = headers.get("authorization")
        if given is None:
            if self._is_open():
                return Caller(name=user_name())
            raise Problem(401, "a token is needed: Authorization: Bearer ...", _CHALLENGE)
        scheme, _, secret = given.partition(" ")
        token = self._store().tokens.verify(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise Problem(401, "this token is wrong, expired or removed", _CHALLENGE)
        return Caller(name=token.name, read_only=token.read_only)

    def person(self, cookie: str | None) -> Caller | None:
        """The caller of a page; None for one who has to sign in first."""
        token = self._store().tokens.session(cookie) if cookie else None
        if token is not None:
            return Caller(name=token.name, read_only=token.read_only, session=cookie)
        return Caller(name=user_name()) if self._is_open() else None

    def sign_in(self, secret: str) -> str | None:
        """The secret of a new session for the token; None for a wrong one."""
        token: Token | None = self._store().tokens.verify(secret)
        return None if token is None else self._store().tokens.open_session(token)

    def sign_out(self, caller: Caller) -> None:
        if caller.session is not None:
            self._store().tokens.close_session(caller.session)

    def form_key(self, caller: Caller) -> str:
        """What a form of ours carries and one of another site cannot know: it follows from the cookie's secret."""
        secret = caller.session or self._secret
        return hashlib.sha256(f"form:{secret}".encode()).hexdigest()

    def check_form(self, caller: Caller, given: str) -> None:
        """Raises Problem for a form that no page of ours has made for this caller."""
        if not hmac.compare_digest(self.form_key(caller).encode(), given.encode("utf-8", "surrogatepass")):
            raise Problem(403, "this form is not from a page of this session; reload the page and try again")

    def _is_open(self) -> bool:
        return self._local and not self._store().tokens.any()
