"""What the duties share: the parts of one instance, owned by the control loop's thread.

There are no locks in here because only the loop changes it; threads talk to it through the inbox.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slotsched.archive import Archive
from slotsched.catalog import Folder, Scan
from slotsched.clock import Clock
from slotsched.ledger import Ledger
from slotsched.model import Capacity, InstanceRef
from slotsched.process import DeadlineFile, Launcher
from slotsched.scheduler.fitness import Fitness
from slotsched.scheduler.inbox import Inbox
from slotsched.scheduler.run import Roster, Run
from slotsched.scheduler.statedir import Identity, StateDirectory
from slotsched.settings import Settings
from slotsched.store import Store


@dataclass
class StoreHealth:
    """Whether the loop asks the store at all.

    One failed call in the loop costs its timeout, and while it blocks nothing else happens. So after a failure the
    loop leaves the store alone until the lease thread, which asks on its own, hears an answer.
    """

    up: bool = True
    failures: int = 0

    def failed(self) -> None:
        self.up = False
        self.failures += 1

    def answered(self) -> None:
        self.up = True
        self.failures = 0


@dataclass
class Engine:
    """One instance's parts. `log` is a structlog logger; times inside are CLOCK_BOOTTIME seconds."""

    settings: Settings
    clock: Clock
    log: Any
    store: Store
    archive: Archive
    state: StateDirectory
    identity: Identity
    deadline: DeadlineFile
    launcher: Launcher
    folder: Folder
    scan: Scan
    ledger: Ledger
    inbox: Inbox
    fitness: Fitness
    roster: Roster = field(default_factory=Roster)
    health: StoreHealth = field(default_factory=StoreHealth)
    draining: bool = False  # asked by a signal: ends when nothing runs any more
    paused: bool = False  # asked by `instance drain`: claims nothing, lives on
    fenced: bool = False  # declared dead by others, not yet registered anew
    live: frozenset[str] = frozenset()  # ids of the instances that seem alive, this one included
    capacities: tuple[Capacity, ...] = ()  # of those
    disabled_jobs: frozenset[str] = frozenset()
    # Read by the lease thread, which must not walk what the loop changes.
    last_turn: float = 0.0
    used_slots: int = 0
    running: int = 0
    free: Capacity | None = None
    keeps_for: str | None = None  # the task that slots are kept free for
    server_offset: float | None = None  # the store's clock (epoch seconds) minus CLOCK_BOOTTIME
    # Claim tokens whose fate the store has not told yet, with the ledger's holders that keep their slots.
    unsettled: dict[str, list[str]] = field(default_factory=dict)

    @property
    def ref(self) -> InstanceRef:
        return InstanceRef(id=self.identity.id, name=self.settings.name)

    def now(self) -> float:
        return self.clock.boottime()

    def server_now(self) -> float:
        """Epoch seconds on the store's clock, for planning and display; nothing is decided in the store by it."""
        if self.server_offset is None:
            return self.clock.utcnow().timestamp()
        return self.now() + self.server_offset

    def lease_left(self) -> float:
        """Seconds until the local deadline."""
        return self.deadline.read()[0] - self.now()

    def tick(self) -> None:
        """Show that the loop turns: the supervisors outlive a missing store only as long as this is fresh."""
        self.last_turn = self.now()
        self.deadline.tick(self.last_turn)
        self.used_slots, self.running = self.ledger.used_slots, len(self.roster.alive())
        self.free = self.ledger.free

    def order_end(self, run: Run, cause: str, *, kill: bool, by: str = "") -> None:
        """Tell the run's supervisor to end it. A kill may follow a gentler order, not the other way round."""
        if run.ordered is not None and (run.ordered[1] or not kill):
            return
        run.ordered, run.ordered_at = (cause, kill), self.now()
        if run.supervised is not None:
            run.supervised.order(run.directory, cause, 0.0 if kill else None, by)
            self.log.info("told to end", task=run.record.task_id, cause=cause, kill=kill)
