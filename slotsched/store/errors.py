"""The one place where the driver's errors become ours.

Three kinds leave the package: the store did not answer (try again, the effect is unknown), the store cannot be
used at all, and the store will never take this document. What is not known to be permanent counts as the first,
because giving up on a task for a passing trouble is the worse mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pymongo
from bson.errors import BSONError
from pymongo import errors as driver

from slotsched import errors

# Refused for good: the document or the expression itself is at fault, on any server at any time.
_PERMANENT_CODES = frozenset({2, 9, 14, 15, 22, 28, 40, 52, 55, 56, 57, 66, 121, 10334, 11000, 17280, 17419, 17420})
_EVALUATION_CODES = range(15947, 100_000_000)  # "Location..." codes: an expression met a value it cannot work on
_PASSING_CODES = frozenset({16500, 50915})  # inside that range, but they pass: too many requests, a backup
NOT_AUTHORIZED = 13
_CREDENTIAL_CODES = frozenset({18, 8000})
_UNSUITABLE_CODES = frozenset({20, 59, 115, 40415, 40573})  # needs a replica set, or lacks a command or an option

STANDALONE = (
    "{uri} is a standalone mongod; slotsched needs a replica set, of one member at least. "
    "Start mongod with --replSet rs0 and run rs.initiate() once; or let slotsched start its own: slotsched up"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """What messages say about the server: `uri` without its password, and the secrets no message may hold."""

    uri: str
    local: bool
    secrets: tuple[str, ...] = ()

    def clean(self, text: str) -> str:
        """The text without the password, escaped or not."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


@contextmanager
def guarded(target: Target, timeout: float) -> Iterator[None]:
    """Runs driver calls under one deadline, `timeout` seconds for all of them; their errors leave as ours."""
    try:
        with pymongo.timeout(timeout):
            yield
    except (driver.PyMongoError, BSONError, OverflowError, UnicodeError, RecursionError) as error:
        raise translate(error, target, timeout) from error


def translate(error: Exception, target: Target, timeout: float) -> errors.StoreError:
    """Our error for one of the driver's."""
    if not isinstance(error, driver.PyMongoError) or isinstance(error, driver.DocumentTooLarge):
        return errors.InvalidDocument(f"this cannot be stored: {refusal(error)}")
    if isinstance(error, (driver.ConfigurationError, driver.InvalidURI)):
        return errors.StoreUnsuitable(target.clean(f"{target.uri} cannot be used: {error}"))
    if isinstance(error, driver.OperationFailure) and not error.timeout:
        return _translate_refusal(error, target)
    if isinstance(error, (driver.ConnectionFailure, driver.OperationFailure)) or error.timeout:
        return errors.StoreUnreachable(_unreachable(error, target, timeout))
    return errors.StoreUnreachable(target.clean(f"{target.uri} could not be asked: {error}"))


def refusal(error: Exception) -> str:
    """Why a document cannot be encoded, in words."""
    text = str(error)
    if isinstance(error, OverflowError):
        return "an integer does not fit 64 bits"
    if isinstance(error, UnicodeError):
        return "a text holds a lone surrogate, which is not valid Unicode"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, driver.DocumentTooLarge):
        return "it is larger than 16 MB"
    if "NULL" in text:
        return "a name holds a NUL character"
    if "string keys" in text or "key names must be" in text:
        return "a name is not a text"
    return text


def _translate_refusal(error: driver.OperationFailure, target: Target) -> errors.StoreError:
    details: Mapping[str, Any] = error.details or {}
    if isinstance(error, driver.BulkWriteError):  # what it is about is in the first of its parts
        details = next(iter([*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]), details)
    code = details.get("code", error.code) or 0
    said = _first_line(target.clean(str(details.get("errmsg", error))))
    if code == NOT_AUTHORIZED:
        return errors.StoreUnsuitable(
            f"{target.uri} does not let this user {_refused_act(said)}. "
            "Give the user in mongodb_uri a role that may, or use another user"
        )
    if code in _CREDENTIAL_CODES:
        return errors.StoreUnsuitable(f"{target.uri} refused the credentials: {said}. Check the user in mongodb_uri")
    if code in (20, 40573) and "replica set" in said:
        return errors.StoreUnsuitable(STANDALONE.format(uri=target.uri))
    if code in _UNSUITABLE_CODES:
        return errors.StoreUnsuitable(f"{target.uri} cannot be used: {said}")
    if _is_permanent(error, code):
        return errors.InvalidDocument(f"the store refuses this: {said}")
    return errors.StoreUnreachable(f"{target.uri} could not do it now: {said}")


_REFUSED_ACT = re.compile(r'not authorized on (?P<db>\S+) to execute command \{ (?P<act>\w+): (?:"(?P<name>[^"]*)")?')


def _refused_act(said: str) -> str:
    """`insert in slotsched.tasks` out of a server's sentence that quotes the whole command."""
    if "requires authentication" in said:
        return f"in ({said})"
    found = _REFUSED_ACT.search(said)
    if found is None:
        return f"do it ({said})"
    return f"do this: {found['act']} in {found['db']}" + (f".{found['name']}" if found["name"] else "")


def _is_permanent(error: driver.OperationFailure, code: int) -> bool:
    if error.has_error_label("RetryableWriteError") or error.has_error_label("TransientTransactionError"):
        return False
    return code in _PERMANENT_CODES or (code in _EVALUATION_CODES and code not in _PASSING_CODES)


def _unreachable(error: driver.PyMongoError, target: Target, timeout: float) -> str:
    why = _why(target.clean(str(error)))
    hint = "Start one with: slotsched up" if target.local else "Check that it is up and that mongodb_uri is right"
    if why == _NO_PRIMARY:
        hint = "Its set lacks a majority, or has another name than replicaSet in mongodb_uri"
    return f"cannot reach {target.uri} ({why}) after {timeout:g} s. {hint}"


_NO_PRIMARY = "no primary"
_WHYS = (
    (re.compile(r"connection refused", re.I), "refused"),
    (
        re.compile(r"name or service not known|nodename nor servname|temporary failure in name|getaddrinfo", re.I),
        "unknown host",
    ),
    (re.compile(r"certificate verify failed[^(]*", re.I), "its certificate is not trusted; set tls_ca"),
    (re.compile(r"SSL|TLS"), "TLS failed"),
    (re.compile(r"no primary|not primary|no replica set members|primary", re.I), _NO_PRIMARY),
    (re.compile(r"network is unreachable|no route to host", re.I), "no route"),
    (re.compile(r"connection (closed|reset)|broken pipe", re.I), "connection lost"),
    (re.compile(r"timed? ?out|timeout|time limit", re.I), "no answer"),
)


def _why(text: str) -> str:
    for pattern, words in _WHYS:
        if pattern.search(text):
            return words
    return _first_line(text)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0].split(", full error", 1)[0].split(", Timeout:", 1)[0][:300].rstrip(". ")
