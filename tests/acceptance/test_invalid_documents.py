"""F24: documents that no slotsched wrote, in every collection: set aside with a reason, while everything else goes on.

Tasks, schedules, instances, catalogs, tails, tokens, and what limits and start rates go by.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable
from typing import Any

import pymongo
import pytest
from bson import Int64, ObjectId
from figures import Figures
from fleet import Fleet, FleetMaker, InstanceProcess, until

Mongo = pymongo.MongoClient[dict[str, Any]]
Document = dict[str, Any]
Change = Callable[[Document], object]

# What to do to a sound pending task. The queue's own fields are left as they are, so that it is met and claimed.
PENDING: dict[str, Change] = {
    "slots -1": lambda task: task["needs"].update(slots=-1),
    "slots 0": lambda task: task["needs"].update(slots=0),
    "slots NaN": lambda task: task["needs"].update(slots=math.nan),
    "slots 1e300": lambda task: task["needs"].update(slots=1e300),
    "slots text": lambda task: task["needs"].update(slots="many"),
    "no needs": lambda task: task.pop("needs"),
    "needs a list": lambda task: task.update(needs=[1]),
    "resources NaN": lambda task: task["needs"].update(resources={"gpu": math.nan}),
    "no job": lambda task: task.pop("job"),
    "job a number": lambda task: task.update(job=7),
    "args a text": lambda task: task.update(args="seconds=3"),
    "no args": lambda task: task.pop("args"),
    "no due_at": lambda task: task.pop("due_at"),
    "due_at a text": lambda task: task.update(due_at="soon"),
    "no created_at": lambda task: task.pop("created_at"),
    "fence NaN": lambda task: task.update(fence=math.nan),
    "attempts of texts": lambda task: task.update(attempts=["first"]),
    "max_time NaN": lambda task: task.update(max_time=math.nan),
    "max_time -1": lambda task: task.update(max_time=-1),
    "max_time 1e300": lambda task: task.update(max_time=1e300),
    "max_time a text": lambda task: task.update(max_time="1h"),
    "retry a text": lambda task: task.update(retry="always"),
    "retry delay -1": lambda task: task["retry"].update(delay=-1, limit=3),
    "retry delay 1e300": lambda task: task["retry"].update(delay=1e300, limit=3),
    "keep 1e300": lambda task: task.update(keep=1e300),
    "retry limit -1": lambda task: task["retry"].update(limit=-1),
    "priority a text": lambda task: task.update(priority="high"),
    "tags a number": lambda task: task.update(tags=4),
    "cancel a text": lambda task: task.update(cancel="now"),
}
# Wrong in what the claim itself writes: that mends it, and the task runs.
MENDED: dict[str, Change] = {
    "attempt a text": lambda task: task.update(attempt="first"),
    "attempts a number": lambda task: task.update(attempts=3),
    "progress a number": lambda task: task.update(progress=3),
}
# The same to the fields the queue goes by, and to other statuses.
ELSEWHERE: dict[str, Change] = {
    "lane of slots -1": lambda task: task.update(lane=task["lane"].replace("|1", "|-1", 1)),
    "lane of slots NaN": lambda task: task.update(lane=task["lane"].replace("|1", "|nan", 1)),
    "lane a number": lambda task: task.update(lane=12),
    "lane nonsense": lambda task: task.update(lane="||||"),
    "no lane": lambda task: task.pop("lane"),
    "rank a text": lambda task: task.update(rank="first"),
    "rank NaN": lambda task: task.update(rank=math.nan),
    "no rank": lambda task: task.pop("rank"),
    "scheduled for a text": lambda task: task.update(status="scheduled", due_at="tomorrow"),
    "scheduled for ever": lambda task: task.update(status="scheduled", due_at=None),
    "running for nobody": lambda task: task.update(status="running"),
    "running by a number": lambda task: task.update(status="running", claim={"instance": 5, "token": "t"}),
}
# Beyond what a query can go by: they only must not be in anybody's way.
STRANGERS: list[Document] = [
    {"_id": "a text"},
    {"_id": 5, "status": "pending", "lane": "work|1"},
    {"_id": {"a": 1}, "status": 7},
    {"status": "sleeping", "job": "work"},
    {"status": "pending"},
    {"status": "completed"},
    {"status": "failed", "ended_at": "yesterday", "expire_at": "tomorrow"},
]


def sound(fleet: Fleet, tasks: Any, job: str = "work") -> Document:
    """A task's document as enqueue writes it, taken out of the store again."""
    task = ObjectId(fleet.client.enqueue(job, in_=3600).id)
    found: Document | None = tasks.find_one_and_delete({"_id": task})
    assert found is not None
    return found | {"status": "pending"}


def damaged(template: Document, change: Change) -> Document:
    """A copy of the sound document with an id of its own, due now, and with one thing wrong."""
    now = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    task = {
        **template,
        "_id": ObjectId(),
        "needs": dict(template["needs"]),
        "retry": dict(template["retry"]),
        "due_at": now,
        "rank": now,
    }
    change(task)
    return task


def errors_of(instance: InstanceProcess) -> int:
    """Lines of its log that tell of a duty that failed."""
    return sum(line["level"] >= 50 for line in instance.log())


@pytest.fixture
def tasks(fleet: Fleet, mongo_client: Mongo) -> Any:
    return mongo_client[fleet.settings["database"]]["tasks"]


def test_tasks_that_cannot_be_read_fail_as_invalid_with_a_reason_and_the_others_run(
    fleet: Fleet, tasks: Any, figure: Figures
) -> None:
    template = sound(fleet, tasks)
    bad = {what: damaged(template, change) for what, change in {**PENDING, **ELSEWHERE}.items()}
    mended = {what: damaged(template, change) for what, change in MENDED.items()}
    tasks.insert_many([*bad.values(), *mended.values(), *STRANGERS])
    instance = fleet.start("sane")

    good = [fleet.client.enqueue("work").id for _ in range(5)] + [str(one["_id"]) for one in mended.values()]
    assert [(t.id, t.message) for t in fleet.client.wait(good, 20) if t.status != "completed"] == []
    started = {mark.task for mark in fleet.witness.marks("start")}
    assert [what for what, one in bad.items() if str(one["_id"]) in started] == []

    def open_still() -> list[str]:
        found = {task["_id"]: task for task in tasks.find({"_id": {"$in": [one["_id"] for one in bad.values()]}})}
        return [what for what, one in bad.items() if found[one["_id"]].get("status") != "failed"]

    until(lambda: not open_still() or None, seconds=15, what=f"all to be set aside, still open: {open_still()}")
    figure("F24", "tasks at fault in as many ways: set aside with a reason", len(bad), "")
    for what, one in bad.items():
        ended = tasks.find_one({"_id": one["_id"]})
        assert ended["reason"] == "invalid", (what, ended)
        assert ended["message"], what
    assert instance.process.poll() is None
    figure("F24", "errors where tasks are nonsense", errors_of(instance), "", exactly=0)
    _everything_can_be_shown(fleet, [str(one["_id"]) for one in bad.values()][:3])


def _everything_can_be_shown(fleet: Fleet, ids: list[str]) -> None:
    listed = json.loads(fleet.cli("ps", "-a", "-o", "json").stdout)
    assert set(ids) <= {task["id"] for task in listed}
    shown = fleet.task(ids[0])
    assert (shown["status"], shown["reason"]) == ("failed", "invalid")
    assert shown["message"]
    assert fleet.cli("why", ids[1]).stdout.startswith("failed")
    fleet.cli("task", "rm", ids[2])
    assert fleet.cli("task", "show", ids[2], check=False).returncode == 3


def test_other_collections_full_of_nonsense_are_in_nobodys_way(
    fleet: Fleet, mongo_client: Mongo, tasks: Any, figure: Figures
) -> None:
    database = mongo_client[fleet.settings["database"]]
    fleet.client.store.init()
    database["instances"].insert_many(
        [
            {"_id": "empty", "live": True},
            {"_id": 7, "live": True, "name": "sane"},
            {
                "_id": "nan",
                "live": True,
                "name": "nan",
                "nonce": "n",
                "lease": math.nan,
                "capacity": {"slots": math.nan},
            },
            {"_id": "huge", "live": True, "name": "huge", "nonce": "n", "lease": 1e300, "capacity": {"slots": 1e300}},
            {"_id": "odd", "live": "yes", "name": ["odd"], "capacity": 5, "died_at": "never"},
        ]
    )
    database["jobs"].insert_many(
        [
            {"_id": "copy:work@0", "kind": "copy", "job": "work", "hash": 5, "definition": "x", "holders": "everybody"},
            {"_id": 5, "kind": "copy", "job": 7, "holders": [7, None], "first_at": "long ago"},
            {"_id": "broken:work", "kind": "broken", "job": "work", "holders": 5, "message": {"a": 1}},
            {"_id": "switch:7", "kind": "switch", "job": 7, "enabled": False},
            {"_id": "switch:x", "kind": "switch", "enabled": "no"},
            {"_id": "copy:cron@0", "kind": "copy", "job": "cron", "definition": {"facts": {"schedule": {"cron": 61}}}},
        ]
    )
    database["log_tail"].insert_many([{"_id": "x"}, {"_id": 5, "task": 7, "offset": "first", "data": 3.5}])
    database["barriers"].insert_one({"_id": "settle", "at": "now"})
    database["tokens"].insert_many(
        [
            {"_id": "empty"},
            {"_id": 5, "hash": 5, "read_only": "no"},
            {"_id": "\x1b[31mred", "hash": ["a"], "expires_at": math.nan},
            {"_id": "session", "hash": "b", "parent": ["ann"], "expires_at": "never"},
        ]
    )

    instance = fleet.start("sane")
    task = fleet.enqueue("talker", "lines=20")
    assert fleet.client.wait([task], 20)[0].status == "completed"
    database["log_tail"].insert_many(
        [
            {"_id": f"{task}/00001/{Int64(5)}", "data": "text"},
            {"_id": f"{task}/1/x", "task": ObjectId(task), "attempt": 1, "offset": None},
        ]
    )
    assert fleet.cli("logs", task).stdout.count("out ") == 20
    for words in (["job", "ls"], ["instance", "ls"], ["doctor"], ["ps", "-a"], ["why", task], ["db", "stats"]):
        assert "Traceback" not in fleet.cli(*words, check=words[0] != "doctor").stderr
    assert fleet.cli("token", "add", "ann").stdout.startswith("slot_")
    listed = {one["name"] for one in json.loads(fleet.cli("token", "ls", "-o", "json").stdout)}
    assert listed == {"empty", "5", "\x1b[31mred", "ann"}
    assert "\x1b" not in fleet.cli("token", "ls").stdout
    for name in listed - {"ann"}:
        fleet.cli("token", "rm", name)
    assert fleet.cli("token", "ls", "-o", "id").stdout.split() == ["ann"]
    instances = fleet.cli("instance", "ls").stdout
    assert "sane" in instances
    figure("F24", "errors where instances, jobs, tails are nonsense", errors_of(instance), "", exactly=0)
    assert instance.stop() == 0


def test_tasks_of_instances_that_cannot_be_read_are_not_running_for_ever(
    fleet: Fleet, mongo_client: Mongo, tasks: Any
) -> None:
    """Nobody can tell whether such an owner lives; it is nobody's to renew, so in the end it is called dead."""
    fleet.start("sane")
    template = sound(fleet, tasks)
    instances = mongo_client[fleet.settings["database"]]["instances"]
    orphans = []
    for nonce in ("n", 5, None):
        garbled = f"garbled-{nonce}"
        instances.insert_one({"_id": garbled, "live": True, "name": "garbled", "nonce": nonce, "lease": "long"})
        orphan = damaged(template, lambda task: task.update(status="running", fence=1, attempt=1))
        orphan |= {"claim": {"instance": garbled, "token": garbled}, "instance": {"id": garbled, "name": "garbled"}}
        orphans.append(orphan)
    tasks.insert_many(orphans)

    for ended in fleet.client.wait([str(orphan["_id"]) for orphan in orphans], 20):
        assert ended.status == "failed"
        assert ended.message


# --- schedules --------------------------------------------------------------------------------------

# What to do to a sound schedule that is due now, and what must be said of it.
SCHEDULES: dict[str, Change] = {
    "cron of minute 61": lambda one: one.update(cron=["61 * * * *"], every=None),
    "cron a number": lambda one: one.update(cron=61, every=None),
    "cron that never comes": lambda one: one.update(cron=["0 0 31 2 *"], every=None),
    "every -1": lambda one: one.update(every=-1.0),
    "every NaN": lambda one: one.update(every=math.nan),
    "every 1e300": lambda one: one.update(every=1e300),
    "every a text": lambda one: one.update(every="1h"),
    "every 0": lambda one: one.update(every=0.0),
    "no trigger": lambda one: one.pop("every"),
    "after another, and due": lambda one: one.update(after=["good 0"], every=None),
    "no next_nominal_at": lambda one: one.pop("next_nominal_at"),
    "zone unknown": lambda one: one.update(cron=["* * * * *"], every=None, timezone="Mars/Olympus"),
    "no job": lambda one: one.pop("job"),
    "job a number": lambda one: one.update(job=7),
    "args a list": lambda one: one.update(args=[1]),
    "slots -1": lambda one: one.update(overrides={"slots": -1}),
    "slots NaN": lambda one: one.update(overrides={"slots": math.nan}),
    "slots 1e300": lambda one: one.update(overrides={"slots": 1e300}),
    "max_time -1": lambda one: one.update(overrides={"max_time": -1}),
    "jitter a text": lambda one: one.update(jitter="much"),
    "overlap unknown": lambda one: one.update(overlap="sometimes"),
    "catch_up a number": lambda one: one.update(catch_up=3),
    "max_runs 0": lambda one: one.update(max_runs=0),
    "priority a text": lambda one: one.update(priority="high"),
    "next_at a text": lambda one: one.update(next_at="soon"),
    "next_at NaN": lambda one: one.update(next_at=math.nan),
    "rev a text": lambda one: one.update(rev="first"),
    "no rev": lambda one: one.pop("rev"),
    "live a number": lambda one: one.update(live=3),
    "live of numbers": lambda one: one.update(live=[3, None]),
    "counters a text": lambda one: one.update(counters="many"),
    "source a text": lambda one: one.update(source="hand"),
    "start_at a text": lambda one: one.update(start_at="tomorrow"),
}


def test_schedules_that_cannot_be_used_are_broken_with_a_reason_and_the_others_fire(
    fleet: Fleet, mongo_client: Mongo, figure: Figures
) -> None:
    schedules = mongo_client[fleet.settings["database"]]["schedules"]
    fleet.client.schedules.add("work", name="template", every="1h")
    template = schedules.find_one_and_delete({"_id": "template"})
    assert template is not None
    now = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=5)
    due = template | {"next_at": now, "next_nominal_at": now, "anchor_at": now}
    for what, change in SCHEDULES.items():
        damaged_one = due | {"_id": what}
        change(damaged_one)
        schedules.insert_one({name: value for name, value in damaged_one.items() if value is not None})
    schedules.insert_many(
        [{"_id": 5, "status": "active"}, {"_id": "none"}, {"_id": "odd", "status": 7, "next_at": now}]
    )
    good = [f"good {number}" for number in range(3)]
    schedules.insert_many([due | {"_id": name} for name in good])
    instance = fleet.start("sane")

    def still_active() -> list[str]:
        return [str(one["_id"]) for one in schedules.find({"_id": {"$in": list(SCHEDULES)}, "status": "active"})]

    until(lambda: not still_active(), seconds=15, what="all to be put aside")
    for one in schedules.find({"_id": {"$in": list(SCHEDULES)}}):
        assert one["status"] == "broken", one
        assert one["why"], one["_id"]
    figure("F24", "schedules at fault in as many ways: broken with a reason", len(SCHEDULES), "")
    tasks = mongo_client[fleet.settings["database"]]["tasks"]
    fired = until(lambda: sorted(t["schedule"] for t in tasks.find({"status": "completed"})) == good, what="the others")
    assert fired
    assert {task["schedule"] for task in tasks.find({})} == set(good), "none of the bad ones fired"
    figure("F24", "errors where schedules are nonsense", errors_of(instance), "", exactly=0)

    listed = {one["name"]: one for one in json.loads(fleet.cli("schedule", "ls", "-o", "json").stdout)}
    assert set(SCHEDULES) | set(good) <= set(listed)
    for words in (["schedule", "ls"], ["schedule", "show", "slots NaN"], ["schedule", "show", "odd"], ["doctor"]):
        assert "Traceback" not in fleet.cli(*words, check=words[0] != "doctor").stderr
    fleet.cli("schedule", "rm", "slots NaN")
    assert "slots NaN" not in {one.name for one in fleet.client.schedules.find()}


# --- limits and start rates -------------------------------------------------------------------------
LIMITED = """
# /// script
# [tool.slotsched]
# concurrency = 1
# rate = "20/s"
# ///
"""


def test_what_limits_and_rates_go_by_being_nonsense_holds_up_nothing(
    make_fleet: FleetMaker, mongo_client: Mongo, tmp_path_factory: pytest.TempPathFactory, figure: Figures
) -> None:
    """Rates of wrong types, and permits that are none or that what has ended still has, by somebody's hand."""
    jobs = tmp_path_factory.mktemp("jobs")
    (jobs / "limited.py").write_text(f'{LIMITED}\nprint("ran")\n')
    with make_fleet(jobs=jobs) as fleet:
        database = mongo_client[fleet.settings["database"]]
        template = sound(fleet, database["tasks"], "limited")
        nonsense = [
            {"_id": "limited", "starts": ["soon", math.nan, None], "claims": [5, {"until": "x"}, {"token": 3}, []]},
            {"_id": 5, "starts": 7},
            {"_id": "work", "claims": {"a": 1}},
        ]
        database["rates"].insert_many(nonsense)
        permits: list[Any] = ["job:limited#0", 5, {"a": 1}, ["job:limited#x", None, 7], []]
        ended = [template | {"_id": ObjectId(), "status": "completed", "permits": some} for some in permits]
        database["tasks"].insert_many(ended)
        instance = fleet.start("sane")
        found = fleet.client.wait([fleet.client.enqueue("limited").id for _ in range(3)], 20)
        assert [task.status for task in found] == ["completed"] * 3
        figure("F24", "tasks under a limit and a rate whose documents are nonsense: run", len(found), "")
        assert "Traceback" not in fleet.cli("job", "ls").stderr
        figure("F24", "errors where limits and rates are nonsense", errors_of(instance), "", exactly=0)
