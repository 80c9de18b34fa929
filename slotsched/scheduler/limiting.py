"""Which limits are open: how many more tasks of a job may run now, and how many more may start.

What is read here only keeps a claim pass from looking at tasks in vain; the claim itself decides (store/permits.py and
store/rates.py). The limits are those of this instance's copy of the job file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from slotsched.model import Lane, Limit, Rate, Task, concurrency_limit
from slotsched.scheduler.engine import Engine
from slotsched.store import Wanted

RECHECK_SECONDS = 1.0  # a limit that was found reached is looked at again after this, where no event comes before


class Admission:
    """Lets tasks through in the order they come, as many under each limit as it leaves."""

    def __init__(self, limiter: Limiter, left: Mapping[str, int]) -> None:
        self._limiter = limiter
        self._left = dict(left)

    def open(self, lane: Lane) -> bool:
        """Whether a task of this lane would be let through."""
        return all(self._left.get(scope, 1) > 0 for scope in self._limiter.scopes(lane))

    def admit(self, lane: Lane) -> bool:
        """Whether one is; it is counted then."""
        if not self.open(lane):
            return False
        for scope in self._limiter.scopes(lane):
            if scope in self._left:
                self._left[scope] -= 1
        return True


class Limiter:
    """Limits by their scope: a job, a value of its key, or the starts of a job."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._left: dict[str, int] = {}
        self._reached: dict[str, float] = {}  # scope -> CLOCK_BOOTTIME until which it is not looked at again
        self._granted: tuple[str, dict[str, Rate]] = ("", {})  # the last claim's token, and whose starts it took

    # --- what is open --------------------------------------------------------------------------------

    def look_again(self) -> None:
        """A task that held a permit may have ended."""
        self._reached.clear()

    @property
    def opens_at(self) -> float | None:
        """When to look again (CLOCK_BOOTTIME); None where no limit is reached."""
        return min(self._reached.values(), default=None)

    def refresh(self, lanes: Iterable[Lane]) -> None:
        """Read what the limits of these lanes leave, but for those that were found reached a moment ago."""
        engine = self._engine
        now = engine.now()
        self._reached = {scope: until for scope, until in self._reached.items() if until > now}
        limits, rates = self._of(lanes)
        held = engine.store.permits.held(limits) if limits else frozenset()
        rooms = engine.store.rates.room(rates) if rates else {}
        self._left = {limit.scope: sum(permit not in held for permit in limit.permits) for limit in limits}
        self._left |= {_starts_of(job): room.starts for job, room in rooms.items()}
        waits = {_starts_of(job): room.wait for job, room in rooms.items()}
        for scope, left in self._left.items():
            if left <= 0:
                self._reached[scope] = now + min(RECHECK_SECONDS, waits.get(scope, RECHECK_SECONDS))

    def _of(self, lanes: Iterable[Lane]) -> tuple[set[Limit], dict[str, Rate]]:
        limits: set[Limit] = set()
        rates: dict[str, Rate] = {}
        for lane in lanes:
            limit, rate = self._limit(lane), self._rate(lane)
            if limit is not None and limit.scope not in self._reached:
                limits.add(limit)
            if rate is not None and _starts_of(lane.job) not in self._reached:
                rates[lane.job] = rate
        return limits, rates

    def reached(self, lane: Lane) -> bool:
        """Whether a limit that this lane's tasks come under leaves nothing."""
        return any(scope in self._reached for scope in self.scopes(lane))

    def admission(self) -> Admission:
        """To count with, from what the last `refresh` found."""
        return Admission(self, self._left)

    def scopes(self, lane: Lane) -> list[str]:
        """The names of the limits that this lane's tasks come under."""
        limit = self._limit(lane)
        scopes = [] if limit is None else [limit.scope]
        return scopes if self._rate(lane) is None else [*scopes, _starts_of(lane.job)]

    def _limit(self, lane: Lane) -> Limit | None:
        facts = self._engine.scan.jobs[lane.job].facts
        return concurrency_limit(lane.job, facts.concurrency, per_key=facts.concurrency_key is not None, key=lane.key)

    def _rate(self, lane: Lane) -> Rate | None:
        return self._engine.scan.jobs[lane.job].facts.rate

    # --- the claim -----------------------------------------------------------------------------------

    def claim(self, wanted: Sequence[tuple[str, Lane]], token: str) -> list[Task]:
        """Claim tasks (id, lane) that come under limits: first their starts, then each with its permit."""
        engine = self._engine
        by_job: dict[str, list[Wanted]] = defaultdict(list)
        for task_id, lane in wanted:
            by_job[lane.job].append(Wanted(id=task_id, limit=self._limit(lane)))
        rates = {job: rate for job in by_job if (rate := engine.scan.jobs[job].facts.rate) is not None}
        self._granted = token, rates
        allowed: list[Wanted] = []
        for job, tasks in by_job.items():
            allowed += self._with_starts(job, rates[job], tasks, token) if job in rates else tasks
        return engine.store.permits.claim(allowed, token, engine.ref) if allowed else []

    def _with_starts(self, job: str, rate: Rate, tasks: list[Wanted], token: str) -> list[Wanted]:
        grant = self._engine.store.rates.take(job, rate, len(tasks), token)
        return [Wanted(id=task.id, limit=task.limit, by=grant.by) for task in tasks[: grant.starts]]

    def settle(self, token: str, claimed: Sequence[Task]) -> None:
        """The claim has got these: give back the starts that it took for others."""
        granted_to, rates = self._granted
        for job, rate in rates.items() if granted_to == token else ():
            started = [task.started_at for task in claimed if task.job == job and task.started_at is not None]
            self._engine.store.rates.correct(job, rate, token, started)


def _starts_of(job: str) -> str:
    return f"rate:{job}"
