"""Instances: how one promises to be alive, and what people set on it.

Every change of an instance's life is a compare-and-set on its one document: `live` only ever goes from true to
false, and who renews or resumes must name what the document holds. Dead is final.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymongo import ReturnDocument

from slotsched import errors
from slotsched.failpoints import failpoint
from slotsched.model import Capacity, Instance, Status
from slotsched.model.limits import LARGEST_COUNT, LARGEST_SIZE
from slotsched.store.barrier import see_all
from slotsched.store.connection import Connection, Document
from slotsched.store.reading import Reader, Unreadable


class Instances:
    """The instances. Index `_id`, `by_name`, `names`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._instances = connection.collection("instances")
        self._certain = connection.certain("instances")

    # --- an instance's own life -------------------------------------------------------------------
    @failpoint("register")
    def register(self, instance: Instance) -> Instance:
        """The first document of a new instance, before it claims anything; its dates are the server's.

        Safe to send again with the same nonce: one that was declared dead meanwhile stays dead.
        """
        first = {"live": {"$ifNull": ["$live", True]}, "started_at": "$$NOW", "renewed_at": "$$NOW"}
        wishes = {"draining": instance.draining or None, "slots_wanted": instance.slots_wanted}
        taken_over = {
            name: {"$ifNull": [f"${name}", wish]} for name, wish in wishes.items() if wish is not None
        }  # people may have said something else since it was first sent
        with self._connection.guard():
            document = self._instances.find_one_and_update(
                {"_id": instance.id, "nonce": instance.nonce},
                [{"$set": _facts(instance) | first | taken_over}],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        assert document is not None, "an upsert returns what it made"
        return read_instance(document)

    @failpoint("renew")
    def renew(
        self,
        id: str,
        incarnation: int,
        nonces: Sequence[str],
        nonce: str,
        *,
        used: int = 0,
        running: int = 0,
        draining: bool = False,
        capacity: Capacity | None = None,
        free: Capacity | None = None,
        hindrance: str | None = None,
        keeps_for: str | None = None,
        timeout: float | None = None,
    ) -> Instance | None:
        """Puts a new nonce where one of `nonces` (acknowledged .. sent) is; None: this instance is fenced.

        draining: whether it ends by itself. capacity: where it has changed. free: what is left of it. hindrance: why
        it claims nothing now. keeps_for: the task that it keeps slots for. timeout: at most 0.3 of the lease.
        The answer carries what people set meanwhile (`draining`, `slots_wanted`).
        """
        fields: Document = {
            "nonce": nonce,
            "used": used,
            "running": running,
            "leaving": draining,
            "hindrance": {"$literal": hindrance},
            "keeps_for": {"$literal": keeps_for},
            "renewed_at": "$$NOW",
        }
        if capacity is not None:
            fields["capacity"] = {"$literal": capacity_to_document(capacity)}
        if free is not None:
            fields["free"] = {"$literal": capacity_to_document(_nothing_below_zero(free))}
        mine = {"_id": id, "live": True, "incarnation": incarnation, "nonce": {"$in": list(nonces)}}
        with self._connection.guard(timeout):
            document = self._instances.find_one_and_update(
                mine, [{"$set": fields}], return_document=ReturnDocument.AFTER
            )
        return None if document is None else read_instance(document)

    @failpoint("resume")
    def resume(self, instance: Instance) -> Instance | None:
        """The same instance after a restart within one boot, with its next incarnation; None: it was declared dead.

        The write names the nonce that was read before it, so that one delayed by the network cannot undo a later one.
        After an error repeat it, with a fresh nonce. What people set (`draining`, `slots_wanted`) stays.
        """
        alive = {"_id": instance.id, "live": True}
        with self._connection.guard():
            while True:
                seen = self._certain.find_one(alive, {"nonce": 1})
                if seen is None:  # one that has just registered may not be shown yet
                    see_all(self._connection)
                    seen = self._certain.find_one(alive, {"nonce": 1})
                if seen is None:
                    return None
                facts = _facts(instance) | {"incarnation": {"$max": ["$incarnation", instance.incarnation]}}
                document = self._instances.find_one_and_update(
                    {**alive, "nonce": seen.get("nonce")},
                    [{"$set": {**facts, "renewed_at": "$$NOW"}}],
                    return_document=ReturnDocument.AFTER,
                )
                if document is not None:
                    return read_instance(document)

    @failpoint("retire")
    def retire(self, id: str, incarnation: int) -> None:
        """The clean end of an instance that owns nothing any more.

        It names the incarnation, so that one delayed by the network ends nobody who has resumed since and owns tasks.
        """
        with self._connection.guard():
            self._instances.update_one(
                {"_id": id, "live": True, "incarnation": incarnation},
                {"$set": {"live": False, "used": 0, "running": 0, "retired": True}, "$currentDate": {"died_at": True}},
            )

    # --- looking ----------------------------------------------------------------------------------
    def all(self) -> list[Instance]:
        """Every instance that has a readable document, live ones first, by name. Index `by_name`."""
        return self._find({"live": {"$in": [True, False]}})

    def live(self) -> list[Instance]:
        """The instances that nobody declared dead, by name. Index `by_name`."""
        return self._find({"live": True})

    def _find(self, wanted: Document) -> list[Instance]:
        with self._connection.guard():
            found = list(self._instances.find(wanted).sort([("live", -1), ("name", -1)]))
        instances = []
        for document in found:
            try:
                instances.append(read_instance(document))
            except Unreadable:  # an instance nobody can understand is none; `unreadable` tells of it
                continue
        return sorted(instances, key=lambda instance: (not instance.live, instance.name, instance.id))

    def unreadable(self) -> dict[str, str]:
        """Documents that are no instance, with the reason, for a health report."""
        problems = {}
        with self._connection.guard():
            found = list(self._instances.find({}, hint="_id_"))
        for document in found:
            try:
                read_instance(document)
            except Unreadable as why:
                problems[str(document["_id"])] = str(why)
        return problems

    def get(self, id: str) -> Instance:
        """One instance by its full id. Raises NotFound."""
        with self._connection.guard():
            document = self._certain.find_one({"_id": id})
        if document is None:
            raise errors.NotFound(f'no instance "{id}"')
        try:
            return read_instance(document)
        except Unreadable as why:
            raise errors.NotFound(f'instance "{id}" cannot be read: {why}') from why

    def by_name(self, text: str) -> Instance:
        """The instance of a name, an id or an id's beginning (4 characters at least); live ones come first.

        Raises NotFound, and Ambiguous when several live ones share it.
        """
        beginning = {"$regex": f"^{re.escape(text)}"} if len(text) >= 4 else text
        wanted = {"$or": [{"name": text}, {"_id": beginning}]}
        with self._connection.guard():
            found = list(self._instances.find(wanted))
        instances = [instance for instance in map(_read_or_none, found) if instance is not None]
        candidates = [instance for instance in instances if instance.live] or instances
        if not candidates:
            raise errors.NotFound(f'no instance "{text}"')
        if len(candidates) > 1 and candidates[0].live:
            shown = ", ".join(f"{instance.id[:8]} on {instance.host}" for instance in candidates)
            raise errors.Ambiguous(f'"{text}" is ambiguous: {shown}. Give the beginning of an id')
        return max(candidates, key=lambda instance: instance.started_at)

    # --- what people set --------------------------------------------------------------------------
    def wishes(self, id: str) -> tuple[bool, int | None]:
        """Whether the instance is to leave new tasks to others, and how many slots it is to offer; also a dead one's.

        No wishes where there is no such instance. Majority read, index `_id`.
        """
        with self._connection.guard():
            document = self._certain.find_one({"_id": id}, {"draining": 1, "slots_wanted": 1}) or {}
        return document.get("draining") is True, _slots_wanted(Reader(document))

    def set_slots(self, name: str, slots: int) -> Instance:
        """What the instance should offer from its next renewal on. Raises NotFound, Ambiguous, Refused, UsageError."""
        if not 1 <= slots <= LARGEST_COUNT:
            raise errors.UsageError(f"slots: {slots} is not a whole number from 1 to {LARGEST_COUNT}")
        return self._set(name, {"slots_wanted": slots})

    def set_draining(self, name: str, draining: bool) -> Instance:
        """Whether the instance should leave new tasks to others. Raises NotFound, Ambiguous, Refused."""
        return self._set(name, {"draining": draining})

    def _set(self, name: str, fields: Document) -> Instance:
        instance = self.by_name(name)
        with self._connection.guard():
            document = self._instances.find_one_and_update(
                {"_id": instance.id, "live": True}, {"$set": fields}, return_document=ReturnDocument.AFTER
            )
        if document is None:
            raise errors.Refused(f"{instance.name} ({instance.id[:8]}) is not up")
        return read_instance(document)

    def prune(self, older_than: float) -> int:
        """Deletes dead instances that own nothing and died `older_than` seconds ago; how many."""
        long_dead = {"live": False, "$expr": {"$lt": ["$died_at", {"$subtract": ["$$NOW", int(older_than * 1000)]}]}}
        tasks = self._connection.certain("tasks")
        with self._connection.guard():
            ids = [document["_id"] for document in self._instances.find(long_dead, {"_id": 1})]
            idle = [
                i for i in ids if not tasks.find_one({"status": Status.RUNNING.value, "claim.instance": i}, {"_id": 1})
            ]
            return self._delete(idle)

    def _delete(self, ids: Iterable[str]) -> int:
        wanted = {"$in": list(ids)}
        self._connection.collection("jobs").update_many({"holders": wanted}, {"$pull": {"holders": wanted}})
        return self._instances.delete_many({"_id": wanted, "live": False}).deleted_count


def _facts(instance: Instance) -> Document:
    """What an instance says about itself when it starts, as values of an update pipeline."""
    fields = {
        "name": instance.name,
        "host": instance.host,
        "pid": instance.pid,
        "boot_id": instance.boot_id,
        "incarnation": instance.incarnation,
        "nonce": instance.nonce,
        "leaving": False,
        "capacity": capacity_to_document(instance.capacity),
        "used": instance.used,
        "running": instance.running,
        "lease": instance.lease,
        "grace": instance.grace,
        "version": instance.version,
        "containment": dict(instance.containment),
    }
    return {name: {"$literal": value} for name, value in fields.items()}


def capacity_to_document(capacity: Capacity) -> Document:
    document: Document = {
        "slots": capacity.slots,
        "resources": dict(capacity.resources),
        "tags": list(capacity.tags),
    }
    return document if capacity.memory is None else document | {"memory": capacity.memory}


def read_instance(document: Mapping[str, Any]) -> Instance:
    """The instance of a document. Raises Unreadable."""
    instance = Reader(document)
    return Instance(
        id=instance.text("_id"),
        name=instance.text("name"),
        host=instance.text("host"),
        pid=instance.count("pid"),
        boot_id=instance.text("boot_id"),
        incarnation=instance.count("incarnation"),
        nonce=instance.text("nonce"),
        live=instance.flag("live"),
        draining=instance.flag("draining") or instance.flag("leaving"),  # asked by a person, or ending by itself
        capacity=_read_capacity(instance.inner("capacity"), least=1),
        free=_read_capacity(instance.inner("free"), least=0) if instance.has("free") else None,
        used=instance.count("used"),
        running=instance.maybe_count("running") or 0,
        lease=instance.number("lease"),
        grace=instance.number("grace"),
        started_at=instance.date("started_at"),
        renewed_at=instance.date("renewed_at"),
        version=instance.text("version"),
        containment=instance.mapping("containment") if instance.has("containment") else {},
        hindrance=instance.maybe_text("hindrance"),
        keeps_for=instance.maybe_text("keeps_for"),
        slots_wanted=_slots_wanted(instance),
    )


def _read_capacity(capacity: Reader, *, least: int) -> Capacity:
    return Capacity(
        slots=capacity.count("slots"),
        memory=capacity.maybe_count("memory", largest=LARGEST_SIZE),
        resources=capacity.counts("resources", least=least),
        tags=capacity.texts("tags"),
    )


def _nothing_below_zero(free: Capacity) -> Capacity:
    """After a shrink more is held than there is."""
    return replace(
        free,
        slots=max(0, free.slots),
        memory=None if free.memory is None else max(0, free.memory),
        resources={name: max(0, units) for name, units in free.resources.items()},
    )


def _read_or_none(document: Document) -> Instance | None:
    try:
        return read_instance(document)
    except Unreadable:
        return None


def _slots_wanted(instance: Reader) -> int | None:
    """Only a wish: one that cannot be read is none, and must not cost the instance its lease."""
    try:
        return instance.maybe_count("slots_wanted", least=1)
    except Unreadable:
        return None
