"""At the start: be the same instance again if that is still allowed, and settle what the last scheduler left.

PROTOCOL "resume": forbid what has not started, one compare-and-set on the instance document, then take over the
living supervisors. If the store says no (declared dead, or a reboot), everything found is killed and a new identity
begins; what had ended is still told to the store, whose fence decides.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
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
    forbid_start,
    read_ending,
    start_facts,
)
from slotsched.scheduler.ending import outcome_of
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.leasing import LOCAL_SHARE
from slotsched.scheduler.run import Phase, Run, RunRecord
from slotsched.scheduler.statedir import Identity


@dataclass(frozen=True)
class Recovered:
    """Who this instance is now, the nonce of its lease, and how many runs it took over alive."""

    nonce: str
    adopted: int
    resumed: bool


class Recovery:
    """Used once per start, and again after being fenced (then there is nothing to resume)."""

    def __init__(
        self, engine: Engine, adopt: Callable[[Run, Supervised], None], on_settled: Callable[[Run], None]
    ) -> None:
        self._engine = engine
        self._adopt = adopt
        self._on_settled = on_settled

    def run_once(self) -> Recovered:
        """Raises StoreUnreachable before anything was decided; call it again then. StoreUnsuitable is for good."""
        engine = self._engine
        engine.store.check()
        engine.store.init()
        last = engine.state.load_identity()
        same_boot = last is not None and last.boot_id == boot_id()
        directories = engine.state.run_directories()
        forbidden = {path for path in directories if forbid_start(path)}
        nonce = secrets.token_hex(8)
        resumed = last is not None and same_boot and self._resume(last, nonce)
        if not resumed:
            self.begin_anew(nonce)
        adopted = sum(self._take_over(path, path in forbidden, resumed, same_boot) for path in directories)
        return Recovered(nonce, adopted, resumed)

    def begin_anew(self, nonce: str) -> None:
        """Register under a fresh id with its own deadline file; the lease counts from before the write was sent."""
        identity = Identity.fresh(boot_id())
        sent = self._engine.now()
        self._engine.store.instances.register(self._facts(identity, nonce))
        self._become(identity, sent)

    def _resume(self, last: Identity, nonce: str) -> bool:
        sent = self._engine.now()
        instance = self._engine.store.instances.resume(self._facts(last.resumed(), nonce))
        if instance is None:
            return False
        self._become(replace(last, incarnation=instance.incarnation), sent)
        return True

    def _facts(self, identity: Identity, nonce: str) -> Instance:
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
            draining=False,
            capacity=engine.ledger.capacity,
            used=engine.ledger.used_slots,
            lease=settings.lease,
            grace=settings.grace,
            started_at=now,
            renewed_at=now,
            version=__version__,
            containment=asdict(engine.launcher.containment),
        )

    @failpoint("become")
    def _become(self, identity: Identity, sent: float) -> None:
        """The store has acknowledged this identity: write it down, and let its supervisors have a deadline."""
        engine = self._engine
        engine.state.save_identity(identity)
        path = engine.state.deadline_file(identity.id)
        opened = path.exists()
        engine.deadline = DeadlineFile.open(path) if opened else DeadlineFile.create(path, engine.settings.lease)
        engine.deadline.extend(sent + LOCAL_SHARE * engine.settings.lease)
        engine.identity = identity
        engine.state.drop_old_deadlines(keep=identity.id)  # whoever watches one has it open
        engine.tick()

    # --- what the last scheduler left ----------------------------------------------------------------

    @failpoint("take_over")
    def _take_over(self, path: Path, forbidden: bool, resumed: bool, same_boot: bool) -> bool:
        """Put one run directory back to work; True when its processes live and are ours again."""
        engine = self._engine
        record = RunRecord.read(path)
        if record is None:  # never launched: its claim, if the store has one, is released by the sweep
            engine.state.remove_run(path)
            return False
        launched = start_facts(path).get("started", engine.now()) if same_boot else engine.now()
        run = Run(record=record, directory=path, launched=launched, planned=record.max_time)
        ending = read_ending(path)
        if ending is not None and run.settled:  # there may be thousands, when the log store was away
            run.end(outcome_of(run, ending, engine.now()), engine.now())
            self._on_settled(run)
            return False
        supervised = find_supervisor(path) if same_boot and ending is None else None
        engine.roster.add(run)
        if forbidden and supervised is None and ending is None:
            self._drop_unstarted(run, same_boot)
            return False
        if supervised is not None:
            self._adopt_living(run, supervised, resumed)
            return resumed
        self._settle_ended(run, ending, same_boot)
        return False

    def _drop_unstarted(self, run: Run, same_boot: bool) -> None:
        """A claim is given back by its owner only, and while the missing start file proves something.

        The owner of a copied directory may be about to start this one; a power cut may have taken the file back.
        """
        if same_boot:
            run.end_unstarted()
        else:
            self._engine.roster.remove(run)
            self._engine.state.remove_run(run.directory)

    def _adopt_living(self, run: Run, supervised: Supervised, resumed: bool) -> None:
        """A living tree holds its slots, whether it may go on or is ended as no longer ours."""
        run.adopted = True
        self._engine.ledger.adopt(run.id, run.record.needs, run.record.units)
        if not resumed:
            run.disowned, run.ordered = True, ("lost", True)
        self._adopt(run, supervised)

    def _settle_ended(self, run: Run, ending: Ending | None, same_boot: bool) -> None:
        """What ended while nobody looked is told to the store; its fence refuses what is no longer ours."""
        engine = self._engine
        if ending is not None:
            run.end(outcome_of(run, ending, engine.now()), engine.now())
        elif same_boot:  # its supervisor was killed: the supervision sweeps up what is left, which holds its slots
            run.phase = Phase.RUNNING
            engine.ledger.adopt(run.id, run.record.needs, run.record.units)
        else:
            run.disowned = run.inherited = True  # the rescuers' verdict counts, only the log is uploaded
            run.end(Outcome(reason=Reason.LOST), engine.now())
