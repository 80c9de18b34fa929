"""One instance: the scheduler on one state directory. `run` is what `slotsched scheduler run` calls."""

from __future__ import annotations

import resource
from typing import Any

from slotsched import logs
from slotsched.catalog import Folder
from slotsched.clock import SystemClock
from slotsched.ledger import Ledger
from slotsched.machine import boot_id, usable_cpus, usable_memory, usable_resources
from slotsched.model import Capacity
from slotsched.opening import open_log_store, open_store
from slotsched.process import DeadlineFile, Launcher, try_containment
from slotsched.process.linux import give_large_blocks_back
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.fitness import Fitness
from slotsched.scheduler.inbox import Inbox
from slotsched.scheduler.loop import Ended, Loop
from slotsched.scheduler.replacing import replace_program
from slotsched.scheduler.statedir import Identity, StateDirectory
from slotsched.settings import Settings
from slotsched.store import Store

STORE_TIMEOUT_SHARE = 1 / 6  # of the lease: a call that hangs must not freeze the loop for long


def run(
    settings: Settings, *, once: bool = False, hangup_drains: bool = False, held: StateDirectory | None = None
) -> int:
    """Run an instance in the foreground until it has drained; returns the exit code.

    once: end when nothing is due any more. hangup_drains: SIGHUP means that the terminal was closed, not an upgrade.
    held: the state directory, where the caller has locked it already and unlocks it.

    Raises AlreadyRunning when the state directory is in use, and StoreUnsuitable when the store answers but cannot be
    used. A store that does not answer is waited for.
    """
    give_large_blocks_back()
    logs.configure(level=settings.log_level)
    log = logs.get_logger(instance=settings.name)
    state = held or StateDirectory(settings.state_dir)
    if held is None:
        state.lock()
    store = open_store(settings, timeout=min(settings.store_timeout, settings.lease * STORE_TIMEOUT_SHARE))
    engine = assemble(settings, state, store, log)
    limits = raise_open_files()  # after the launcher has noted what scripts are to get
    ended = Loop(engine, once=once, hangup_drains=hangup_drains).run()
    if ended is Ended.REPLACE:
        state.hand_over_lock()
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        replace_program(engine.inbox)
    store.close()
    if held is None:
        state.unlock()
    return 0


def check(settings: Settings) -> None:
    """Whether an instance could start with these settings, as far as that can be told without the store and without
    touching the state directory. Raises InvalidSettings, ContainmentUnavailable or SpawnerGone where not.
    """
    open_store(settings).close()
    open_log_store(settings).close()
    capacity_of(settings)
    try_containment(settings.containment)


def capacity_of(settings: Settings) -> Capacity:
    """What this instance offers: settings first, else what this process may use of the machine."""
    return Capacity(
        slots=settings.slots or usable_cpus(),
        memory=settings.memory or usable_memory(),
        resources=usable_resources(settings.resources),
        tags=settings.tags,
    )


def assemble(settings: Settings, state: StateDirectory, store: Store, log: Any) -> Engine:
    """The parts of an instance, before it is anybody in the store."""
    folder = Folder(settings.jobs_dir)
    nobody = Identity.fresh(boot_id())
    clock = SystemClock()
    launcher = Launcher(state.path, settings.containment)
    return Engine(
        settings=settings,
        clock=clock,
        log=log,
        store=store,
        archive=open_log_store(settings),
        state=state,
        identity=nobody,
        deadline=last_deadline(state, settings.lease),
        launcher=launcher,
        folder=folder,
        scan=folder.scan(),
        ledger=Ledger(capacity_of(settings)),
        inbox=Inbox(),
        fitness=Fitness(state, launcher, log, clock.boottime),
    )


def last_deadline(state: StateDirectory, lease: float) -> DeadlineFile:
    """The file to show that this loop turns until the store has said who we are.

    That of the last identity, where there is one: what it left running may go on while the store is away.
    """
    last = state.load_identity()
    return DeadlineFile.create(state.deadline_file(last.id if last and last.boot_id == boot_id() else "new"), lease)


def raise_open_files() -> tuple[int, int]:
    """A descriptor per running attempt: the soft limit of 1024 is soon reached on a large machine.

    Returns the limits there were, which are scripts' limits too, also after a re-exec.
    """
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before
