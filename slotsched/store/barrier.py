"""What a majority read needs in front of it where its answer is believed to be all there is."""

from __future__ import annotations

from slotsched.store.connection import Connection


def see_all(connection: Connection) -> None:
    """Within a guard: the majority reads after it see everything that was acknowledged before it.

    A new primary has every acknowledged write, but at first its majority reads may not show the last of them. This
    write makes sure that it is the primary, and that what it shows has caught up.
    """
    barrier = connection.collection("barriers")
    barrier.update_one({"_id": "settle"}, {"$currentDate": {"at": True}}, upsert=True)
