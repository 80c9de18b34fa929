"""Taking over what a dead instance left: look, fence, and only then touch its tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slotsched import errors
from slotsched.failpoints import failpoint
from slotsched.model import Status
from slotsched.store import pipelines
from slotsched.store.barrier import see_all
from slotsched.store.connection import Connection

_RUNNING = Status.RUNNING.value


class Rescue:
    """What any instance may do for the others. Who watches decides by its own clock; the store's never ends a lease."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks = connection.collection("tasks")
        self._instances = connection.collection("instances")
        self._certain = connection.certain("instances")

    def owners(self) -> list[str]:
        """The ids of instances that own a running task. Index `claims`, one key per instance."""
        with self._connection.guard():
            found = self._tasks.distinct("claim.instance", {"status": _RUNNING})
        return [owner for owner in found if isinstance(owner, str)]

    def seen(self, ids: Iterable[str]) -> dict[str, tuple[bool, Any] | None]:
        """Whether each instance is live, and its nonce; None where there is no document. Majority read, index `_id`.

        The nonce is what the document holds, of whatever type: an unreadable instance can be fenced by it all the same.
        """
        wanted = list(ids)
        with self._connection.guard():
            found = {
                document["_id"]: (document.get("live") is True, document.get("nonce"))
                for document in self._certain.find({"_id": {"$in": wanted}}, {"live": 1, "nonce": 1})
            }
        return {instance_id: found.get(instance_id) for instance_id in wanted}

    @failpoint("fence")
    def fence(self, instance_id: str, nonce: Any) -> bool:
        """Declares an instance dead if its nonce is still the one that was seen; whether this call did. Index `_id`."""
        with self._connection.guard():
            fenced = self._instances.update_one(
                {"_id": instance_id, "live": True, "nonce": nonce},
                {"$set": {"live": False}, "$currentDate": {"died_at": True}},
            )
        return fenced.matched_count == 1

    @failpoint("take")
    def take(self, instance_id: str) -> int:
        """Ends or reschedules every task of an instance that is dead or absent; how many. Index `claims`.

        Repeatable: what an error left undone, the next call does. Raises Refused for an instance that is live.
        """
        sight = self.seen([instance_id])[instance_id]
        if sight is None:  # one that has just registered may not be shown yet; that it is dead is final
            with self._connection.guard():
                see_all(self._connection)
            sight = self.seen([instance_id])[instance_id]
        if sight is not None and sight[0]:
            raise errors.Refused(f"instance {instance_id} is live; its tasks are its own")
        theirs = {"status": _RUNNING, "claim.instance": instance_id}
        message = f"instance {instance_id} was lost"
        try:
            with self._connection.guard():
                return self._tasks.update_many(theirs, pipelines.take(message)).modified_count
        except errors.InvalidDocument as why:  # one document at fault must not keep the others waiting
            return self._take_one_by_one(instance_id, message, str(why))

    def _take_one_by_one(self, instance_id: str, message: str, why: str) -> int:
        taken = 0
        with self._connection.guard():
            theirs = list(self._tasks.find({"status": _RUNNING, "claim.instance": instance_id}, {"_id": 1}))
        for document in theirs:
            one = {"_id": document["_id"], "status": _RUNNING, "claim.instance": instance_id}
            try:
                with self._connection.guard():
                    taken += self._tasks.update_one(one, pipelines.take(message)).modified_count
            except errors.InvalidDocument:
                with self._connection.guard():
                    taken += self._tasks.update_one(one, pipelines.invalid(f"{message}; {why}")).modified_count
        return taken
