"""Every query of the store, judged by the server's own profiler: its index, and how many keys and documents it read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pymongo
import pytest
from bson import ObjectId

from slotsched.model import InstanceRef, Needs, Outcome, Progress, Reason, Status, Task, TaskRequest
from slotsched.store import Store, TaskFilter
from slotsched.store.tasks import PAGE_TASKS

ME = InstanceRef(id="instance-1", name="big-1")
LANES = 6
PER_LANE = 300
SCHEDULED = 200


@dataclass(frozen=True)
class Plan:
    """What one command did."""

    command: str
    summary: str
    keys: int
    documents: int
    stages: frozenset[str]


@dataclass
class Filled:
    """A database with enough in it that a bad plan shows."""

    store: Store
    database: Any
    ids: list[str]
    lanes: list[str]

    def plans(self, call: Callable[[], object], collection: str = "tasks") -> list[Plan]:
        """What the server did for the calls on one collection."""
        with profiled(self.database):
            call()
        entries = self.database["system.profile"].find({"ns": f"{self.database.name}.{collection}"})
        return [read_plan(entry) for entry in entries if entry["op"] != "insert"]


@contextmanager
def profiled(database: Any) -> Iterator[None]:
    database.command("profile", 0)
    database.drop_collection("system.profile")
    database.command("profile", 2)
    try:
        yield
    finally:
        database.command("profile", 0)


def read_plan(entry: Mapping[str, Any]) -> Plan:
    return Plan(
        command=entry["op"] if entry["op"] != "command" else next(iter(entry["command"])),
        summary=entry.get("planSummary", ""),
        keys=entry.get("keysExamined", 0),
        documents=entry.get("docsExamined", 0),
        stages=frozenset(stages_of(entry.get("execStats", {}))),
    )


def stages_of(stage: Mapping[str, Any]) -> Iterator[str]:
    if "stage" in stage:
        yield stage["stage"]
    for inner in [stage.get("inputStage"), *stage.get("inputStages", [])]:
        if inner:
            yield from stages_of(inner)


@pytest.fixture
def filled(store: Store, database: Any, mongo_client: pymongo.MongoClient[Any]) -> Filled:
    requests = [
        TaskRequest(job=f"job-{lane}", needs=Needs(slots=lane + 1), owner="ann", tags=("nightly",), priority=n % 7)
        for n in range(PER_LANE)
        for lane in range(LANES)
    ]
    ids = [task.id for task in store.tasks.enqueue_many(requests)]
    store.tasks.enqueue_many(TaskRequest(job="later", due_in=3600 + n) for n in range(SCHEDULED))
    return Filled(store, mongo_client[database.name], ids, store.queue.lanes())


def test_candidates_are_a_covered_merge_over_the_lanes(filled: Filled) -> None:
    [plan] = filled.plans(lambda: filled.store.queue.candidates(filled.lanes, 50))
    assert plan.documents == 0
    assert plan.keys <= 50 + 2 * LANES
    assert "SORT_MERGE" in plan.stages
    assert plan.stages.isdisjoint({"SORT", "FETCH", "COLLSCAN"})


def test_candidates_behind_many_that_do_not_fit_cost_no_more(filled: Filled) -> None:
    [plan] = filled.plans(lambda: filled.store.queue.candidates(filled.lanes[-1:], 10))
    assert (plan.documents, plan.keys <= 12) == (0, True)


def test_candidates_from_a_rank_on_skip_what_is_before_it(filled: Filled) -> None:
    middle = filled.store.queue.candidates(filled.lanes, 900)[-1].rank
    [plan] = filled.plans(lambda: filled.store.queue.candidates(filled.lanes, 10, rank_from=middle))
    assert (plan.documents, plan.keys <= 10 + 2 * LANES) == (0, True)


def test_more_lanes_than_the_planner_explodes_are_merged_here(store: Store, database: Any, mongo_client: Any) -> None:
    store.tasks.enqueue_many(TaskRequest(job=f"job-{lane}", priority=n) for n in range(3) for lane in range(450))
    filled = Filled(store, mongo_client[database.name], [], store.queue.lanes())
    found: list[Any] = []
    plans = filled.plans(lambda: found.extend(store.queue.candidates(filled.lanes, 20)))
    assert len(filled.lanes) == 450
    assert len(plans) == 3
    assert all("SORT" not in plan.stages and plan.documents == 0 for plan in plans)
    assert [one.rank for one in found] == sorted(one.rank for one in found)
    assert {task.priority for task in store.tasks.get_many([one.id for one in found]).values()} == {2}


def test_lanes_and_heads_read_one_key_per_lane(filled: Filled) -> None:
    [lanes] = filled.plans(filled.store.queue.lanes)
    assert lanes.keys <= LANES + 2
    assert "DISTINCT_SCAN" in lanes.summary
    [heads] = filled.plans(filled.store.queue.heads)
    assert heads.keys <= LANES + 2
    assert "DISTINCT_SCAN" in heads.summary


def test_blocked_fetches_only_what_it_returns(filled: Filled) -> None:
    [plan] = filled.plans(lambda: filled.store.queue.blocked(filled.lanes, 8))
    assert plan.documents <= 8 + LANES
    assert "SORT_MERGE" in plan.stages


def test_promote_with_nothing_due_reads_next_to_nothing(filled: Filled) -> None:
    [plan] = filled.plans(filled.store.queue.promote)
    assert plan.keys <= 1
    assert plan.summary == "IXSCAN { status: 1, due_at: 1 }"


def test_promote_reads_what_is_due(filled: Filled) -> None:
    filled.database.tasks.update_many({"job": "later"}, {"$set": {"due_at": dt.datetime(2020, 1, 1, tzinfo=dt.UTC)}})
    plans = filled.plans(lambda: filled.store.queue.promote(limit=40))
    assert [plan.summary for plan in plans] == ["IXSCAN { status: 1, due_at: 1 }", "IXSCAN { _id: 1 }"]
    assert plans[0].keys <= 41
    assert plans[1].keys <= 41


def test_next_due_reads_one_key(filled: Filled) -> None:
    [plan] = filled.plans(filled.store.queue.next_due)
    assert plan.keys == 1
    assert plan.summary == "IXSCAN { status: 1, due_at: 1 }"


def test_the_claims_queries_use_their_indexes(filled: Filled) -> None:
    queue = filled.store.queue
    update, read = filled.plans(lambda: queue.claim(filled.ids[:20], "token", ME))
    assert (update.summary, update.keys <= 21) == ("IXSCAN { _id: 1 }", True)
    assert (read.summary, read.keys <= 21) == ("IXSCAN { claim.token: 1 }", True)
    [held] = filled.plans(lambda: queue.held(ME.id))
    assert (held.summary, held.keys <= 21) == ("IXSCAN { status: 1, claim.instance: 1 }", True)
    [owners] = filled.plans(filled.store.rescue.owners)
    assert (owners.summary, owners.keys <= 2) == ("DISTINCT_SCAN { status: 1, claim.instance: 1 }", True)
    [settled] = filled.plans(lambda: queue.settle("token"))
    assert settled.summary == "IXSCAN { claim.token: 1 }"
    [taken] = filled.plans(lambda: filled.store.rescue.take(ME.id))
    assert (taken.summary, taken.keys <= 21) == ("IXSCAN { status: 1, claim.instance: 1 }", True)


def one_task_calls(filled: Filled) -> dict[str, Callable[[], object]]:
    queue, tasks = filled.store.queue, filled.store.tasks
    running, other = filled.ids[:2]
    queue.claim([running, other], "token", ME)
    return {
        "progress": lambda: queue.progress(running, "token", Progress(fraction=0.5)),
        "cancel": lambda: tasks.cancel(running, "ann"),
        "finish": lambda: queue.finish(running, "token", Outcome(reason=Reason.EXIT, exit_code=0)),
        "finish again": lambda: queue.finish(running, "token", Outcome(reason=Reason.EXIT, exit_code=0)),
        "release": lambda: queue.release(other, "token"),
        "get": lambda: tasks.get(running),
        "look up by beginning": lambda: tasks.look_up(running[:20] + running[20:]),
        "remove": lambda: tasks.remove([running]),
    }


def test_what_concerns_one_task_reads_one_task(filled: Filled) -> None:
    for name, call in one_task_calls(filled).items():
        for plan in filled.plans(call):
            assert plan.summary.startswith(("IXSCAN { _id: 1 }", "IDHACK", "IXSCAN { rid: 1 }")), (name, plan)
            assert plan.keys <= 2, (name, plan)


def test_look_up_by_ending_uses_the_reversed_id(filled: Filled) -> None:
    plans = filled.plans(lambda: filled.store.tasks.look_up(filled.ids[7][-12:]))
    assert [plan.summary for plan in plans] == ["IXSCAN { _id: 1 }", "IXSCAN { rid: 1 }"]
    assert sum(plan.keys for plan in plans) <= 3


LISTINGS = {
    "everything": TaskFilter(),
    "unfinished": TaskFilter(status=frozenset({Status.PENDING, Status.RUNNING, Status.SCHEDULED})),
    "a job": TaskFilter(jobs=("job-1",)),
    "two jobs": TaskFilter(jobs=("job-1", "job-2"), status=frozenset({Status.PENDING, Status.FAILED})),
    "an owner": TaskFilter(owner="ann"),
    "a tag": TaskFilter(tags=("nightly",)),
    "oldest first": TaskFilter(order="oldest", status=frozenset({Status.PENDING})),
    "since": TaskFilter(since=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_page_of_a_listing_reads_a_page(filled: Filled, name: str) -> None:
    [plan] = filled.plans(lambda: filled.store.tasks.find(LISTINGS[name], limit=25))
    assert plan.documents <= 25 + 2 * len(Status)
    assert plan.keys <= 25 + 4 * len(Status)
    assert plan.stages.isdisjoint({"SORT", "COLLSCAN"})
    last = filled.store.tasks.find(LISTINGS[name], limit=100)[-1].id
    [following] = filled.plans(lambda: filled.store.tasks.find(LISTINGS[name], limit=25, after=last))
    assert following.documents <= 25 + 2 * len(Status)
    assert following.stages.isdisjoint({"SORT", "COLLSCAN"})


@pytest.mark.parametrize("name", LISTINGS)
def test_a_whole_listing_is_read_in_pages_that_cost_a_page(filled: Filled, name: str) -> None:
    found: list[Task] = []
    plans = filled.plans(lambda: found.extend(filled.store.tasks.find(LISTINGS[name], limit=0)))
    assert {plan.command for plan in plans} == {"query"}, "nothing is left to a cursor"
    assert len(plans) == len(found) // PAGE_TASKS + 1
    assert all(plan.documents <= PAGE_TASKS + 2 * len(Status) for plan in plans)
    assert all(plan.keys <= PAGE_TASKS + 4 * len(Status) for plan in plans)
    assert all(plan.stages.isdisjoint({"SORT", "COLLSCAN"}) for plan in plans)


def test_what_ended_is_read_in_pages_from_its_end(filled: Filled) -> None:
    ended = {"status": Status.FAILED.value, "ended_at": filled.store.now()}
    some = [ObjectId(task_id) for task_id in filled.ids[: PAGE_TASKS + 100]]
    filled.database.tasks.update_many({"_id": {"$in": some}}, {"$set": ended})
    wanted = TaskFilter(status=frozenset({Status.FAILED}), order="ended")
    found: list[Task] = []
    plans = filled.plans(lambda: found.extend(filled.store.tasks.find(wanted, limit=0)))
    assert {task.id for task in found} == {str(one) for one in some}
    assert [plan.command for plan in plans] == ["query", "query"]
    assert all("ended_at" in plan.summary and plan.stages.isdisjoint({"SORT", "COLLSCAN"}) for plan in plans)


def test_what_was_run_again_is_read_from_when_it_could_have_been(filled: Filled) -> None:
    [old] = filled.ids[:1]
    filled.store.tasks.cancel(old, "ann")
    filled.store.tasks.retry(old)
    plans = filled.plans(lambda: filled.store.tasks.retried(since=filled.store.now() - dt.timedelta(hours=1)))
    assert {plan.command for plan in plans} == {"query"}
    assert all(plan.documents <= PAGE_TASKS + 1 and plan.summary == "IXSCAN { _id: 1 }" for plan in plans)


def test_what_ended_lately_is_read_from_its_end(filled: Filled) -> None:
    for task_id in filled.ids[:30]:
        filled.store.tasks.cancel(task_id, "ann")
    wanted = TaskFilter(
        status=frozenset({Status.CANCELED}), order="ended", since=filled.store.now() - dt.timedelta(hours=1)
    )
    [plan] = filled.plans(lambda: filled.store.tasks.find(wanted, limit=10))
    assert plan.keys <= 11
    assert "ended_at" in plan.summary


def test_counting_stays_in_the_index(filled: Filled) -> None:
    plans = filled.plans(filled.store.tasks.counts)
    assert all(plan.documents == 0 and "COLLSCAN" not in plan.summary for plan in plans)


def test_recent_runs_reads_as_many_as_it_returns(filled: Filled) -> None:
    lane = [task for index, task in enumerate(filled.ids) if index % LANES == 0][:40]
    filled.store.queue.claim(lane, "token", ME)
    for task_id in lane:
        filled.store.queue.finish(task_id, "token", Outcome(reason=Reason.EXIT, exit_code=0))
    runs: list[float] = []
    [plan] = filled.plans(lambda: runs.extend(filled.store.queue.recent_runs("job-0", 20)))
    assert len(runs) == 20
    assert plan.keys <= 21


def test_prune_walks_the_ended_and_not_the_open(filled: Filled) -> None:
    for task_id in filled.ids[:15]:
        filled.store.tasks.cancel(task_id, "ann")
    plans = filled.plans(lambda: filled.store.upkeep.prune(0))
    assert all("COLLSCAN" not in plan.summary for plan in plans)
    assert sum(plan.keys for plan in plans) <= 60


def test_quarantining_strays_reads_no_healthy_task(filled: Filled) -> None:
    plans = filled.plans(filled.store.queue.quarantine_strays)
    assert all("COLLSCAN" not in plan.summary for plan in plans)
    assert sum(plan.documents for plan in plans) == 0


def test_the_other_collections_are_read_by_index_too(filled: Filled) -> None:
    store = filled.store
    for number in range(30):
        filled.database.instances.insert_one({"_id": str(ObjectId()), "live": False, "name": f"gone-{number}"})
    collections: dict[str, list[Callable[[], object]]] = {
        "instances": [
            store.instances.live,
            lambda: store.instances.wishes("a"),
            lambda: store.rescue.seen(["a"]),
            lambda: store.rescue.fence("a", "n"),
        ],
        "jobs": [
            lambda: store.catalogs.newest("a"),
            store.catalogs.names,
            store.catalogs.holders,
            store.catalogs.disabled,
            lambda: store.catalogs.publish("a", []),
        ],
        "log_tail": [
            lambda: store.tails.read("a", 1, 5),
            lambda: store.tails.trim("a", 1, 5),
        ],
    }
    for collection, calls in collections.items():
        for call in calls:
            for plan in filled.plans(call, collection):
                assert plan.summary.startswith(("IXSCAN", "IDHACK", "DISTINCT_SCAN", "EOF")), (collection, plan)
                assert plan.documents <= 1, (collection, plan)


TOKENS = 30
SESSIONS = 400


def test_tokens_are_told_from_sessions_by_an_index(filled: Filled) -> None:
    """However many browsers have signed in, before the first token that is there still and after it."""
    tokens = filled.store.tokens
    gone = tokens.verify(tokens.add("0"))
    assert gone is not None
    sessions = [tokens.open_session(gone) for _ in range(SESSIONS)]
    filled.database.tokens.delete_one({"_id": "0"})
    secrets = [tokens.add(f"t{number:02}") for number in range(TOKENS)]
    token = tokens.verify(secrets[7])
    assert token is not None
    mine = tokens.open_session(token)
    by_hash, by_parent = "IXSCAN { hash: 1 }", "IXSCAN { parent: 1, _id: 1 }"
    one = {by_parent, "IXSCAN { _id: 1 }", "IDHACK"}
    calls: dict[str, tuple[Callable[[], object], list[set[str]], int]] = {
        "verify": (lambda: tokens.verify(secrets[3]), [{by_hash}], 1),
        "verify a wrong one": (lambda: tokens.verify("wrong"), [{by_hash}], 0),
        "session": (lambda: tokens.session(mine), [{by_hash}, one], 1),
        "session of a token that is gone": (lambda: tokens.session(sessions[0]), [{by_hash}, one], 1),
        "session by a token's secret": (lambda: tokens.session(secrets[3]), [{by_hash}], 1),
        "any": (tokens.any, [{by_parent}], 1),
        "find": (tokens.find, [{by_parent}], TOKENS),
        "open_session": (lambda: tokens.open_session(token), [one], 0),
        "close_session": (lambda: tokens.close_session(sessions[1]), [{by_hash}], 1),
        "close_session of none": (lambda: tokens.close_session("wrong"), [{by_hash}], 0),
        "remove": (lambda: tokens.remove("t07"), [one, {by_parent}], 2),
    }
    for name, (call, indexes, most) in calls.items():
        plans = filled.plans(call, "tokens")
        assert len(plans) == len(indexes), (name, plans)
        for plan, allowed in zip(plans, indexes, strict=True):
            assert plan.summary in allowed, (name, plan)
            assert plan.keys <= most + 1, (name, plan)
            assert plan.documents <= most, (name, plan)
            assert plan.stages.isdisjoint({"SORT", "COLLSCAN"}), (name, plan)
