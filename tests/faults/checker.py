"""The independent verdict over a run with faults: was anything lost, doubled, overcommitted, or a log incomplete?

Judged from what the tasks wrote themselves (the witness file, and a copy of each line they said), from what a sampler
saw in /proc, and from the log store read back object by object. The scheduler's own records are judged by these, not
believed: a task that the store shows as completed must have said that it ended.

The tasks are those of `jobs/`: shell scripts whose clock has steps of 10 ms.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet import Fleet, Mark
from proc_sampler import Sighting
from s3_servers import Bucket

from slotsched.model import TERMINAL, Attempt, Reason, Status, Task
from slotsched.store import TaskFilter

TICK_SECONDS = 0.01  # of /proc/uptime, by which the scripts tell the time
UNREAD_SECONDS = 1.0  # what was in the pipe when a supervisor was killed is nobody's any more
_KEY = re.compile(r"([0-9a-f]{24})/(\d+)\.ndjson\.gz$")
_LINE = re.compile(r"line (\d+) (\d+\.\d+)$")
Intervals = dict[tuple[str, int], "Interval"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """acknowledged: ids that an enqueue returned. tasks: as the store shows them, by id. said: the copies of what
    scripts said, by (task, fence). logs: unpacked objects of the log store, by (task, attempt). capacity: slots by the
    instance's name.
    """

    acknowledged: Sequence[str]
    tasks: Mapping[str, Task]
    marks: Sequence[Mark]
    sightings: Mapping[tuple[str, str], Sighting] = field(default_factory=dict)
    said: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    logs: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    capacity: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One sentence per violation, by kind; `attempts`: how many scripts began."""

    attempts: int
    lost: list[str]
    doubled: list[str]
    overcommitted: list[str]
    incomplete: list[str]
    unended: list[str]

    def kinds(self) -> dict[str, list[str]]:
        return {
            "lost": self.lost,
            "doubled": self.doubled,
            "overcommitted": self.overcommitted,
            "logs incomplete": self.incomplete,
            "not ended": self.unended,
        }

    @property
    def violations(self) -> int:
        return sum(map(len, self.kinds().values()))

    def report(self, most: int = 10) -> str:
        """The counts, and the first sentences of each kind."""
        lines = [f"{self.attempts} attempts"]
        for kind, found in self.kinds().items():
            lines.append(f"{kind}: {len(found)}")
            lines += [f"  {sentence}" for sentence in found[:most]]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """When an attempt's script was certainly alive, by itself and by the sampler (CLOCK_BOOTTIME)."""

    instance: str
    slots: int
    begin: float
    end: float


def judge(evidence: Evidence) -> Verdict:
    """The verdict. What cannot be known counts for the scheduler: a script seen once was alive for that moment."""
    alive = _intervals(evidence)
    return Verdict(
        attempts=len(evidence.marks and {(m.task, m.fence) for m in evidence.marks if m.event == "start"}),
        lost=list(_lost(evidence)),
        doubled=[*_doubled_starts(evidence), *_together(alive)],
        overcommitted=list(_overcommitted(alive, evidence.capacity)),
        incomplete=list(_incomplete(evidence)),
        unended=list(_unended(evidence)),
    )


# --- the rules --------------------------------------------------------------------------------------


def _lost(evidence: Evidence) -> Iterator[str]:
    ends = {(mark.task, mark.fence) for mark in evidence.marks if mark.event == "end"}
    for task_id in evidence.acknowledged:
        if task_id not in evidence.tasks:
            yield f"{task_id} was acknowledged, and the store has no such task"
    for task in evidence.tasks.values():
        if task.status == Status.COMPLETED and (task.id, task.fence) not in ends:
            yield f"{task.id} is completed, and its script (fence {task.fence}) never said that it ended"


def _doubled_starts(evidence: Evidence) -> Iterator[str]:
    starts: dict[str, list[Mark]] = defaultdict(list)
    for mark in evidence.marks:
        if mark.event == "start":
            starts[mark.task].append(mark)
    for task_id, begun in starts.items():
        fences = [mark.fence for mark in begun]
        if len(set(fences)) < len(fences):
            yield f"{task_id} began twice under one claim: fences {fences}"
        task = evidence.tasks.get(task_id)
        if task is None:
            yield f"{task_id} began, and the store has no such task"
            continue
        if len(fences) > 1 + task.retry.limit:
            yield f"{task_id} began {len(fences)} times with {task.retry.limit} retries: fences {fences}"
        for fence in set(fences) - {attempt.fence for attempt in task.attempts}:
            yield f"{task_id} began under fence {fence}, which is none of its attempts"


def _together(alive: Intervals) -> Iterator[str]:
    by_task: dict[str, list[tuple[int, Interval]]] = defaultdict(list)
    for (task_id, fence), interval in alive.items():
        by_task[task_id].append((fence, interval))
    for task_id, attempts in by_task.items():
        attempts.sort(key=lambda attempt: attempt[1].begin)
        for i, (fence, earlier) in enumerate(attempts):
            for other, later in attempts[i + 1 :]:
                if later.begin + TICK_SECONDS < earlier.end:
                    both = earlier.end - later.begin
                    yield f"{task_id}: fence {fence} and fence {other} were alive together for {both:.2f} s"


def _overcommitted(alive: Intervals, capacity: Mapping[str, int]) -> Iterator[str]:
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for interval in alive.values():
        # Both moments may be a tick late or early: only what is certainly at the same time counts.
        begin, end = interval.begin + TICK_SECONDS, interval.end
        if begin < end:
            changes[interval.instance] += [(begin, interval.slots), (end, -interval.slots)]
    for instance, moments in changes.items():
        used = 0
        for at, change in sorted(moments):
            used += change
            if used > capacity.get(instance, 0) and change > 0:
                yield f"{instance} ran {used} slots of {capacity.get(instance, 0)} at {at:.2f}"


def _incomplete(evidence: Evidence) -> Iterator[str]:
    ends = {(mark.task, mark.fence) for mark in evidence.marks if mark.event == "end"}
    for mark in evidence.marks:
        if mark.event != "start" or mark.task not in evidence.tasks:
            continue
        name = f"{mark.task}, attempt {mark.attempt}"
        log = evidence.logs.get((mark.task, mark.attempt))
        if log is None:
            yield f"{name}: no log in the log store"
            continue
        said = evidence.said.get((mark.task, mark.fence), b"")
        attempt = next((one for one in evidence.tasks[mark.task].attempts if one.fence == mark.fence), None)
        whole = (mark.task, mark.fence) in ends and attempt is not None and attempt.reason == Reason.EXIT
        complaint = _compare(said, stdout_of(log), whole=whole) or _not_told(attempt)
        if complaint:
            yield f"{name}: {complaint}"


def _compare(said: bytes, logged: bytes, *, whole: bool) -> str | None:
    """What is wrong with a log. whole: the script ended by itself, so it must be there to the byte."""
    if whole:
        return None if logged == said else f"{len(logged)} bytes logged, {len(said)} said, and they differ"
    spoken, kept = _numbered(said), _numbered(logged)
    if [number for number, _ in kept] != list(range(1, len(kept) + 1)):
        return f"its lines are {[number for number, _ in kept][:20]}"
    if kept[: len(spoken)] != spoken[: len(kept)]:
        return "its lines are not those that were said"
    due = sum(at < spoken[-1][1] - UNREAD_SECONDS for _, at in spoken) if spoken else 0
    return None if len(kept) >= due else f"{len(kept)} lines logged, {len(spoken)} said before the kill"


def _not_told(attempt: Attempt | None) -> str | None:
    told = attempt is not None and attempt.log is not None and attempt.log.uploaded
    return None if told else "its log is in the log store, and the task does not say so"


def _unended(evidence: Evidence) -> Iterator[str]:
    for task in evidence.tasks.values():
        if task.status not in TERMINAL:
            yield f"{task.id} is {task.status}"
        for attempt in task.attempts:
            if attempt.ended_at is None or attempt.reason is None:
                yield f"{task.id}: attempt {attempt.number} (fence {attempt.fence}) has no end"


# --- reading what there is --------------------------------------------------------------------------


def _intervals(evidence: Evidence) -> Intervals:
    """From the first to the last sign of life of each attempt."""
    seen: dict[tuple[str, int], list[tuple[float, str, int]]] = defaultdict(list)
    for mark in evidence.marks:
        seen[mark.task, mark.fence].append((mark.at, mark.instance, mark.slots))
    for (task_id, fence), sighting in evidence.sightings.items():
        signs = [(at, sighting.instance, sighting.slots) for at in (sighting.first, sighting.last)]
        seen[task_id, int(fence)] += signs
    for (task_id, fence), copy in evidence.said.items():
        if (task_id, fence) in seen:
            _, instance, slots = seen[task_id, fence][0]
            seen[task_id, fence] += [(at, instance, slots) for _, at in _numbered(copy)[-1:]]
    return {
        key: Interval(instance=signs[0][1], slots=signs[0][2], begin=min(signs)[0], end=max(signs)[0])
        for key, signs in seen.items()
    }


def _numbered(text: bytes) -> list[tuple[int, float]]:
    """(number, when) of each whole line; a line that was cut off by a kill is none."""
    whole = text[: text.rfind(b"\n") + 1].decode(errors="replace").splitlines()
    return [(int(found[1]), float(found[2])) for line in whole if (found := _LINE.match(line))]


def stdout_of(log: bytes) -> bytes:
    """What a log says its script wrote to stdout, read without slotsched's help. Short lines of text only."""
    lines = [json.loads(line) for line in log.splitlines()]
    return b"".join(
        line["msg"].encode() + (b"" if line.get("eol") is False else b"\n")
        for line in lines
        if line.get("stream") == "stdout"
    )


def read_folder(folder: Path) -> dict[tuple[str, int], bytes]:
    """Every log of a folder used as log store, unpacked, by (task, attempt)."""
    return _by_attempt((path.as_posix(), path.read_bytes()) for path in folder.glob("**/*.ndjson.gz"))


def read_bucket(bucket: Bucket) -> dict[tuple[str, int], bytes]:
    """Every log of a bucket, unpacked, by (task, attempt)."""
    return _by_attempt(bucket.objects().items())


def _by_attempt(objects: Iterable[tuple[str, bytes]]) -> dict[tuple[str, int], bytes]:
    found = {}
    for key, body in objects:
        match = _KEY.search(key)
        assert match, f"{key} is no key of a log"
        attempt = match[1], int(match[2])
        assert attempt not in found, f"two logs of one attempt: {key}"
        found[attempt] = gzip.decompress(body)
    return found


def said_folder(witness: Path) -> Path:
    """Where the scripts keep copies of what they say; made by whoever makes the fleet."""
    return witness.with_name(f"{witness.name}.said")


def read_said(witness: Path) -> dict[tuple[str, int], bytes]:
    found = {}
    for path in said_folder(witness).iterdir():
        task_id, _, fence = path.name.partition("-")
        found[task_id, int(fence)] = path.read_bytes()
    return found


def all_tasks(fleet: Fleet) -> dict[str, Task]:
    """Every task as the store shows it, page by page."""
    found: dict[str, Task] = {}
    after = None
    while page := fleet.client.store.tasks.find(TaskFilter(order="oldest"), 1000, after=after):
        found |= {task.id: task for task in page}
        after = page[-1].id
    return found


def gather(
    fleet: Fleet,
    acknowledged: Sequence[str],
    sightings: Mapping[tuple[str, str], Sighting],
    capacity: Mapping[str, int],
    bucket: Bucket | None = None,
) -> Evidence:
    """What a fleet left, to be judged once everything has ended and been uploaded."""
    logs = read_folder(Path(fleet.settings["log_store"])) if bucket is None else read_bucket(bucket)
    return Evidence(
        acknowledged=acknowledged,
        tasks=all_tasks(fleet),
        marks=fleet.witness.marks(),
        sightings=dict(sightings),
        said=read_said(fleet.witness.path),
        logs=logs,
        capacity=capacity,
    )


def living(witness: Path) -> set[int]:
    """Processes of any task of this fleet."""
    wanted = f"WITNESS={witness}\0".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            environment = path.read_bytes()
            if wanted in environment and b"SLOTSCHED_TASK_ID=" in environment:
                found.add(int(path.parent.name))
    return found
