"""F02: a scheduler, or its whole machine, dies between any two steps, and a start on the same state directory mends it.

The table `ROWS` has every point that the source marks with `@failpoint`. Crashes are chained: an instance is started
with a point armed, dies there, is started with the next one armed and so first recovers from what the last death left.
At the end the independent checker judges all tasks of the chain.
"""

from __future__ import annotations

import datetime as dt
import random
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
from checker import Evidence, gather, judge
from fault_lab import Crash, add_job, let_them_say, make_jobs, marked_points, points_in, power_cut, wait_clean
from figures import Figures
from fleet import Fleet, FleetMaker, boottime, until
from proc_sampler import ProcSampler
from s3_servers import Bucket

from slotsched.model import Capacity, Instance, InstanceRef, Reason, Schedule, Status
from slotsched.store import TaskFilter

NAME = "phoenix"
SLOTS = 6
LEASE_SECONDS = 20.0  # long enough to come back within it, whatever else this machine does
LONG_LEASE_SECONDS = 40.0  # where a start may have to be made three times before it is that instance again
SHORT_LEASE_SECONDS = 3.0
GRACE_SECONDS = 1.0
POLL_SECONDS = 1.0
QUICKLY = ('retry_delay = "200ms"', 'retry_backoff = "fixed"')


class Stage:
    """One chain: a fleet, what it was asked to do, and which crash each task belongs to."""

    def __init__(self, fleet: Fleet, database: Any, *, cut: bool, bucket: Bucket | None = None) -> None:
        self.fleet = fleet
        self.cut = cut
        self.acknowledged: list[str] = []
        self.retries = 20 if cut else 0
        self.ghosts: set[str] = set()  # tasks of instances that never were
        self._bucket = bucket
        self._database = database
        self._stop = fleet.folder / "stop"
        let_them_say(fleet)

    # --- what leads to a point ----------------------------------------------------------------------

    def ask(self, job: str = "say", count: int = 1, args: dict[str, Any] | None = None, **options: Any) -> list[str]:
        options = {"retries": self.retries} | options
        made = [self.fleet.client.enqueue(job, args or {"lines": 5}, **options).id for _ in range(count)]
        self.acknowledged += made
        return made

    def work(self) -> None:
        self.ask(count=2)

    def later(self) -> None:
        self.ask(in_=0.05)

    def limited(self) -> None:
        self.ask("say_limited", count=3)

    def followers(self) -> None:
        parent = self.ask()
        self.ask(after=parent)
        self.ask(after=parent, when="any")

    def series(self) -> None:
        soon = self.fleet.client.store.now() + dt.timedelta(milliseconds=50)
        name = f"series-{secrets.token_hex(4)}"
        self.fleet.client.store.schedules.create(Schedule(name=name, job="say", at=soon))

    def declaration(self) -> None:
        add_job(self.fleet.jobs, f"declared_{secrets.token_hex(4)}", ['cron = "0 0 1 1 *"'])

    def unstarted(self) -> None:
        """A claim whose script was never launched: what a recovery gives back."""
        self.work()
        self.die("launch.before")

    def ghost(self) -> None:
        """Another instance that will be found dead in half a second, with one task."""
        store = self.fleet.client.store
        [task_id] = self.ask("nowhere", retries=0)
        self.ghosts.add(task_id)
        store.instances.register(ghost_instance(name := f"ghost-{secrets.token_hex(4)}", store.now()))
        assert store.queue.claim([task_id], secrets.token_hex(12), InstanceRef(id=name, name=name))

    def lost_answer(self, crash: Crash) -> None:
        """The connection breaks under a claim, if need be another one."""
        tasks = f"{self.fleet.settings['database']}.tasks"
        data = {"failCommands": ["update"], "namespace": tasks, "closeConnection": True, "appName": "slotsched"}
        once = {"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data}
        deadline = time.monotonic() + 15
        while not crash.acted and time.monotonic() < deadline:
            self._database.client.admin.command(once)
            self.work()
            with suppress(AssertionError):
                until(lambda: crash.acted, seconds=1.5)
        self._database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    def leave(self, crash: Crash) -> None:
        self._stop.touch()
        crash.instance.signal(signal.SIGTERM)

    def hang_up(self, crash: Crash) -> None:
        crash.instance.signal(signal.SIGHUP)

    # --- crashes ------------------------------------------------------------------------------------

    def die(self, point: str, during: Callable[[Stage, Crash], None] | None = None) -> None:
        """Start the instance with this point armed, and see it die there (its machine too, where that is the kind)."""
        crash = Crash(self.fleet, NAME, point, "stop" if self.cut else "kill", slots=SLOTS)
        if during is not None:
            crash.wait_up()
            during(self, crash)
        if self.cut:
            crash.wait()
            power_cut(crash.instance)
        else:
            crash.killed()

    def long_task(self) -> None:
        """One that goes on through every crash of the chain, until `end`."""
        self.ask(args={"lines": 100_000, "pause": 0.05, "stop": str(self._stop)}, retries=0)

    def end(self, sampler: ProcSampler) -> Evidence:
        """A last start without points: everything ends, nothing is left, and all slots can be used at once."""
        self._stop.touch()
        self.fleet.start(NAME, slots=SLOTS)
        self._wait_ended()
        wait_clean(self.fleet, [NAME], seconds=LONG_LEASE_SECONDS + 10)  # who never came back is found dead
        self.ask(slots=SLOTS)
        self._wait_ended()
        wait_clean(self.fleet, [NAME])
        return gather(self.fleet, self.acknowledged, sampler.sightings, {NAME: SLOTS}, self._bucket)

    def _wait_ended(self) -> None:
        tasks = self._database["tasks"]
        over = {"$in": ["completed", "failed", "canceled"]}
        until(lambda: not tasks.find_one({"status": {"$not": over}}), seconds=60, what="all tasks to end")


def ghost_instance(name: str, now: dt.datetime) -> Instance:
    """A live instance that will never renew its lease of half a second."""
    return Instance(
        id=name,
        name=name,
        host="nowhere",
        pid=1,
        boot_id="of another machine",
        incarnation=1,
        nonce="seen",
        live=True,
        draining=False,
        capacity=Capacity(slots=1),
        used=1,
        lease=0.5,
        grace=0.0,
        started_at=now,
        renewed_at=now,
        version="0",
    )


@dataclass(frozen=True)
class Row:
    """A marked point. ask: what brings a scheduler there, before it is started; during: once it is up. edges: those at
    which a death leaves another state than its neighbours do.
    """

    point: str
    ask: Callable[[Stage], None] | None = None
    during: Callable[[Stage, Crash], None] | None = None
    edges: tuple[str, ...] = ("before", "after")

    def ways(self) -> list[str]:
        return [f"{self.point}.{edge}" for edge in self.edges]


ROWS = (
    # its own life: the first four on a fresh state directory
    Row("register"),
    Row("become"),
    Row("save_identity"),
    Row("publish"),
    Row("resume"),
    Row("declare", Stage.declaration),
    Row("renew"),
    # a task's life
    Row("promote", Stage.later),
    Row("claim", Stage.work),
    Row("claimed", Stage.work, edges=("before",)),
    Row("claim_limited", Stage.limited),
    Row("permits", Stage.limited),
    Row("settle", during=Stage.lost_answer),
    Row("prepare", Stage.work),
    Row("record", Stage.work),
    Row("launch", Stage.work),
    Row("release", Stage.unstarted),
    Row("take_over", Stage.unstarted),
    Row("collect", Stage.work),
    Row("finish", Stage.work),
    Row("settle_run", Stage.work),
    Row("upload", Stage.work),
    Row("log_uploaded", Stage.work),
    Row("remove_run", Stage.work),
    # what one instance does for all
    Row("fire", Stage.series),
    Row("fire_insert", Stage.series),
    Row("book", Stage.series),
    Row("tell", Stage.followers),
    Row("told", Stage.followers),
    Row("fence", Stage.ghost),
    Row("take", Stage.ghost),
    # its end
    Row("replace", during=Stage.hang_up, edges=("before",)),
    Row("retire", during=Stage.leave),
    Row("forget_identity", during=Stage.leave),
)
BY_NAME = {row.point: row for row in ROWS}
EVERY_WAY = [way for row in ROWS for way in row.ways()]
AT_THE_BEGINNING = ("register", "become", "save_identity")
AT_THE_END = ("retire", "forget_identity")
# One edge of each pair of neighbours, where the one's end is the other's beginning.
QUICK = [
    *("register.after", "save_identity.before", "become.after", "resume.after"),
    *("claim.before", "claimed.before", "permits.after", "record.before", "record.after", "release.after"),
    *("collect.after", "finish.after", "log_uploaded.before", "log_uploaded.after"),
    *("fire.after", "book.after", "take.before", "retire.before"),
]
QUICK_CUT = ["claim.after", "launch.after", "finish.after", "log_uploaded.before"]
# Where the machine stays away until another one has rescued its tasks.
RESCUED = ["claim.after", "launch.after", "collect.before", "log_uploaded.before"]


@contextmanager
def chain(
    make_fleet: FleetMaker,
    client: Any,
    folder: Path,
    *,
    cut: bool,
    bucket: Bucket | None = None,
    lease: float = LEASE_SECONDS,
) -> Iterator[Stage]:
    jobs = make_jobs(
        folder / "jobs",
        {"say": QUICKLY, "say_limited": ["concurrency = 2", *QUICKLY], "nowhere": ['requires = ["nowhere"]']},
    )
    with make_fleet(bucket, jobs=jobs, lease=f"{lease}s") as fleet:
        yield Stage(fleet, client[fleet.settings["database"]], cut=cut, bucket=bucket)


def run_chain(stage: Stage, ways: Sequence[str]) -> Evidence:
    """Crash at one point after the other; where only the scheduler dies, one task runs through it all."""
    with ProcSampler(stage.fleet.witness.path) as sampler:
        for number, way in enumerate(ways):
            row = BY_NAME[way.partition(".")[0]]
            if number == 3 and not stage.cut:
                stage.long_task()
            if row.ask is not None:
                row.ask(stage)
            stage.die(way, row.during)
        return stage.end(sampler)


def check(stage: Stage, evidence: Evidence) -> int:
    """The verdict's violations, none; and how the tasks of such a chain must have ended."""
    verdict = judge(evidence)
    print(verdict.report())
    assert verdict.violations == 0, verdict.report()
    for task in evidence.tasks.values():
        how = (task.status, task.reason)
        if task.id in stage.ghosts:
            assert how == (Status.FAILED, Reason.LOST)
        elif not stage.cut:
            assert how == (Status.COMPLETED, Reason.EXIT), f"{task.id} noticed a scheduler's death: {how}"
        else:
            assert task.reason in (Reason.EXIT, Reason.LOST, Reason.UPSTREAM), f"{task.id}: {how} {task.message}"
    return verdict.violations


# --- the table --------------------------------------------------------------------------------------


def test_every_marked_point_has_its_row_and_every_row_its_point() -> None:
    assert set(BY_NAME) == set(marked_points())
    assert len(BY_NAME) == len(ROWS)
    assert {*QUICK, *QUICK_CUT} <= set(EVERY_WAY)


def test_a_marked_function_without_a_row_is_noticed() -> None:
    source = (
        '@failpoint("new")\ndef work(): ...\nclass A:\n    @failpoints.failpoint("inner")\n    def work(self): ...\n'
    )
    assert points_in(source) == ["new", "inner"]
    assert not set(points_in(source)) <= set(BY_NAME)


def test_a_point_that_does_not_exist_or_is_not_reached_fails_its_test(fleet: Fleet) -> None:
    with pytest.raises(AssertionError, match="nothing in the source is marked"):
        Crash(fleet, NAME, "finsh.before", "kill", slots=1)
    crash = Crash(fleet, NAME, "take.before", "kill", slots=1)
    crash.wait_up()
    crash.instance.signal(signal.SIGTERM)
    with pytest.raises(AssertionError, match="never reached"):
        crash.killed()


# --- the chains -------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cut", [False, True], ids=["scheduler", "machine"])
def test_a_death_at_any_point_loses_doubles_and_leaks_nothing(
    make_fleet: FleetMaker,
    mongo_client: pymongo.MongoClient[Any],
    tmp_path: Path,
    moto_bucket: Bucket,
    figure: Figures,
    cut: bool,
) -> None:
    ways = QUICK_CUT if cut else QUICK
    with chain(make_fleet, mongo_client, tmp_path, cut=cut, bucket=moto_bucket if cut else None) as stage:
        violations = check(stage, run_chain(stage, ways))
    figure(
        "F02",
        f"violations after {len(ways)} deaths of the {'machine' if cut else 'scheduler'}",
        violations,
        "",
        exactly=0,
    )


@pytest.mark.chaos
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("cut", [False, True], ids=["scheduler", "machine"])
def test_a_death_at_every_point_in_any_order_loses_doubles_and_leaks_nothing(
    make_fleet: FleetMaker,
    mongo_client: pymongo.MongoClient[Any],
    tmp_path: Path,
    moto_bucket: Bucket,
    figure: Figures,
    cut: bool,
    seed: int,
) -> None:
    """The whole table, both edges of each point, in a bucket; the order decides what each start has to recover from."""
    first = [way for way in EVERY_WAY if way.startswith(AT_THE_BEGINNING)]
    last = [way for way in EVERY_WAY if way.startswith(AT_THE_END)]
    others = [way for way in EVERY_WAY if way not in first and way not in last]
    random.Random(seed).shuffle(others)
    ways = [*first, *others, *last]
    lease = LONG_LEASE_SECONDS
    with chain(make_fleet, mongo_client, tmp_path, cut=cut, bucket=moto_bucket, lease=lease) as stage:
        violations = check(stage, run_chain(stage, ways))
    what = f"violations after {len(ways)} deaths of the {'machine' if cut else 'scheduler'}, order {seed}"
    figure("F02", what, violations, "", exactly=0)


# --- rescued meanwhile ------------------------------------------------------------------------------


@pytest.mark.timeout(120)
@pytest.mark.parametrize("cut", [False, True], ids=["scheduler", "machine"])
def test_what_comes_back_after_its_tasks_were_rescued_leaves_them_as_they_are(
    make_fleet: FleetMaker, tmp_path: Path, figure: Figures, cut: bool
) -> None:
    """Each instance dies at another point with tasks that only it can run; the survivor calls them lost."""
    variants = {f"say_{number}": [f'requires = ["only-{number}"]', *QUICKLY] for number in range(len(RESCUED))}
    jobs = make_jobs(tmp_path / "jobs", variants)
    names = [f"away-{number}" for number in range(len(RESCUED))]
    with make_fleet(jobs=jobs, lease=f"{SHORT_LEASE_SECONDS}s") as fleet, ProcSampler(fleet.witness.path) as sampler:
        let_them_say(fleet)
        fleet.start("survivor", slots=1)
        ids = []
        for job, point in zip(variants, RESCUED, strict=True):
            args = {"lines": 400, "pause": 0.02} if point == "launch.after" else {"lines": 20}
            ids += [fleet.client.enqueue(job, args, retries=retries).id for retries in (0, 1)]
        action = "stop" if cut else "kill"
        crashes = [
            Crash(fleet, name, point, action, slots=2, tags=f"only-{number}")
            for number, (name, point) in enumerate(zip(names, RESCUED, strict=True))
        ]
        for crash in crashes:
            if cut:
                crash.wait(40)
                power_cut(crash.instance)
            else:
                crash.killed(40)
        died = boottime()
        tasks = fleet.client.store.tasks
        until(lambda: not tasks.find(TaskFilter(status=frozenset({Status.RUNNING}))), seconds=20, what="the rescue")
        rescued = boottime() - died
        for number, name in enumerate(names):
            fleet.start(name, slots=2, tags=f"only-{number}")
        fleet.ended(*ids, seconds=40)
        wait_clean(fleet, ["survivor", *names])
        evidence = gather(fleet, ids, sampler.sightings, dict.fromkeys(names, 2))
    verdict = judge(evidence)
    assert verdict.violations == 0, verdict.report()
    lost = [task for task in evidence.tasks.values() if task.attempts[0].reason == Reason.LOST]
    assert len(lost) >= 4, "those that were claimed or running when their instance died"
    figure("F02", "violations where the dead come back after the rescue", verdict.violations, "", exactly=0)
    if not cut:  # machines are cut off one after the other, and the first are rescued before the last is
        bound = SHORT_LEASE_SECONDS + GRACE_SECONDS + 2 * POLL_SECONDS
        what = f"the tasks of {len(names)} dead instances are rescued after the last death"
        figure("F02", what, rescued, at_most=bound + 1.0)
