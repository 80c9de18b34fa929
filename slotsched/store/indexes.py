"""Every index, in one place, with the queries it is there for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo import errors as driver

from slotsched import errors
from slotsched.model import ScheduleStatus, Status
from slotsched.store.connection import Connection
from slotsched.store.errors import NOT_AUTHORIZED

TAIL_SECONDS = 24 * 3600  # how long after its last write a live tail stays

_UP, _DOWN = ASCENDING, DESCENDING

INDEXES: Mapping[str, tuple[IndexModel, ...]] = {
    "tasks": (
        # candidates, heads, lanes, blocked: covered, merged over the lanes, only what is due
        IndexModel(
            [("status", _UP), ("lane", _UP), ("rank", _UP), ("_id", _UP)],
            name="queue",
            partialFilterExpression={"status": Status.PENDING.value},
        ),
        # promote, next_due
        IndexModel(
            [("status", _UP), ("due_at", _UP)],
            name="due",
            partialFilterExpression={"status": Status.SCHEDULED.value},
        ),
        # owners, held, take
        IndexModel(
            [("status", _UP), ("claim.instance", _UP)],
            name="claims",
            partialFilterExpression={"status": Status.RUNNING.value},
        ),
        # claim, settle; only running tasks have a claim
        IndexModel([("claim.token", _UP)], name="tokens", sparse=True),
        # one task per idempotency key
        IndexModel([("key", _UP)], name="keys", unique=True, partialFilterExpression={"key": {"$exists": True}}),
        # each permit of a limit has one holder; held, claim of tasks with a limit
        IndexModel(
            [("permits", _UP)],
            name="permits",
            unique=True,
            partialFilterExpression={"permits": {"$exists": True}},
        ),
        # one open task per job and arguments, where the job says so
        IndexModel(
            [("unique_key", _UP)],
            name="uniques",
            unique=True,
            partialFilterExpression={"unique_key": {"$exists": True}},
        ),
        # resolve: the tasks that wait for others, by whom they still wait for
        IndexModel([("after", _UP)], name="waiters", partialFilterExpression={"status": Status.WAITING.value}),
        # resolve: ended tasks whose followers are to be told; the others among them have followers and run still
        IndexModel([("status", _UP), ("_id", _UP)], name="resolving", partialFilterExpression={"resolve": True}),
        # look_up by the id's ending
        IndexModel([("rid", _UP)], name="endings"),
        # find, counts
        IndexModel([("status", _UP), ("_id", _DOWN)], name="by_status"),
        IndexModel([("job", _UP), ("status", _UP), ("_id", _DOWN)], name="by_job"),
        IndexModel(
            [("owner", _UP), ("status", _UP), ("_id", _DOWN)],
            name="by_owner",
            partialFilterExpression={"owner": {"$exists": True}},
        ),
        IndexModel(
            [("tags", _UP), ("status", _UP), ("_id", _DOWN)],
            name="by_tag",
            partialFilterExpression={"tags": {"$exists": True}},
        ),
        # fire, backfill: one task per schedule and nominal time
        IndexModel(
            [("schedule", _UP), ("nominal_at", _UP)],
            name="rounds",
            unique=True,
            partialFilterExpression={"schedule": {"$exists": True}, "nominal_at": {"$exists": True}},
        ),
        # history, clear_history
        IndexModel(
            [("schedule", _UP), ("_id", _DOWN)],
            name="by_schedule",
            partialFilterExpression={"schedule": {"$exists": True}},
        ),
        # find by end, prune
        IndexModel(
            [("status", _UP), ("ended_at", _DOWN)],
            name="by_end",
            partialFilterExpression={"ended_at": {"$exists": True}},
        ),
        # prune of tasks whose job says how long to keep them
        IndexModel([("expire_at", _UP)], name="expiring", sparse=True),
    ),
    "schedules": (
        # due, next_due
        IndexModel(
            [("status", _UP), ("next_at", _UP)],
            name="due",
            partialFilterExpression={"status": ScheduleStatus.ACTIVE.value, "next_at": {"$exists": True}},
        ),
        # fire: whose rounds follow this one's
        IndexModel(
            [("after", _UP)],
            name="followers",
            partialFilterExpression={"status": ScheduleStatus.ACTIVE.value, "after": {"$exists": True}},
        ),
        # find
        IndexModel([("status", _UP), ("_id", _UP)], name="by_status"),
        IndexModel([("job", _UP), ("_id", _UP)], name="by_job"),
        IndexModel(
            [("owner", _UP), ("_id", _UP)], name="by_owner", partialFilterExpression={"owner": {"$exists": True}}
        ),
        IndexModel(
            [("label", _UP), ("_id", _UP)], name="by_label", partialFilterExpression={"label": {"$exists": True}}
        ),
        # follow: the ones that job files declare
        IndexModel([("source.kind", _UP), ("_id", _UP)], name="by_source"),
    ),
    "instances": (
        IndexModel([("live", _UP), ("name", _UP)], name="by_name"),
        IndexModel([("name", _UP)], name="names"),
    ),
    "jobs": (
        IndexModel([("kind", _UP), ("job", _UP), ("first_at", _DOWN)], name="by_job"),
        IndexModel([("holders", _UP)], name="by_holder"),
    ),
    "tokens": (
        # verify, session
        IndexModel([("hash", _UP)], name="by_hash", unique=True, partialFilterExpression={"hash": {"$exists": True}}),
        # remove: the sessions of a token; find, any: tokens have no parent
        IndexModel([("parent", _UP), ("_id", _UP)], name="by_parent"),
        # sessions go by themselves; an expired token stays, or its end would open the web face to everybody
        IndexModel(
            [("expires_at", _UP)],
            name="ttl",
            expireAfterSeconds=0,
            partialFilterExpression={"parent": {"$exists": True}},
        ),
    ),
    "log_tail": (IndexModel([("at", _UP)], name="ttl", expireAfterSeconds=TAIL_SECONDS),),
}


def ensure(connection: Connection) -> None:
    """`create`, once per connection, before a first write: no key is unique in a database that nobody has set up."""
    if not connection.indexed:
        create(connection)


def create(connection: Connection) -> None:
    """Creates what is missing; running it again, or on several machines at once, changes nothing.

    A user who may not create indexes can go on where somebody else has. StoreUnsuitable where one is missing.
    """
    connection.now(fresh=True)  # a store that is away is told after the usual timeout
    with connection.guard(max(connection.timeout, 60.0)):  # on a filled collection this takes a while, once
        for name, indexes in INDEXES.items():
            try:
                connection.collection(name).create_indexes(list(indexes))
            except driver.OperationFailure as error:
                if error.code != NOT_AUTHORIZED:
                    raise
                _look_for(connection, name, indexes)
    connection.indexed = True


def _look_for(connection: Connection, name: str, indexes: Sequence[IndexModel]) -> None:
    there = connection.collection(name).index_information()
    missing = [index.document["name"] for index in indexes if index.document["name"] not in there]
    if missing:
        raise errors.StoreUnsuitable(
            f"{connection.target.uri}: this user may not create indexes, and {name} lacks {', '.join(missing)}. "
            "Run once, as a user who may: slotsched db init"
        )
