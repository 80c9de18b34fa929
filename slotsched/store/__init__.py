"""MongoDB, and the only place that knows it: every query is a named method, every write says what it races with.

All ids are texts here (24 hex digits for tasks, uuids for instances). Errors are StoreUnreachable (try again, the
effect is unknown), StoreUnsuitable, InvalidDocument, and the ones of the operation itself.
"""

from __future__ import annotations

import datetime as dt

from slotsched.store.catalogs import Catalogs
from slotsched.store.connection import Connection, ServerInfo, tls_options
from slotsched.store.declared import Changed, Declared
from slotsched.store.enqueue import Enqueued
from slotsched.store.firing import DueSchedule, Firing
from slotsched.store.instances import Instances
from slotsched.store.permits import Permits, Wanted
from slotsched.store.queue import Held, Queue, Waiting
from slotsched.store.rates import Grant, Rates, Room
from slotsched.store.rescue import Rescue
from slotsched.store.resolve import Followed, Resolve
from slotsched.store.schedules import ScheduleFilter, Schedules
from slotsched.store.tails import Chunk, Tails
from slotsched.store.tasks import TaskFilter, Tasks
from slotsched.store.tokens import Tokens
from slotsched.store.upkeep import Upkeep
from slotsched.store.watch import Event, Followers, Freed, Touched, Watch, Work

__all__ = [
    "Catalogs",
    "Changed",
    "Chunk",
    "Declared",
    "DueSchedule",
    "Enqueued",
    "Event",
    "Firing",
    "Followed",
    "Followers",
    "Freed",
    "Grant",
    "Held",
    "Instances",
    "Permits",
    "Queue",
    "Rates",
    "Rescue",
    "Resolve",
    "Room",
    "ScheduleFilter",
    "Schedules",
    "ServerInfo",
    "Store",
    "Tails",
    "TaskFilter",
    "Tasks",
    "Tokens",
    "Touched",
    "Upkeep",
    "Waiting",
    "Wanted",
    "Watch",
    "Work",
    "connect",
]


class Store:
    """Everything a slotsched process asks MongoDB, grouped by who asks."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.tasks = Tasks(connection)
        self.queue = Queue(connection)
        self.permits = Permits(connection, self.queue)
        self.rates = Rates(connection)
        self.instances = Instances(connection)
        self.rescue = Rescue(connection)
        self.resolve = Resolve(connection)
        self.catalogs = Catalogs(connection)
        self.schedules = Schedules(connection)
        self.firing = Firing(connection, self.catalogs)
        self.declared = Declared(connection, self.catalogs, self.schedules)
        self.tails = Tails(connection)
        self.tokens = Tokens(connection)
        self.upkeep = Upkeep(connection, self.instances, self.catalogs)

    @property
    def uri(self) -> str:
        """The URI without its password and options, as messages show it."""
        return self._connection.target.uri

    @property
    def knows_primary(self) -> bool:
        """Whether a call would be sent at once, as far as is known without asking."""
        return self._connection.knows_primary

    def now(self) -> dt.datetime:
        """The server's time, asked for now."""
        return self._connection.now(fresh=True)

    def check(self) -> ServerInfo:
        """Asks the server whether it can be used. Raises StoreUnreachable or StoreUnsuitable."""
        return self._connection.check()

    def init(self) -> None:
        """Creates the indexes; safe to repeat."""
        self.upkeep.init()

    def watch(self) -> Watch:
        """A change stream over the tasks, as a context manager."""
        return Watch(self._connection)

    def close(self) -> None:
        """Ends the connections; the store is of no use after it."""
        self._connection.close()


def connect(
    uri: str,
    database: str = "slotsched",
    *,
    timeout: float = 5.0,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
) -> Store:
    """A store that connects on first use; every call ends within `timeout` seconds.

    Raises StoreUnsuitable for a URI that cannot be used or that weakens the guarantees, InvalidSettings for TLS files
    that cannot be read.
    """
    options, private = tls_options(tls_ca, tls_cert, tls_key)
    try:
        return Store(Connection(uri, database, timeout=timeout, tls=options))
    finally:
        if private is not None:
            private.unlink(missing_ok=True)  # the driver has read it
