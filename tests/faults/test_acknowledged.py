"""F06, a client's side: what only a primary without its majority has is acknowledged to nobody."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from bson import ObjectId
from fleet import until
from replica_set import Member, ReplicaSet

from slotsched.errors import StoreUnreachable
from slotsched.model import InstanceRef, Outcome, Reason, Status, TaskRequest
from slotsched.store import Store, after, connect

TIMEOUT_SECONDS = 1.5  # of one send
ELECTION_SECONDS = 45.0  # until two members were started again and one is primary


@dataclass(frozen=True)
class Client:
    """A store on a database of its own, and a task in it that others can wait for."""

    store: Store
    database: str
    parent: str

    def tasks_on(self, member: Member) -> Any:
        """What this member alone has."""
        return member.client[self.database].tasks


@pytest.fixture
def client(replica_set: ReplicaSet) -> Iterator[Client]:
    name = f"test_{secrets.token_hex(6)}"
    with contextlib.closing(connect(replica_set.uri, name, timeout=TIMEOUT_SECONDS)) as store:
        store.init()
        yield Client(store, name, store.tasks.enqueue(TaskRequest(job="parent")).id)
    replica_set.primary().client.drop_database(name)


def test_an_enqueue_that_only_a_cut_off_primary_has_is_not_acknowledged(
    client: Client, replica_set: ReplicaSet
) -> None:
    """Each is sent several times, and the later sends meet the first."""
    wishes: tuple[dict[str, Any], ...] = ({}, {"key": "k"}, {"unique": "running"}, {"parents": (client.parent,)})
    with replica_set.patient():
        cut_off = replica_set.primary()
        for other in replica_set.others(cut_off):
            other.kill()
        for wish in wishes:
            with pytest.raises(StoreUnreachable):
                client.store.tasks.enqueue(TaskRequest(job="a", **wish))
        assert client.tasks_on(cut_off).count_documents({"job": "a"}) == len(wishes), "the first sends arrived"
        assert replica_set.primary() is cut_off


def test_a_follower_that_went_with_its_primary_is_sent_again_to_the_next(
    client: Client, replica_set: ReplicaSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, taken = threading.Event(), after._taken

    def meet(*args: Any) -> Exception:
        monkeypatch.setattr(client.store._connection, "timeout", ELECTION_SECONDS)  # from here on
        met.set()
        return taken(*args)

    monkeypatch.setattr(after, "_taken", meet)
    with replica_set.patient(), ThreadPoolExecutor(1) as pool:
        first = replica_set.primary()
        others = replica_set.others(first)
        for other in others:
            other.kill()
        coming = pool.submit(client.store.tasks.enqueue, TaskRequest(job="a", parents=(client.parent,)))
        assert met.wait(30), "the second send has met the first"
        first.kill()
        for other in others:
            other.restart(wait=False)
        replica_set.elect(others[0])
        child = client.store.tasks.get(coming.result(2 * ELECTION_SECONDS).id)
    assert (child.status, child.after) == (Status.WAITING, (client.parent,))


def test_news_for_a_follower_that_only_a_cut_off_primary_has_is_not_taken_as_told(
    client: Client, replica_set: ReplicaSet
) -> None:
    """Else the mark would be taken back on the next primary, where the follower waits for ever."""
    store = client.store
    child = store.tasks.enqueue(TaskRequest(job="a", parents=(client.parent,))).id
    store.queue.claim([client.parent], "token", InstanceRef(id="i", name="i"))
    store.queue.finish(client.parent, "token", Outcome(reason=Reason.EXIT, exit_code=0))
    ended = until(store.resolve.ended, what="the end, as a majority has it")
    with replica_set.patient():
        cut_off = replica_set.primary()
        for other in replica_set.others(cut_off):
            other.kill()
        for _ in range(2):
            with pytest.raises(StoreUnreachable):
                store.resolve.tell(ended)
        assert client.tasks_on(cut_off).find_one({"_id": ObjectId(child)})["status"] == "pending", "the first arrived"
        assert replica_set.primary() is cut_off
