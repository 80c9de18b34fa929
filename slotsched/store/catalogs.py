"""The published catalogs: which job, in which copy, on which instances; and which jobs are switched off.

One document per (job, content hash) holds the facts, the arguments' schema, when the store first saw that content,
and who holds it. A file that cannot be read is one document per instance. A switch is a document of its own, so
that publishing never turns a job on again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from pymongo import UpdateMany, UpdateOne

from slotsched.failpoints import failpoint
from slotsched.model import Broken, Job, job_from_document, job_to_document
from slotsched.model.job import storable_text
from slotsched.store import indexes
from slotsched.store.connection import Connection, Document

_COPY, _BROKEN, _SWITCH = "copy", "broken", "switch"
_MOST_JOBS = 1000  # operations sent at once


class Catalogs:
    """The collection `jobs`. Indexes `by_job`, `by_holder`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._jobs = connection.collection("jobs")
        self._instances = connection.collection("instances")

    @failpoint("publish")
    def publish(self, instance_id: str, jobs: Sequence[Job], broken: Sequence[Broken] = ()) -> None:
        """Says what this instance holds now, and that it holds nothing else. Safe to repeat."""
        copies = {_copy_id(job): job for job in jobs}
        unusable = {_broken_id(file.name, instance_id): file for file in broken}
        writes: list[UpdateOne | UpdateMany] = [_put_copy(copy_id, job, instance_id) for copy_id, job in copies.items()]
        writes += [_put_broken(broken_id, file, instance_id) for broken_id, file in unusable.items()]
        writes.append(
            UpdateMany(
                {"kind": _COPY, "holders": instance_id, "_id": {"$nin": list(copies)}},
                {"$pull": {"holders": instance_id}},
            )
        )
        for start in range(0, len(writes), _MOST_JOBS):
            with self._connection.guard():
                self._jobs.bulk_write(writes[start : start + _MOST_JOBS], ordered=False)
        with self._connection.guard():
            self._jobs.delete_many({"kind": _BROKEN, "holders": instance_id, "_id": {"$nin": list(unusable)}})

    def newest(self, name: str) -> Job | None:
        """The copy whose content was first published last, by the server's clock; one that a living instance holds,
        if any.
        """
        return self.newest_of([name], dead=self.dead()).get(name)

    def dead(self) -> set[str]:
        """Instances that ended: what they held last may be older than what the same machine holds now."""
        with self._connection.guard():
            return {str(one["_id"]) for one in self._instances.find({"live": False}, {"_id": 1})}

    def newest_of(
        self, names: Iterable[str], *, held: bool = False, dead: Collection[str] = frozenset()
    ) -> dict[str, Job]:
        """`newest` of several jobs in one query; those that exist.

        held: only copies that somebody holds. dead: ids of instances whose copies do not count as held.
        """
        wanted: Document = {"kind": _COPY, "job": {"$in": sorted(names)}}
        newest: dict[str, tuple[bool, Job]] = {}
        with self._connection.guard():
            for document in self._jobs.find(wanted).sort([("job", 1), ("first_at", -1)]).hint("by_job"):
                is_held = bool(set(document.get("holders") or ()) - set(dead))
                known = newest.get(document["job"])
                if (held and not is_held) or (known is not None and (known[0] or not is_held)):
                    continue
                job = _read_job(document)
                if job is not None:
                    newest[document["job"]] = (is_held, job)
        return {name: job for name, (_, job) in newest.items()}

    def names(self) -> list[str]:
        """Every job that was ever published and not pruned, sorted."""
        with self._connection.guard():
            found = self._jobs.distinct("job", {"kind": _COPY})
        return sorted(name for name in found if isinstance(name, str))

    def holders(self) -> dict[str, set[str]]:
        """The ids of the instances that hold a readable copy of each job."""
        return {job: set().union(*copies.values()) for job, copies in self.copies().items()}

    def copies(self) -> dict[str, dict[str, set[str]]]:
        """Per job and content hash, the ids of the instances that hold it."""
        copies: dict[str, dict[str, set[str]]] = {}
        with self._connection.guard():
            for document in self._jobs.find({"kind": _COPY}, {"job": 1, "hash": 1, "holders": 1}).hint("by_job"):
                holders = document.get("holders")
                if isinstance(document.get("job"), str) and isinstance(holders, list):
                    copies.setdefault(document["job"], {})[str(document.get("hash"))] = {str(h) for h in holders}
        return copies

    def broken(self) -> dict[str, dict[str, str]]:
        """Per job whose file is broken somewhere: what is wrong, by instance id."""
        broken: dict[str, dict[str, str]] = {}
        with self._connection.guard():
            for document in self._jobs.find({"kind": _BROKEN}).hint("by_job"):
                holders = document.get("holders")
                for holder in holders if isinstance(holders, list) else []:
                    broken.setdefault(str(document.get("job")), {})[str(holder)] = str(document.get("message"))
        return broken

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Switches a job on or off on every instance; tasks that run go on."""
        indexes.ensure(self._connection)
        with self._connection.guard():
            if enabled:
                self._jobs.delete_one({"_id": _switch_id(name)})
            else:
                switch = {"kind": _SWITCH, "job": name, "enabled": False}
                self._jobs.update_one({"_id": _switch_id(name)}, {"$set": switch}, upsert=True)

    def disabled(self) -> set[str]:
        """The jobs that are switched off."""
        with self._connection.guard():
            found = list(self._jobs.find({"kind": _SWITCH, "enabled": False}, {"job": 1}).hint("by_job"))
        return {document["job"] for document in found if isinstance(document.get("job"), str)}

    def prune(self, older_than: float) -> int:
        """Deletes copies that nobody holds and that were first seen `older_than` seconds ago; how many."""
        old = {"$expr": {"$lt": ["$first_at", {"$subtract": ["$$NOW", int(older_than * 1000)]}]}}
        with self._connection.guard():
            return self._jobs.delete_many({"kind": _COPY, "holders": [], **old}).deleted_count


def _put_copy(copy_id: str, job: Job, instance_id: str) -> UpdateOne:
    fields: Document = {
        "kind": _COPY,
        "job": job.name,
        "hash": job.hash,
        "definition": {"$literal": job_to_document(job)},
        "first_at": {"$ifNull": ["$first_at", "$$NOW"]},
        "holders": {"$setUnion": [{"$cond": [{"$isArray": "$holders"}, "$holders", []]}, [instance_id]]},
    }
    return UpdateOne({"_id": copy_id}, [{"$set": fields}], upsert=True)


def _put_broken(broken_id: str, file: Broken, instance_id: str) -> UpdateOne:
    name, message = storable_text(file.name), storable_text(str(file))
    fields = {"kind": _BROKEN, "job": name, "message": message, "holders": [instance_id]}
    return UpdateOne({"_id": broken_id}, {"$set": fields}, upsert=True)


def _read_job(document: Document) -> Job | None:
    """None for a definition that cannot be read: a newer or a damaged one must not stop a listing."""
    definition: Any = document.get("definition")
    try:
        job = job_from_document(definition)
    except (ValueError, AttributeError):
        return None
    return job if isinstance(job, Job) else None


def _copy_id(job: Job) -> str:
    return f"{_COPY}:{job.name}@{job.hash}"


def _broken_id(name: str, instance_id: str) -> str:
    return f"{_BROKEN}:{storable_text(name)}@{instance_id}"


def _switch_id(name: str) -> str:
    return f"{_SWITCH}:{name}"
