"""The connection: concerns that no URI can weaken, one timeout on every call, and the server's clock."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import MongoClient, ReadPreference
from pymongo import errors as driver
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from slotsched import errors
from slotsched.store.errors import STANDALONE, Target, guarded

Document = dict[str, Any]
Pipeline = list[dict[str, Any]]
T = TypeVar("T")

OLDEST_WIRE_VERSION = 13  # MongoDB 5.0: before it, names that begin with $ cannot be stored as data
APP_NAME = "slotsched"
ABANDONED_SECONDS = 5.0  # without a sign of life in a transaction, whose commands follow within milliseconds
GIVE_UP_SECONDS = 1.0  # for the word that a transaction is given up
CLOCK_REFRESH_SECONDS = 30.0
_NO_CHANGE_STREAMS = (13, 59, 115, 40573)  # not allowed to this user, not known to this server
_LOOPBACK = ("127.", "localhost", "[::1]", "::1")

# A date out of Python's range or a text that is not UTF-8 must not make a whole listing unreadable.
_CODEC: CodecOptions[Document] = CodecOptions(
    tz_aware=True,
    tzinfo=dt.UTC,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)


class Contended(Exception):
    """Raised when somebody else is changing, or has changed, what a transaction was to change; it left nothing."""


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What `check` found. set_name: the replica set's, or `mongos`; latency: seconds of the fastest of three pings."""

    version: str
    set_name: str
    change_streams: bool
    latency: float


class Connection:
    """One client, its database, and the rules every query goes by.

    Writes are acknowledged by a majority and journaled. Plain reads are local hints from the primary;
    `certain` gives collections whose reads see only what a majority holds.
    """

    def __init__(self, uri: str, database: str, *, timeout: float, tls: Mapping[str, Any]) -> None:
        self.target = describe(uri)
        self.timeout = timeout
        self._client = _open(uri, self.target, timeout, tls)
        self._database = self._client.get_database(
            database,
            codec_options=_CODEC,
            read_preference=ReadPreference.PRIMARY,
            write_concern=WriteConcern(w="majority", j=True),
            read_concern=ReadConcern("local"),
        )
        self.indexed = False  # whether `indexes.ensure` has been here
        self._offset: tuple[float, float] | None = None  # (boot time of the measurement, server's epoch - boot time)

    def guard(self, timeout: float | None = None) -> AbstractContextManager[None]:
        """One deadline for the calls inside, and our errors instead of the driver's."""
        return guarded(self.target, self.timeout if timeout is None else timeout)

    @property
    def knows_primary(self) -> bool:
        """Whether a call would be sent at once. If not it waits for a server, which the driver tries twice a second."""
        return self._client.topology_description.has_writable_server()

    def collection(self, name: str) -> Collection[Document]:
        """A collection whose writes are certain and whose reads are hints."""
        return self._database[name]

    def certain(self, name: str) -> Collection[Document]:
        """The same collection for reads that decide something irreversible: majority read on the primary."""
        return self._database.get_collection(name, read_concern=ReadConcern("majority"))

    def transaction(self, work: Callable[[ClientSession], T], timeout: float | None = None) -> T:
        """Runs `work(session)` in one transaction (snapshot, majority, journaled) and returns its result.

        It is run again, all within the one deadline, while other transactions are in its way. An error in it leaves
        nothing behind. Raises StoreUnreachable where nobody can tell whether it was committed.
        """
        try:
            with self._session() as session, self.guard(timeout):
                return session.with_transaction(
                    work,
                    read_concern=ReadConcern("snapshot"),
                    write_concern=WriteConcern(w="majority", j=True),
                    read_preference=ReadPreference.PRIMARY,
                )
        except errors.StoreUnreachable as error:
            if isinstance(error.__cause__, driver.OperationFailure):  # answered, and somebody was in the way all along
                with suppress(errors.StoreError):
                    self.free_locks()
            raise

    def attempt(self, work: Callable[[ClientSession], T]) -> T:
        """Like `transaction`, but once. Raises Contended where another transaction is in its way, without waiting.

        For what can be left to the next pass: a process that was killed between its transaction's writes and their
        commit keeps its documents locked for the server's `transactionLifetimeLimitSeconds` (60 unless set).
        """
        with self._session() as session, self.guard():
            try:
                with session.start_transaction(
                    read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True)
                ):
                    return work(session)
            except driver.OperationFailure as error:
                if error.has_error_label("TransientTransactionError"):
                    raise Contended from error
                raise

    @contextmanager
    def _session(self) -> Iterator[ClientSession]:
        """One in whose transaction an answer that did not come leaves nothing locked, as far as the store hears of it.

        The driver would abort the transaction within the deadline that is over by then, and so not at all.
        """
        with self._client.start_session() as session:
            try:
                yield session
            except errors.StoreUnreachable:
                with suppress(driver.PyMongoError), pymongo.timeout(min(self.timeout, GIVE_UP_SECONDS)):
                    self._client["admin"].command("killSessions", [{"id": session.session_id["id"]}])
                raise

    def free_locks(self) -> int:
        """Ends transactions of ours that nobody goes on with, and with them what they lock; how many.

        What a killed process leaves would stay locked for the server's `transactionLifetimeLimitSeconds`, a minute and
        more. A process that was only frozen finds its transaction gone, which is as if it had been contended.
        """
        inactive = {"transaction.timeInactiveMicros": {"$gte": int(ABANDONED_SECONDS * 1e6)}}
        steps: Pipeline = [
            {"$currentOp": {"idleSessions": True, "allUsers": False}},
            {"$match": {"type": "idleSession", "appName": APP_NAME, **inactive}},
        ]
        with self.guard():
            found = [{"id": one["lsid"]["id"]} for one in self._client["admin"].aggregate(steps)]
            if found:
                self._client["admin"].command("killSessions", found)
        return len(found)

    def command(self, name: str) -> Document:
        """A command without arguments against the database. Commands have to be told how times are read: in UTC."""
        return self._database.command(name, codec_options=_CODEC)

    def now(self, *, fresh: bool = False) -> dt.datetime:
        """The server's time, from an offset to this machine's boot clock that is measured every half minute."""
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        if fresh or self._offset is None or boot - self._offset[0] > CLOCK_REFRESH_SECONDS:
            self._offset = self._measure()
            boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        milliseconds = int((boot + self._offset[1]) * 1000)
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)

    def _measure(self) -> tuple[float, float]:
        with self.guard():
            before = time.clock_gettime(time.CLOCK_BOOTTIME)
            answer = self._hello()
            after = time.clock_gettime(time.CLOCK_BOOTTIME)
        return after, answer["localTime"].timestamp() - (before + after) / 2

    def check(self) -> ServerInfo:
        """Whether this server can be used. Raises StoreUnreachable or StoreUnsuitable with what to do about it."""
        with self.guard():
            hello = self._hello()
            version = str(self.command("buildInfo")["version"])
            if hello.get("maxWireVersion", 0) < OLDEST_WIRE_VERSION:
                raise errors.StoreUnsuitable(f"{self.target.uri} is MongoDB {version}; slotsched needs 5.0 or newer")
            return ServerInfo(
                version=version,
                set_name=str(hello.get("setName", "mongos")),
                change_streams=self._has_change_streams(),
                latency=min(self._ping() for _ in range(3)),
            )

    def _hello(self) -> Document:
        """What the server says it is. A standalone is refused here, because every enqueue asks for the time first."""
        hello = self.command("hello")
        if not hello.get("setName") and hello.get("msg") != "isdbgrid":
            raise errors.StoreUnsuitable(STANDALONE.format(uri=self.target.uri))
        return hello

    def _has_change_streams(self) -> bool:
        try:
            self.certain("tasks").watch([]).close()
        except driver.OperationFailure as error:
            if error.code not in _NO_CHANGE_STREAMS:
                raise
            return False
        return True

    def _ping(self) -> float:
        before = time.perf_counter()
        self.command("ping")
        return time.perf_counter() - before

    def close(self) -> None:
        self._client.close()


def describe(uri: str) -> Target:
    """What messages may say about a URI: everything but its password and its options."""
    scheme, slashes, rest = uri.partition("://")
    credentials, at, tail = rest.rpartition("@")  # a password may hold an unescaped "/", which the driver refuses
    hosts = tail.split("/", 1)[0].split("?", 1)[0]
    user, colon, password = credentials.partition(":")
    shown = f"{user}:***@" if colon else f"{user}{at}"
    secrets = tuple(sorted({s for s in (password, unquote(password)) if s}, key=len, reverse=True))
    local = all(host.startswith(_LOOPBACK) for host in hosts.split(","))
    return Target(uri=f"{scheme}{slashes}{shown}{hosts}", local=local, secrets=secrets)


def _open(uri: str, target: Target, timeout: float, tls: Mapping[str, Any]) -> MongoClient[Document]:
    milliseconds = int(timeout * 1000)
    try:
        if urlsplit(uri).scheme not in ("mongodb", "mongodb+srv"):
            raise errors.StoreUnsuitable(
                f"{target.uri} is not a MongoDB URI: it begins with mongodb:// or mongodb+srv://"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # an option that the driver does not know is a mistake
            client: MongoClient[Document] = MongoClient(
                uri,
                connect=False,
                appname=APP_NAME,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                **tls,
            )
    except (driver.PyMongoError, ValueError, OSError, UserWarning) as error:
        raise errors.StoreUnsuitable(target.clean(f"{target.uri} cannot be used: {error}")) from error
    if not client.options.retry_writes:
        client.close()
        raise errors.StoreUnsuitable(
            f"{target.uri} says retryWrites=false; without retries a lost answer could double or lose a task. "
            "Remove the option from mongodb_uri"
        )
    return client


def tls_options(ca: str | None, certificate: str | None, key: str | None) -> tuple[dict[str, Any], Path | None]:
    """The driver's options for our TLS settings, and the private file to remove once they are read.

    The driver wants certificate and key in one file; two files are joined in one that only this user can read.
    """
    options: dict[str, Any] = {}
    joined: Path | None = None
    if ca or certificate:
        options["tls"] = True
    if ca:
        options["tlsCAFile"] = str(ca)
    if certificate and key:
        joined = _join(Path(certificate), Path(key))
        options["tlsCertificateKeyFile"] = str(joined)
    elif certificate:
        options["tlsCertificateKeyFile"] = str(certificate)
    elif key:
        raise errors.InvalidSettings("tls_key needs tls_cert beside it")
    return options, joined


def _join(certificate: Path, key: Path) -> Path:
    try:
        content = certificate.read_bytes().rstrip() + b"\n" + key.read_bytes()
    except OSError as error:
        raise errors.InvalidSettings(f"cannot read {error.filename}: {error.strerror}") from error
    with tempfile.NamedTemporaryFile(prefix="slotsched-tls-", suffix=".pem", delete=False) as file:  # created 0600
        file.write(content)
    return Path(file.name)
