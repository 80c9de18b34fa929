"""What the crash tests and the chaos run share: jobs in variants, crashes at named points, power cuts, leftovers."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil
from checker import living, said_folder
from fleet import Fleet, InstanceProcess, until

import slotsched
from slotsched.failpoints import NOTICE, VARIABLE
from slotsched.process import find_supervisor

SAY = Path(__file__).parent / "jobs" / "say.sh"
_POINT = re.compile(rf"^{NOTICE} (\S+)=", re.MULTILINE)


def make_jobs(folder: Path, variants: Mapping[str, Iterable[str]]) -> Path:
    """A folder of jobs that are all `jobs/say.sh`, each with further facts (`concurrency = 2`); that folder."""
    folder.mkdir(exist_ok=True)
    for name, facts in variants.items():
        add_job(folder, name, facts)
    return folder


def add_job(folder: Path, name: str, facts: Iterable[str]) -> None:
    more = "".join(f"# {fact}\n" for fact in facts)
    text = SAY.read_text().replace("# [tool.slotsched]\n", f"# [tool.slotsched]\n{more}", 1)
    aside = folder / f".{name}.new"
    aside.write_text(text)
    aside.chmod(0o755)
    aside.rename(folder / f"{name}.sh")


def let_them_say(fleet: Fleet) -> None:
    """The folder for the copies of what scripts say."""
    said_folder(fleet.witness.path).mkdir(exist_ok=True)


# --- points -----------------------------------------------------------------------------------------


def marked_points() -> dict[str, str]:
    """Every name given to `@failpoint` in the source, and the file it is in."""
    found: dict[str, str] = {}
    root = Path(slotsched.__file__).parent
    for path in sorted(root.rglob("*.py")):
        found |= dict.fromkeys(points_in(path.read_text(encoding="utf-8")), str(path.relative_to(root)))
    return found


def points_in(source: str) -> list[str]:
    return [
        decorator.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call)
        and isinstance(decorator.func, (ast.Name, ast.Attribute))
        and (decorator.func.id if isinstance(decorator.func, ast.Name) else decorator.func.attr) == "failpoint"
        and isinstance(decorator.args[0], ast.Constant)
        and isinstance(decorator.args[0].value, str)
    ]


class Crash:
    """An instance started with one point armed, of which a test must know that it acted."""

    def __init__(self, fleet: Fleet, name: str, point: str, action: str, *, slots: int, **settings: str) -> None:
        assert point.rpartition(".")[0] in marked_points(), f"nothing in the source is marked {point}"
        self._fleet = fleet
        self._point = point
        output = fleet.folder / f"{name}.log"
        self._begun = output.stat().st_size if output.exists() else 0
        environ = {VARIABLE: f"{point}={action}"}
        self.instance = fleet.start(name, slots=slots, wait=False, environ=environ, **settings)

    @property
    def acted(self) -> bool:
        said = self.instance.output.read_bytes()[self._begun :].decode(errors="replace")
        return self._point in _POINT.findall(said)

    def wait_up(self, seconds: float = 20.0) -> None:
        until(lambda: b'"up"' in self.instance.output.read_bytes()[self._begun :], seconds=seconds, what="up")

    def wait(self, seconds: float = 20.0) -> None:
        """Until the point has acted; what it was to do is done when this returns, or about to be."""
        until(lambda: self.acted or self.instance.process.poll() is not None, seconds=seconds, what=self._point)
        assert self.acted, f"{self._point} was never reached: {self.instance.output.read_text()[-3000:]}"

    def killed(self, seconds: float = 20.0) -> None:
        """For the action `kill`: it was the point's SIGKILL that ended it."""
        self.wait(seconds)
        assert self.instance.process.wait(10) == -signal.SIGKILL


# --- the ends of machines ---------------------------------------------------------------------------


def power_cut(instance: InstanceProcess) -> None:
    """The scheduler, its spawner, every supervisor and every script of this machine are gone at once.

    First whoever could start others; supervisors are found by their run directories, also those that an earlier
    scheduler left.
    """
    spawners = [child for child in _children(instance.pid) if child.name() == "slotsched-spawn"]
    if instance.process.poll() is None:
        instance.process.kill()
    for spawner in spawners:
        with contextlib.suppress(psutil.NoSuchProcess):
            spawner.kill()
    instance.process.wait(10)
    for spawner in spawners:
        with contextlib.suppress(psutil.TimeoutExpired):
            spawner.wait(5)
    until(lambda: not _kill_supervisors(instance.state_dir / "runs"), seconds=10, what="the last supervisor")


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _kill_supervisors(runs: Path) -> int:
    """One round; how many there still were."""
    found = 0
    for directory in list(runs.iterdir()) if runs.is_dir() else []:
        with contextlib.suppress(FileNotFoundError):
            supervised = find_supervisor(directory)
            if supervised is not None:
                found += 1
                supervised.kill()
                supervised.close()
    return found


# --- what must not be left --------------------------------------------------------------------------


def leftovers(fleet: Fleet, names: Iterable[str]) -> list[str]:
    """What there is that should not be once everything has ended: slots, permits, claims, run directories, processes.

    names: of the instances that are up; nobody else may be live.
    """
    wanted = sorted(names)
    found = [f"{pid} lives: {_command(pid)}" for pid in living(fleet.witness.path)]
    live = fleet.client.store.instances.live()
    if sorted(one.name for one in live) != wanted:
        found.append(f"live instances: {sorted(one.name for one in live)}")
    found += [
        f"{one.name} says {one.used} slots used by {one.running} tasks" for one in live if one.used or one.running
    ]
    for name in wanted:
        state = fleet.folder / f"state-{name}"
        found += [f"{name}: {path.relative_to(state)}" for path in (*state.glob("runs/*"), *state.glob("claims/*"))]
    return found + _claims(fleet)


def _claims(fleet: Fleet) -> list[str]:
    import pymongo

    with pymongo.MongoClient(fleet.settings["mongodb_uri"]) as client:
        tasks = client[fleet.settings["database"]]["tasks"]
        fields = ("claim", "permits", "reserved", "unique_key")
        wanted = {"$or": [{field: {"$exists": True, "$nin": [None, []]}} for field in fields]}
        shown = dict.fromkeys(fields, 1)
        return [f"{task.pop('_id')} holds {task}" for task in tasks.find(wanted, shown).limit(10)]


def wait_clean(fleet: Fleet, names: Iterable[str], *, seconds: float = 30.0) -> None:
    """Until nothing is left over; an AssertionError says what is."""
    last: list[str] = []

    def clean() -> bool:
        last[:] = leftovers(fleet, names)
        return not last

    try:
        until(clean, seconds=seconds, what="nothing left over")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), *last])) from None


def _command(pid: int) -> str:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "))
    except OSError:
        return "gone"
