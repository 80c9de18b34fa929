"""Random sequences of the real store's writes, each followed by a look at whether the plain model agrees."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from store_model import Claim, ModelInstance, ModelTask

from slotsched import errors
from slotsched.model import (
    TERMINAL,
    Capacity,
    Instance,
    InstanceRef,
    Limit,
    LogRef,
    Outcome,
    Reason,
    RetryPolicy,
    Status,
    TaskRequest,
)
from slotsched.store import Followed, Store, Wanted

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
LIMIT = Limit(scope="job:limited", most=2)
LOG = LogRef(store="s3://logs", key="key")
OUTCOMES = {
    "success": Outcome(reason=Reason.EXIT, exit_code=0),
    "failure": Outcome(reason=Reason.EXIT, exit_code=1),
    "lost": Outcome(reason=Reason.LOST),
    "cancel by the job": Outcome(reason=Reason.CANCELED_BY_JOB, exit_code=100),
}
PICK = st.integers(0, 3) | st.integers(0, 999)  # of a list, by its remainder


class StoreMachine(RuleBasedStateMachine):
    """`store` and `raw` are set by the fixture; the collections are emptied for every run."""

    store: Store
    raw: Callable[
        [], Any
    ]  # the database; hypothesis asks every attribute of a class for odd names, and this one has any
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.raw().tasks.delete_many({})
        self.raw().instances.delete_many({})
        self.tasks: dict[str, ModelTask] = {}
        self.gone: list[str] = []
        self.claims: list[Claim] = []
        self.instances: dict[str, ModelInstance] = {}
        self.nonces: dict[str, list[str]] = {}
        self.marks: list[tuple[Followed, int]] = []  # told of, with the number of marks that was seen
        self.unique = itertools.count()

    @initialize()
    def a_fleet_at_work(self) -> None:
        """Two instances, a task that may be run again, one under a limit, one that is running, and one that is over,
        with a follower who was told; whoever told it is slow to take the mark back.
        """
        for _ in range(2):
            self.register()
        for retries in (2, 1, 0, 0):
            self.enqueue(retries, retried=True, limited=retries == 1, later=False)
        self.claim(0, [2, 3], limited=False)
        self.finish(0, "success", log=False, sends=1)
        self.enqueue_after([2], "any")
        self.resolve("after telling")

    # --- people ---------------------------------------------------------------------------------------
    @rule(
        retries=st.integers(0, 2),
        retried=st.booleans(),
        limited=st.booleans(),
        later=st.sampled_from([False] * 4 + [True]),
    )
    def enqueue(self, retries: int, retried: bool, limited: bool, later: bool) -> None:
        request = TaskRequest(
            job="limited" if limited else "a", retry=_policy(retries, retried), due_in=3600 if later else None
        )
        stored = self.store.tasks.enqueue(request)
        status = Status.SCHEDULED if later else Status.PENDING
        assert (stored.existed, stored.status) == (False, status)
        self.tasks[stored.id] = ModelTask(status, retries, retried, limited, due=not later)

    @rule(key=st.sampled_from(["k", "l"]), args=st.integers(0, 1))
    def enqueue_with_a_key(self, key: str, args: int) -> None:
        request = TaskRequest(job="a", args={"n": args}, key=key)
        holder = next((task_id for task_id, task in self.tasks.items() if task.key == key), None)
        if holder is None:
            stored = self.store.tasks.enqueue(request)
            assert not stored.existed
            self.tasks[stored.id] = ModelTask(Status.PENDING, key=key, args=args)
        elif self.tasks[holder].args == args:
            stored = self.store.tasks.enqueue(request)
            assert (stored.id, stored.existed, stored.status) == (holder, True, self.tasks[holder].status)
        else:
            with pytest.raises(errors.KeyConflict):
                self.store.tasks.enqueue(request)

    @precondition(lambda self: self.tasks or self.gone)
    @rule(picks=st.lists(PICK, min_size=1, max_size=2), when=st.sampled_from(["success", "failure", "any"]))
    def enqueue_after(self, picks: list[int], when: str) -> None:
        parents = tuple(dict.fromkeys(_picked([*self.tasks, *self.gone], pick) for pick in picks))
        request = TaskRequest(job="a", parents=parents, when=when)
        if any(parent in self.gone for parent in parents):
            with pytest.raises(errors.NotFound):
                self.store.tasks.enqueue(request)
            return
        stored = self.store.tasks.enqueue(request)
        self.tasks[stored.id] = ModelTask(Status.WAITING, after=set(parents), when=when)
        for parent in parents:
            self.tasks[parent].poked()

    @precondition(lambda self: self.tasks)
    @rule(pick=PICK, kill=st.booleans())
    def cancel(self, pick: int, kill: bool) -> None:
        task_id = _picked(self.tasks, pick)
        if self.tasks[task_id].canceled(kill):
            assert self.store.tasks.cancel(task_id, "ann", kill).status is self.tasks[task_id].status
        else:
            with pytest.raises(errors.Refused):
                self.store.tasks.cancel(task_id, "ann", kill)

    @precondition(lambda self: self.tasks)
    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        task_id = _picked(self.tasks, pick)
        old = self.tasks[task_id]
        if old.status not in TERMINAL:
            with pytest.raises(errors.Refused):
                self.store.tasks.retry(task_id)
            return
        again = self.store.tasks.retry(task_id)
        self.tasks[again.id] = ModelTask(Status.PENDING, old.retries, old.retried, old.limited)

    @precondition(lambda self: self.tasks)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
    def remove(self, picks: list[int]) -> None:
        ids = {_picked(self.tasks, pick) for pick in picks}
        self._forget([task_id for task_id in ids if self.tasks[task_id].removable], self.store.tasks.remove(ids))

    @rule()
    def prune(self) -> None:
        latest = max((d["ended_at"] for d in self.raw().tasks.find({"ended_at": {"$exists": True}})), default=None)
        while latest is not None and self.store.now() <= latest:
            pass  # the server's next millisecond
        pruned = self.store.upkeep.prune(0).tasks
        self._forget([task_id for task_id, task in self.tasks.items() if task.prunable], pruned)

    def _forget(self, ids: list[str], count: int) -> None:
        assert count == len(ids)
        for task_id in ids:
            del self.tasks[task_id]
        self.gone += ids

    # --- instances that work --------------------------------------------------------------------------
    @precondition(lambda self: self.instances and self.tasks)
    @rule(who=PICK, picks=st.lists(PICK, min_size=1, max_size=4), limited=st.sampled_from([False, False, True]))
    def promote_and_claim(self, who: int, picks: list[int], limited: bool) -> None:
        self.promote()
        self.claim(who, picks, limited)

    @precondition(lambda self: self.instances and self.tasks)
    @rule(who=PICK, picks=st.lists(PICK, min_size=1, max_size=4), limited=st.booleans())
    def claim(self, who: int, picks: list[int], limited: bool) -> None:
        """By any instance that ever was: the claim of one that is dead by now may have been under way for long."""
        owner, token = _picked(self.instances, who), f"token-{next(self.unique)}"
        ids = list(dict.fromkeys(_picked(self.tasks, pick) for pick in picks))
        wanted = [task_id for task_id in ids if self.tasks[task_id].limited == limited]
        free = LIMIT.most - sum(task.limited and task.status is Status.RUNNING for task in self.tasks.values())
        pending = [task_id for task_id in wanted if self.tasks[task_id].status is Status.PENDING]
        ref = InstanceRef(id=owner, name=owner)
        if limited:
            pending = pending[:free]
            won = self.store.permits.claim([Wanted(id=task_id, limit=LIMIT) for task_id in wanted], token, ref)
        else:
            won = self.store.queue.claim(wanted, token, ref)
        assert {task.id for task in won} == set(pending)
        for task_id in pending:
            claim = Claim(task_id, token, owner)
            self.claims.append(claim)
            self.tasks[task_id].claimed(claim)
        assert {task.id for task in self.store.queue.settle(token)} == set(pending)

    @precondition(lambda self: self.claims)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        claim = _picked(self.claims, pick)
        expected = self.tasks[claim.task].released(claim.token) if claim.task in self.tasks else None
        assert self.store.queue.release(claim.task, claim.token) == expected

    @precondition(lambda self: self.claims)
    @rule(pick=PICK, how=st.sampled_from(sorted(OUTCOMES)), log=st.booleans(), sends=st.sampled_from([1, 1, 2]))
    def finish(self, pick: int, how: str, log: bool, sends: int) -> None:
        """Under any claim that ever was, and sometimes once more because the answer was lost."""
        claim, outcome = _picked(self.claims, pick), OUTCOMES[how]
        task = self.tasks.get(claim.task)
        again = task is not None and task.attempt <= task.retries and how != "success"
        expected = task and task.finished(claim.token, outcome, again=again, log_left=log)
        for _ in range(sends):
            told = self.store.queue.finish(
                claim.task, claim.token, outcome, log=LOG if log else None, retry_in=0.0 if again else None
            )
            assert told == expected

    @precondition(lambda self: any(task.records for task in self.tasks.values()))
    @rule(pick=PICK)
    def upload_the_log(self, pick: int) -> None:
        task_id, record = _picked([(i, record) for i, task in self.tasks.items() for record in task.records], pick)
        self.store.queue.log_uploaded(task_id, record.fence, replace(LOG, uploaded=True))
        record.log_left = False

    @rule()
    def promote(self) -> None:
        due = [task for task in self.tasks.values() if task.status is Status.SCHEDULED and task.due]
        assert self.store.queue.promote() == len(due)
        for task in due:
            task.status = Status.PENDING

    @rule(crash=st.sampled_from(["before telling", "after telling", "", ""]))
    def resolve(self, crash: str) -> None:
        """Told of ends; the marks are taken back now or, by one that was slow, later."""
        ended = self.store.resolve.ended()
        over = {i: task.status for i, task in self.tasks.items() if task.resolve and task.status in TERMINAL}
        assert {one.id: one.status for one in ended} == over
        if crash == "before telling":
            return
        self.store.resolve.tell(ended)
        for task in self.tasks.values():
            task.told(over)
        marks = [(one, self.tasks[one.id].pokes) for one in ended]
        if crash:
            self.marks += marks
        else:
            self._take_back(marks)

    @rule()
    def take_marks_back(self) -> None:
        self._take_back(self.marks)

    def _take_back(self, marks: list[tuple[Followed, int]]) -> None:
        self.store.resolve.done([one for one, _ in marks])
        for one, seen in marks:
            if one.id in self.tasks and self.tasks[one.id].pokes == seen:
                self.tasks[one.id].resolve = False

    # --- instances that live and die ------------------------------------------------------------------
    @precondition(lambda self: len(self.instances) < 4)
    @rule()
    def register(self) -> None:
        name = f"instance-{next(self.unique)}"
        nonce = self._nonce(name)
        assert self.store.instances.register(_instance(name, nonce)).live
        self.instances[name] = ModelInstance(shown=nonce)

    def _nonce(self, name: str) -> str:
        self.nonces.setdefault(name, []).append(f"nonce-{next(self.unique)}")
        return self.nonces[name][-1]

    @precondition(lambda self: self.instances)
    @rule(pick=PICK)
    def register_again(self, pick: int) -> None:
        """The first write once more, while its nonce still stands: nobody rises from the dead by it."""
        name = _picked(self.instances, pick)
        if self.instances[name].shown == self.nonces[name][0]:
            again = self.store.instances.register(_instance(name, self.nonces[name][0]))
            assert again.live is self.instances[name].live

    @precondition(lambda self: self.instances)
    @rule(pick=PICK, behind=st.sampled_from([0, 0, 0, 1]), old=st.sampled_from([1, 1, 1, 2]))
    def renew(self, pick: int, behind: int, old: int) -> None:
        name = _picked(self.instances, pick)
        model = self.instances[name]
        known, incarnation = self.nonces[name][-old:][:1], model.incarnation - behind
        nonce = self._nonce(name)
        renewed = self.store.instances.renew(name, incarnation, [*known, nonce], nonce)
        assert (renewed is not None) == model.renewed(incarnation, known, nonce)

    @precondition(lambda self: self.instances)
    @rule(pick=PICK)
    def resume(self, pick: int) -> None:
        name = _picked(self.instances, pick)
        model, nonce = self.instances[name], self._nonce(name)
        incarnation = model.incarnation + 1
        resumed = self.store.instances.resume(_instance(name, nonce, incarnation))
        assert (resumed is not None) == model.resumed(incarnation, nonce)

    @precondition(lambda self: self.instances)
    @rule(pick=PICK, behind=st.sampled_from([0, 0, 1]))
    def retire(self, pick: int, behind: int) -> None:
        name = _picked(self.instances, pick)
        model = self.instances[name]
        self.store.instances.retire(name, model.incarnation - behind)
        model.live = model.live and behind > 0

    @precondition(lambda self: self.instances)
    @rule(pick=PICK, old=st.sampled_from([False, False, True]))
    def fence(self, pick: int, old: bool) -> None:
        name = _picked(self.instances, pick)
        nonce = self.nonces[name][0] if old else self.instances[name].shown
        assert self.store.rescue.fence(name, nonce) == self.instances[name].fenced(nonce)

    @precondition(lambda self: self.instances)
    @rule(pick=PICK)
    def take(self, pick: int) -> None:
        name = _picked(self.instances, pick)
        theirs = [task for task in self.tasks.values() if task.claim is not None and task.claim.owner == name]
        if self.instances[name].live:
            with pytest.raises(errors.Refused):
                self.store.rescue.take(name)
            return
        assert self.store.rescue.take(name) == len(theirs)
        for task in theirs:
            task.taken()

    # --- what must be true after each -----------------------------------------------------------------
    @invariant()
    def tasks_are_as_the_model_says(self) -> None:
        type(self).steps += 1
        documents = {str(document["_id"]): document for document in self.raw().tasks.find({})}
        assert {i: _shown(document) for i, document in documents.items()} == {
            i: task.shown() for i, task in self.tasks.items()
        }
        permits = [permit for document in documents.values() for permit in document.get("permits", [])]
        running = sum(task.limited and task.status is Status.RUNNING for task in self.tasks.values())
        assert len(set(permits)) == len(permits) == running <= LIMIT.most

    @invariant()
    def instances_are_as_the_model_says(self) -> None:
        found = {d["_id"]: (d["live"], d["incarnation"], d["nonce"]) for d in self.raw().instances.find({})}
        assert found == {name: (one.live, one.incarnation, one.shown) for name, one in self.instances.items()}


def _picked(choices: Any, pick: int) -> Any:
    listed: Sequence[Any] = list(choices)
    return listed[pick % len(listed)]


def _policy(retries: int, retried: bool) -> RetryPolicy:
    others = tuple(reason for reason in RetryPolicy().on if reason != "lost")
    return RetryPolicy(limit=retries, delay=0, on=RetryPolicy().on if retried else others)


def _instance(name: str, nonce: str, incarnation: int = 1) -> Instance:
    return Instance(
        id=name,
        name=name,
        host="host",
        pid=1,
        boot_id="boot",
        incarnation=incarnation,
        nonce=nonce,
        live=True,
        draining=False,
        capacity=Capacity(slots=1),
        used=0,
        lease=30.0,
        grace=5.0,
        started_at=EPOCH,
        renewed_at=EPOCH,
        version="1",
    )


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    """What the model has an opinion on."""
    claim, cancel = document.get("claim"), document.get("cancel")
    return {
        "status": document["status"],
        "reason": document.get("reason"),
        "attempt": document["attempt"],
        "fence": document["fence"],
        "claim": claim and (claim["instance"], claim["token"]),
        "cancel": cancel and cancel["kill"],
        "losses": document.get("losses", 0),
        "after": set(document.get("after", [])),
        "marks": (document.get("pokes", 0), document["resolve"]),
        "records": [
            (one["number"], one["fence"], one["instance"]["id"], one.get("reason")) for one in document["attempts"]
        ],
    }
