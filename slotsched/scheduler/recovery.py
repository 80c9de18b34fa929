"""At the start: be the same instance again if that is still allowed, and settle what the last scheduler left.

PROTOCOL "resume": forbid what has not started, one compare-and-set on the instance document, then take over the
living supervisors. If the store says no (declared dead, or a reboot), everything found is killed and a new identity
begins; what had ended is still told to the store, whose fence decides.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slotsched import __version__
from slotsched.failpoints import failpoint
from slotsched.machine import boot_id, host_name
from slotsched.model import Instance, Outcome, Reason
from slotsched.process import (
    DeadlineFile,
    Ending,
    Supervised,
    find_supervisor,
    read_ending,
    start_facts,
    sweep_tree,
)
from slotsched.scheduler.ending import SWEEP_SECONDS, is_shortage, outcome_of
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.leasing import LOCAL_SHARE
from slotsched.scheduler.run import Phase, Run, RunRecord, never_started
from slotsched.scheduler.statedir import Identity
from slotsched.store import Store

PER_TICK = 50  # run directories that are looked at before the loop shows that it turns; there may be thousands


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """Who this instance is now, and what it has found. unstarted: of `directories`, whose script never starts."""

    nonce: str  # of its lease
    resumed: bool
    same_boot: bool
    directories: Sequence[Path]
    unstarted: frozenset[Path]


class Recovery:
    """Used once per start, and again after being fenced (then there is nothing to resume)."""

    def __init__(
        self, engine: Engine, adopt: Callable[[Run, Supervised], None], on_settled: Callable[[Run], None]
    ) -> None:
        self._engine = engine
        self._adopt = adopt
        self._on_settled = on_settled
        self._wishes: tuple[bool, int | None] | None = None  # of people, for the identity that is to come

    def run_once(self) -> Recovered:
        """Be somebody in the store. The lease counts from then on: begin to renew it, then `take_over`.

        Raises StoreUnreachable, and OSError where there is no room to write a new identity down, before anything was
        decided; call it again then. StoreUnsuitable is for good.
        """
        engine = self._engine
        engine.store.check()
        last = engine.state.load_identity()
        same_boot = last is not None and last.boot_id == boot_id()
        directories = engine.state.run_directories()
        unstarted = frozenset(path for path in self._paced(directories) if _never_started(path))
        nonce = secrets.token_hex(8)
        resumed = last is not None and same_boot and self._resume(last, nonce)
        if not resumed:
            engine.store.init()  # before the first write; there is no lease yet that it could outlast
            self.begin_anew(nonce, former=last.id if last is not None else None)
        return Recovered(
            nonce=nonce, resumed=resumed, same_boot=same_boot, directories=directories, unstarted=unstarted
        )

    def begin_anew(self, nonce: str, former: str | None = None) -> None:
        """Register under a fresh id with its own deadline file; the lease counts from before the write was sent.

        former: the id it had before, by default the present one: what people have set of that goes on.
        """
        engine = self._engine
        if self._wishes is None:
            self._wishes = engine.store.instances.wishes(former or engine.identity.id)
        self._heed(*self._wishes)
        identity = Identity.fresh(boot_id())
        deadline = self._write_down(identity)
        sent = engine.now()
        engine.store.instances.register(self._facts(identity, nonce, slots_wanted=self._wishes[1]))
        self._wishes = None
        self._become(identity, deadline, sent)

    def take_over(self, found: Recovered) -> int:
        """Put what the last scheduler left back to work; returns how many runs live and are ours again."""
        return sum(self._guarded(path, found) for path in self._paced(found.directories))

    # --- who this is ---------------------------------------------------------------------------------

    def _resume(self, last: Identity, nonce: str) -> bool:
        engine = self._engine
        sent = engine.now()
        instance = engine.store.instances.resume(self._facts(last.resumed(), nonce))
        if instance is None:
            return False
        identity = replace(last, incarnation=instance.incarnation)
        with contextlib.suppress(OSError):  # a full disk: the next resume sends the same number, and none goes back
            engine.state.save_identity(identity)
        self._heed(instance.draining, instance.slots_wanted)
        path = engine.state.deadline_file(identity.id)
        opened = path.exists()
        deadline = DeadlineFile.open(path) if opened else DeadlineFile.create(path, engine.settings.lease)
        self._become(identity, deadline, sent)
        return True

    def _heed(self, draining: bool, slots_wanted: int | None) -> None:
        """What people have set of this instance is not undone by a crash, a SIGHUP or being fenced."""
        self._engine.paused = draining
        if slots_wanted is not None:
            self._engine.ledger.resize(slots_wanted)

    def _write_down(self, identity: Identity) -> DeadlineFile:
        """Before the store knows of it: a full disk leaves nobody there, and an id unknown there resumes nothing."""
        engine = self._engine
        path = engine.state.deadline_file(identity.id)
        try:
            deadline = DeadlineFile.create(path, engine.settings.lease)
            engine.state.save_identity(identity)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return deadline

    def _facts(self, identity: Identity, nonce: str, slots_wanted: int | None = None) -> Instance:
        """This instance as the store is to show it; the dates are replaced by the server's."""
        engine, settings = self._engine, self._engine.settings
        now = engine.clock.utcnow()
        return Instance(
            id=identity.id,
            name=settings.name,
            host=host_name(),
            pid=os.getpid(),
            boot_id=identity.boot_id,
            incarnation=identity.incarnation,
            nonce=nonce,
            live=True,
            draining=engine.paused,
            capacity=engine.ledger.capacity,
            used=engine.ledger.used_slots,
            lease=settings.lease,
            grace=settings.grace,
            started_at=now,
            renewed_at=now,
            version=__version__,
            containment=asdict(engine.launcher.containment),
            slots_wanted=slots_wanted,
        )

    @failpoint("become")
    def _become(self, identity: Identity, deadline: DeadlineFile, sent: float) -> None:
        """The store has acknowledged this identity: let its supervisors have a deadline."""
        engine = self._engine
        engine.deadline = deadline
        deadline.extend(sent + LOCAL_SHARE * engine.settings.lease)
        engine.identity = identity
        engine.state.drop_old_deadlines(keep=identity.id)  # whoever watches one has it open
        engine.tick()

    # --- what the last scheduler left ----------------------------------------------------------------

    def _paced(self, paths: Sequence[Path]) -> Iterator[Path]:
        for number, path in enumerate(paths):
            if number % PER_TICK == 0:
                self._engine.tick()
            yield path

    def _guarded(self, path: Path, found: Recovered) -> bool:
        try:
            return self._take_over(path, found)
        except Exception:  # one odd run directory must not keep the instance from starting
            self._engine.log.exception("a run directory cannot be taken over; leaving it", run=path.name)
            return False

    @failpoint("take_over")
    def _take_over(self, path: Path, found: Recovered) -> bool:
        """Put one run directory back to work; True when its processes live and are ours again."""
        engine = self._engine
        record = RunRecord.read(path)
        if record is None:
            self._without_record(path, found)
            return False
        started = start_facts(path).get("started") if found.same_boot else None
        launched = started if isinstance(started, float) else engine.now()
        run = Run(record=record, directory=path, phase=Phase.RUNNING, launched=launched, planned=record.max_time)
        ending = read_ending(path)
        if ending is not None and run.settled:  # there may be thousands, when the log store was away
            run.end(outcome_of(run, ending, engine.now()), engine.now())
            self._on_settled(run)
            return False
        if not found.same_boot:
            self._settle_past(run, ending, path in found.unstarted)
            return False
        # Whatever is odd about it from here on: it holds its slots, and the supervision looks at it again and again.
        engine.ledger.adopt(run.id, record.needs, record.units)
        engine.roster.add(run)
        return self._settle_present(run, ending, found)

    def _without_record(self, path: Path, found: Recovered) -> None:
        """What was never launched can go. Of what may have been, the sweep ends the claim, if the store has one: here
        only its processes are ended, for nobody knows how long they may go on.
        """
        if path in found.unstarted or not found.same_boot:
            self._engine.state.remove_run(path)
            return
        self._engine.log.error("a run whose claim cannot be read; ending it", run=path.name)
        supervised = find_supervisor(path)
        if supervised is None:
            sweep_tree(path, SWEEP_SECONDS)
        else:
            supervised.order(path, "lost", 0.0)
            supervised.close()

    def _settle_past(self, run: Run, ending: Ending | None, unstarted: bool) -> None:
        """A run of another boot or of a copied directory: nothing of it lives here.

        What never started is not given back. That is for its owner alone, who in a copied directory may be about to
        start it, and only while the missing start file proves something: a power cut may have taken it back.
        """
        engine = self._engine
        if ending is not None:
            run.end(outcome_of(run, ending, engine.now()), engine.now())
        elif unstarted:
            engine.state.remove_run(run.directory)
            return
        else:
            run.inherited = True  # the rescuers' verdict counts, only the log is uploaded
            run.end(Outcome(reason=Reason.LOST), engine.now())
        engine.roster.add(run)

    def _settle_present(self, run: Run, ending: Ending | None, found: Recovered) -> bool:
        """A run of this boot: it may live. What ended while nobody looked is told to the store, whose fence decides."""
        engine = self._engine
        supervised = find_supervisor(run.directory) if ending is None else None
        if supervised is not None:
            self._adopt_living(run, supervised, found.resumed)
            return found.resumed
        if ending is not None and not is_shortage(ending):
            run.end(outcome_of(run, ending, engine.now()), engine.now())
        elif ending is not None or run.directory in found.unstarted:
            run.end_unstarted()
        else:  # its supervisor was killed: the supervision sweeps up what is left, which holds its slots
            return False
        engine.ledger.give_back(run.id)
        return False

    def _adopt_living(self, run: Run, supervised: Supervised, resumed: bool) -> None:
        """A living tree holds its slots, whether it may go on or is ended as no longer ours."""
        run.adopted = True
        if not resumed:
            run.disowned, run.ordered, run.ordered_at = True, ("lost", True), self._engine.now()
        self._adopt(run, supervised)


class Preparation(threading.Thread):
    """Creates what this version's indexes lack, beside the loop: on a filled collection that may outlast a lease."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="init", daemon=True)
        self._store = store
        self.error: Exception | None = None  # once it has ended

    def run(self) -> None:
        try:
            self._store.init()
        except Exception as error:  # noqa: BLE001 - the loop raises it, or tries again
            self.error = error


def _never_started(path: Path) -> bool:
    """Where it cannot be told now (no inode is left), the supervision asks again."""
    try:
        return never_started(path)
    except OSError:
        return False
