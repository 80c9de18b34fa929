"""Tokens of the web face and the sessions of browsers opened with them. Their secrets are kept as hashes only.

A secret is 256 random bits, so a plain SHA-256 is all the hashing it needs: there is nothing to guess. A session is a
short-lived token of its own that names the one it was opened with, and is good for as long as that one is: a new one
of the same name is another.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import secrets
from typing import Any

from pymongo import errors as driver

from slotsched import errors
from slotsched.model import Token
from slotsched.model.limits import LARGEST_SECONDS
from slotsched.store import indexes
from slotsched.store.connection import Connection, Document
from slotsched.store.reading import Reader, Unreadable

PREFIX = "slot_"  # what secret scanners and people know one by
SESSION_SECONDS = 12 * 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_SECRET_BYTES = 32
_LONGEST_SECRET = 200  # nothing longer is hashed for a look-up


class Tokens:
    """The collection `tokens`: tokens by their name as `_id`, sessions by their hash."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tokens = connection.collection("tokens")
        self._certain = connection.certain("tokens")

    def add(self, name: str, *, read_only: bool = False, lifetime: float | None = None) -> str:
        """Makes a token and returns its secret, which nobody can see again. lifetime: seconds, None = for ever.

        Raises UsageError for a name that is none, Refused where it is taken. Where the answer is lost, the token may
        be there without anybody knowing its secret: remove it and make it again.
        """
        if not _NAME.fullmatch(name):
            raise errors.UsageError(
                f'"{name}" is no name for a token: 1 to 64 letters, digits and . _ @ -, a letter or digit first'
            )
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        if lifetime is not None and not lifetime <= LARGEST_SECONDS:
            raise errors.UsageError("a token that ends does so within 31 years; leave its end out")
        now = self._connection.now(fresh=True)
        document: Document = {"_id": name, "hash": _hash(secret), "read_only": read_only, "created_at": now}
        if lifetime is not None:
            document["expires_at"] = now + dt.timedelta(seconds=lifetime)
        indexes.ensure(self._connection)
        with self._connection.guard():
            try:
                self._tokens.insert_one(document)
            except driver.DuplicateKeyError:
                raise errors.Refused(
                    f'there is a token "{name}" already; remove it first: slotsched token rm {name}'
                ) from None
        return secret

    def find(self) -> list[Token]:
        """All tokens by name, expired ones too. Index `by_parent`."""
        with self._connection.guard():
            found = list(self._tokens.find({"parent": {"$exists": False}}).sort("_id", 1))
        return [_shown(document) for document in found]

    def any(self) -> bool:
        """Whether there is a token at all: from the first one on nobody gets in without. Index `by_parent`.

        An expired one counts, and stays until somebody removes it: that time passes must not open a door.
        """
        with self._connection.guard():
            return self._certain.find_one({"parent": {"$exists": False}}, {"_id": 1}) is not None

    def remove(self, name: str) -> None:
        """Deletes a token, and with it every session opened with it. Indexes `_id`, `by_parent`. Raises NotFound.

        The token goes first: a session is refused as soon as its token is gone.
        """
        with self._connection.guard():
            gone = self._remove_one(name)
            self._tokens.delete_many({"parent": name})
            gone = gone or any(map(self._remove_one, self._other_ids(name)))
        if not gone:
            raise errors.NotFound(f'no token "{name}"; slotsched token ls shows all')

    def _remove_one(self, found: Any) -> int:
        return self._tokens.delete_one({"_id": {"$eq": found}, "parent": {"$exists": False}}).deleted_count

    def _other_ids(self, name: str) -> list[Any]:
        """What a listing shows as this name and is no text: a document that nobody made here."""
        ids = [one["_id"] for one in self._tokens.find({"parent": {"$exists": False}}, {"_id": 1})]
        return [one for one in ids if str(one) == name]

    # --- who is it --------------------------------------------------------------------------------
    def verify(self, secret: str) -> Token | None:
        """The token of a secret; None for one that is wrong or over. Index `by_hash`."""
        found = self._by_hash(secret, session=False)
        return None if found is None else self._good(found)

    def open_session(self, token: Token) -> str:
        """A secret that stands for the token for some hours, for a browser's cookie."""
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        now = self._connection.now()
        hashed = _hash(secret)
        expires = now + dt.timedelta(seconds=SESSION_SECONDS)
        session = {"_id": hashed, "hash": hashed, "created_at": now, "expires_at": expires}
        session |= {"parent": token.name, "parent_at": token.created_at}
        indexes.ensure(self._connection)
        with self._connection.guard():
            self._tokens.update_one({"_id": hashed}, {"$setOnInsert": session}, upsert=True)
        return secret

    def session(self, secret: str) -> Token | None:
        """The token that a session was opened with, while both are good. Indexes `by_hash`, `_id`."""
        session = self._by_hash(secret, session=True)
        if session is None or "expires_at" not in session or self._is_over(session):
            return None
        if not isinstance(session["parent"], str):
            return None
        with self._connection.guard():
            parent = self._certain.find_one({"_id": session["parent"], "parent": {"$exists": False}})
        token = None if parent is None else self._good(parent)
        return token if token is not None and token.created_at == session.get("parent_at") else None

    def close_session(self, secret: str) -> None:
        """Ends a session; nothing where there is none. Index `by_hash`."""
        with self._connection.guard():
            self._tokens.delete_one({"hash": _hash(secret), "parent": {"$exists": True}})

    def _by_hash(self, secret: str, *, session: bool) -> Document | None:
        if len(secret) > _LONGEST_SECRET:
            return None
        hashed = _hash(secret)
        with self._connection.guard():
            found = self._certain.find_one({"hash": hashed, "parent": {"$exists": session}})
        return found if found is not None and found["hash"] == hashed else None  # a list that has it is no hash

    def _good(self, document: Document) -> Token | None:
        """A document that makes no sense opens nothing."""
        try:
            token = _read(document)
        except Unreadable:
            return None
        return None if self._is_over(document) else token

    def _is_over(self, document: Document) -> bool:
        """By the server's clock; an end that is no date is over."""
        if "expires_at" not in document:
            return False
        end = document["expires_at"]
        return not isinstance(end, dt.datetime) or end <= self._connection.now()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _read(document: Document) -> Token:
    token = Reader(document)
    if not token.has("read_only"):
        raise Unreadable("read_only: missing")
    return Token(
        name=token.text("_id"),
        read_only=token.flag("read_only"),
        created_at=token.date("created_at"),
        expires_at=token.date("expires_at") if "expires_at" in document else None,
    )


def _shown(document: Document) -> Token:
    """One that cannot be read opens nothing, and is listed as expired so that people can remove it."""
    try:
        return _read(document)
    except Unreadable:
        name: Any = document.get("_id")
        over = dt.datetime.fromtimestamp(0, dt.UTC)
        return Token(name=str(name), read_only=True, created_at=over, expires_at=over)
