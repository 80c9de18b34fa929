"""One claim's run on this instance: what the scheduler must know to finish it, also after a restart."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from slotsched.archive import log_key
from slotsched.failpoints import failpoint
from slotsched.model import InstanceRef, LogRef, Needs, Outcome, RetryPolicy, Task
from slotsched.model.task import jsonable
from slotsched.process import Supervised, forbid_start

RECORD_NAME = "claim.json"  # beside the supervisor's files; only the scheduler reads it
SETTLED_NAME = "settled"  # the store knows how it ended
CLAIMS_NAME = "claims"  # the folder beside `runs` with a second copy of every record
T = TypeVar("T")


def second_record(directory: Path) -> Path:
    """Where a run's record lies once more: out of reach of a script that removes its run directory (`$TMPDIR/..`).

    It is written last before the launch, so where it exists without the first one the script may have started. A script
    that removes the whole state directory takes this with it; only its living processes tell of it then.
    """
    return directory.parent.parent / CLAIMS_NAME / f"{directory.name}.json"


def never_started(directory: Path) -> bool:
    """Take the start right of a run for good; False where its script may have started. Raises OSError: ask again.

    In a directory that its script has cleared the right is free again, and tells nothing.
    """
    cleared = second_record(directory).exists() and not (directory / RECORD_NAME).exists()
    return not cleared and forbid_start(directory)


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A claim as it is kept in the run directory: enough to finish it without asking the store."""

    task_id: str
    job: str
    token: str
    fence: int
    attempt: int
    instance: InstanceRef
    needs: Needs
    retry: RetryPolicy
    started_at: dt.datetime
    max_time: float
    grace: float
    log: LogRef
    hash: str | None = None
    lane_key: str | None = None
    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # of resources, as the script was told
    memory_retry_factor: float | None = None
    schedule: str | None = None

    @property
    def run_id(self) -> str:
        return f"{self.task_id}-{self.fence}"

    @property
    def may_run_again(self) -> bool:
        """Whether another attempt could follow a loss: then this one must not outlive the local deadline."""
        return self.attempt <= self.retry.limit and "lost" in self.retry.on

    @classmethod
    def of(cls, task: Task, token: str, instance: InstanceRef, store_url: str) -> RunRecord:
        """The record of a task just claimed. max_time and grace are set once its job file is read."""
        assert task.started_at is not None
        key = log_key(task.id, task.attempt, task.started_at)
        return cls(
            task_id=task.id,
            job=task.job,
            token=token,
            fence=task.fence,
            attempt=task.attempt,
            instance=instance,
            needs=task.needs,
            retry=task.retry,
            started_at=task.started_at,
            max_time=task.max_time or 0.0,
            grace=0.0,
            log=LogRef(store=store_url, key=key),
            lane_key=task.lane.key,
            schedule=task.schedule,
        )

    @failpoint("record")
    def write(self, directory: Path) -> None:
        """Twice: whole in the run directory, then beside it. Raises OSError."""
        text = json.dumps(jsonable(self))
        temporary = directory / f"{RECORD_NAME}.new"
        temporary.touch(mode=0o600)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(directory / RECORD_NAME)
        second = second_record(directory)
        second.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            second.touch(mode=0o600)
            second.write_text(text, encoding="utf-8")
        except OSError:  # nothing is launched, and nothing may look like it
            second.unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, directory: Path) -> RunRecord | None:
        """None where no record can be read; `never_started` tells whether that is because none was written.

        What a newer version has written beside what this one knows is ignored.
        """
        for path in (directory / RECORD_NAME, second_record(directory)):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                return cls._from(json.loads(path.read_text(encoding="utf-8")))
        return None

    @classmethod
    def _from(cls, found: dict[str, Any]) -> RunRecord:
        needs, retry = found["needs"], found["retry"]
        values = {
            "instance": _made(InstanceRef, found["instance"]),
            "needs": _made(Needs, {**needs, "tags": tuple(needs["tags"])}),
            "retry": _made(RetryPolicy, {**retry, "on": tuple(retry["on"])}),
            "started_at": dt.datetime.fromisoformat(found["started_at"]),
            "log": _made(LogRef, found["log"]),
            "units": {name: tuple(units) for name, units in found.get("units", {}).items()},
        }
        return _made(cls, found | values)


def _made(kind: type[T], values: Mapping[str, Any]) -> T:
    """The dataclass of those values that it knows."""
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # only dataclasses are asked for
    return kind(**{name: value for name, value in values.items() if name in known})


class Phase(Enum):
    LAUNCHING = "launching"  # sent to the spawner, its supervisor not seen yet
    RUNNING = "running"  # its supervisor lives
    ENDED = "ended"  # the tree is dead, the store does not know yet


@dataclass
class Run:
    """The loop's own, changing view of one run. `disowned`: the store shows the claim as no longer ours."""

    record: RunRecord
    directory: Path
    phase: Phase = Phase.LAUNCHING
    launched: float = 0.0  # CLOCK_BOOTTIME
    planned: float = 0.0  # seconds it is expected to run
    supervised: Supervised | None = None
    ordered: tuple[str, bool] | None = None  # (cause, kill) of the last order given
    ordered_at: float = 0.0  # CLOCK_BOOTTIME
    outcome: Outcome | None = None  # None once ended: the script never started, and the claim is to be released
    ended: float = 0.0  # CLOCK_BOOTTIME
    relaunched: bool = False  # its launch was sent again, and nothing heard of it yet
    disowned: bool = False
    inherited: bool = False  # from a directory's life in another boot or another place: nobody saw its end
    adopted: bool = False  # found alive after a restart: part of its log may have been shipped before

    @property
    def id(self) -> str:
        return self.record.run_id

    def end(self, outcome: Outcome, now: float) -> None:
        """The tree is dead (or never was): its slots are free, its end is to be told to the store."""
        self.phase, self.outcome, self.ended = Phase.ENDED, outcome, now - outcome.ago

    def end_unstarted(self) -> None:
        """The script never started and never will under this claim."""
        self.phase, self.outcome = Phase.ENDED, None

    @failpoint("settle_run")
    def settle(self) -> None:
        """Remember beyond a restart that the store knows this end: only the log is left to be uploaded."""
        with contextlib.suppress(OSError):  # then a next scheduler tells the store again, which changes nothing
            (self.directory / SETTLED_NAME).touch(mode=0o600)

    @property
    def settled(self) -> bool:
        return (self.directory / SETTLED_NAME).exists()

    def outcome_now(self, now: float) -> Outcome:
        """The outcome with `ago` counted up to now: the store subtracts it from its own clock."""
        assert self.outcome is not None
        return replace(self.outcome, ago=max(0.0, now - self.ended))


class Roster:
    """Every run this instance knows and has not yet settled with the store, by run id."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        self._runs[run.id] = run

    def remove(self, run: Run) -> None:
        self._runs.pop(run.id, None)

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    def alive(self) -> list[Run]:
        """Runs whose processes live or may yet start."""
        return [run for run in self._runs.values() if run.phase is not Phase.ENDED]

    def ended(self) -> list[Run]:
        return [run for run in self._runs.values() if run.phase is Phase.ENDED]
