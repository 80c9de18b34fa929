"""The control loop of one instance: a selector over exits, wake-ups and timers, and the duties' timetable.

Plain and synchronous on purpose: the loop owns all scheduling state, so nothing in it needs a lock. What is slow
(uploads, tails, the change stream, renewals) is on named threads that post to its inbox.
"""

from __future__ import annotations

import secrets
import selectors
import signal
from enum import Enum

from slotsched.errors import StoreUnreachable
from slotsched.scheduler.claiming import Claimer
from slotsched.scheduler.draining import Drain
from slotsched.scheduler.duty import Duty, Timetable
from slotsched.scheduler.ending import Finisher
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.firing import Firer
from slotsched.scheduler.inbox import (
    Fenced,
    Followers,
    Freed,
    Message,
    Renewed,
    Scheduled,
    Signaled,
    SpoolEmpty,
    StreamDown,
    Touched,
    Work,
)
from slotsched.scheduler.leasing import RENEWALS_PER_LEASE, LeaseKeeper
from slotsched.scheduler.notifying import Notifier
from slotsched.scheduler.pruning import Pruner
from slotsched.scheduler.publishing import Publisher
from slotsched.scheduler.recovery import Preparation, Recovery
from slotsched.scheduler.replacing import Rehearsal, listen
from slotsched.scheduler.rescuing import Rescuer
from slotsched.scheduler.resolving import Resolver
from slotsched.scheduler.starting import Starter
from slotsched.scheduler.supervision import Supervision
from slotsched.scheduler.sweeping import Sweeper
from slotsched.scheduler.tailing import Tailer
from slotsched.scheduler.uploading import Uploader
from slotsched.scheduler.watching import Watcher

POLL_SECONDS = 1.0
RESCAN_SECONDS = 2.0
STRAYS_SECONDS = 60.0
# The loop's own pulse: without a store, the supervisors end their tasks once it is older than a third of the lease.
LONGEST_SLEEP_SECONDS = 1.0
LONGEST_SLEEP_SHARE = 1 / 12  # of the lease, where that is shorter; a call to the store may take a sixth on top
# Of the lease, between tries to reach a store that does not answer: for each the driver connects twice a second.
REST_SHARE = 0.25


class Ended(Enum):
    """How a loop came to its end."""

    DRAINED = "drained"
    REPLACE = "replace"  # the program is to be replaced in place; running tasks go on


class Loop:
    """One instance from its registration to its end."""

    def __init__(self, engine: Engine, *, once: bool = False, hangup_drains: bool = False) -> None:
        self._engine = engine
        self._once = once
        self._hangup_drains = hangup_drains
        self._selector = selectors.DefaultSelector()
        self._uploader = Uploader(engine)
        self._tailer = Tailer(engine)
        self._watcher = Watcher(engine)
        self._pruner = Pruner(engine)
        self._starter = Starter(engine)
        self._notifier = Notifier(engine)
        self._finisher = Finisher(engine, on_settled=self._uploader.add, on_recorded=self._notifier.ended)
        self._supervision = Supervision(
            engine,
            self._selector,
            self._starter,
            self._finisher,
            on_running=self._tailer.track,
            on_ended=self._slots_freed,
        )
        self._claimer = Claimer(engine, self._starter)
        self._publisher = Publisher(engine)
        self._rescuer = Rescuer(engine, POLL_SECONDS, on_taken=self._notifier.lost)
        self._resolver = Resolver(engine)
        self._firer = Firer(engine)
        self._recovery = Recovery(engine, adopt=self._supervision.adopt, on_settled=self._uploader.add)
        self._lease: LeaseKeeper | None = None
        self._replace = False
        self._rehearsal: Rehearsal | None = None  # of the program that is to replace this one
        self._drain = Drain(engine, uploads=lambda: self._uploader.pending + self._notifier.pending)
        self._idle_passes = 0
        self._pulse = min(LONGEST_SLEEP_SECONDS, LONGEST_SLEEP_SHARE * engine.settings.lease)
        self._make_timetable()

    def _make_timetable(self) -> None:
        renewal = self._engine.settings.lease / RENEWALS_PER_LEASE
        self._finish = Duty("finish", self._finisher.run_once, POLL_SECONDS)
        self._sweep = Duty("sweep", Sweeper(self._engine).run_once, renewal)
        self._publish = Duty("publish", self._run_publish, RESCAN_SECONDS)
        self._lanes = Duty("lanes", self._claimer.refresh_lanes, POLL_SECONDS)
        self._claim = Duty("claim", self._run_claim, POLL_SECONDS)
        self._rescue = Duty("rescue", self._run_rescue, POLL_SECONDS)
        self._resolve = Duty("resolve", self._run_resolve, POLL_SECONDS)
        self._fire = Duty("fire", self._run_fire, POLL_SECONDS)
        # Not put to rest with the store: after being fenced no renewal is there to hear it answer again.
        again = 2 * REST_SHARE * self._engine.settings.lease  # the try itself counts, and may take half of it
        self._register = Duty("register", self._run_register, again, needs_store=False)
        self._launches = Duty("launches", self._supervision.run_once, POLL_SECONDS, needs_store=False)
        strays = Duty("strays", self._engine.store.queue.quarantine_strays, STRAYS_SECONDS, urgent=False)
        leaks = Duty("leaks", self._engine.store.permits.free_strays, STRAYS_SECONDS, urgent=False)
        misfits = Duty("misfits", self._engine.store.firing.quarantine_strays, STRAYS_SECONDS, urgent=False)
        forsaken = Duty("forsaken", self._resolver.end_strays, STRAYS_SECONDS, urgent=False)
        self._timetable = Timetable(
            self._engine,
            [
                self._register,
                self._finish,
                self._resolve,  # right behind it, and before the claim: a chain goes on within one turn
                self._sweep,
                self._publish,
                self._fire,
                self._lanes,
                self._claim,
                self._rescue,
                self._launches,
                strays,
                leaks,
                forsaken,
                misfits,
            ],
        )

    # --- life ----------------------------------------------------------------------------------------

    def run(self) -> Ended:
        """Recover or register, then turn until drained or asked to be replaced."""
        listen(self._engine.inbox)
        self._engine.tick()  # for what the last scheduler left: the store may take long to answer
        self._selector.register(self._engine.inbox, selectors.EVENT_READ, lambda: None)
        self._supervision.start_spawner()
        if not self._recover():
            return Ended.DRAINED
        self._uploader.start()
        self._tailer.start()
        self._watcher.start()
        self._pruner.start()
        while not self._done():
            self._turn()
        return self._end()

    def _recover(self) -> bool:
        """Until the store answers; False when a signal asked to stop before that."""
        engine = self._engine
        while not engine.draining:
            try:
                recovered = self._recovery.run_once()
            except StoreUnreachable as error:
                self._wait("waiting for the store", error)
                continue
            except OSError as error:
                self._wait("waiting for room in the state directory", error)
                continue
            self._begin_lease(recovered.nonce)
            adopted = self._recovery.take_over(recovered)
            if recovered.resumed:  # else it has been prepared
                self._prepare_store()
            engine.log.info(
                "up",
                id=engine.identity.id,
                slots=engine.ledger.capacity.slots,
                resumed=recovered.resumed,
                adopted=adopted,
            )
            return True
        return False

    def _prepare_store(self) -> None:
        """Until it has every index; whoever is to leave claims nothing more, and does without."""
        engine = self._engine
        while not engine.draining:
            preparation = Preparation(engine.store)
            preparation.start()
            while preparation.is_alive() and not engine.draining:
                engine.tick()
                preparation.join(self._pulse)
                self._read_inbox()
            if preparation.error is None:
                return
            if not isinstance(preparation.error, StoreUnreachable):
                raise preparation.error
            self._wait("waiting for the store", preparation.error)

    def _wait(self, message: str, error: Exception) -> None:
        self._engine.log.warning(message, why=str(error))
        self._rest(REST_SHARE * self._engine.settings.lease)

    def _rest(self, seconds: float) -> None:
        """Let the supervisors see that this loop turns, and hear signals, while nothing else can be done."""
        until = self._engine.now() + seconds
        while not self._engine.draining and (left := until - self._engine.now()) > 0:
            self._engine.tick()
            self._select(min(self._pulse, left))
            self._read_inbox()

    def _begin_lease(self, nonce: str) -> None:
        if self._lease is not None:
            self._lease.stop()
        self._lease = LeaseKeeper(self._engine, nonce)
        self._lease.start()

    def _turn(self) -> None:
        engine = self._engine
        engine.tick()
        self._select(min(self._pulse, self._timetable.seconds_to_next(engine.now())))
        self._read_inbox()
        engine.tick()
        self._timetable.run_due()
        self._drain.advance()

    def _select(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            try:
                key.data()
            except Exception:  # one odd run directory must not stop the instance; the launches duty looks again
                self._engine.log.exception("an event could not be handled")

    def _done(self) -> bool:
        return self._replace or self._drain.over()

    def _end(self) -> Ended:
        """Leave nothing behind but what a next start can pick up."""
        engine = self._engine
        self._give_up_rehearsal()
        self._watcher.stop()
        self._pruner.stop()
        self._tailer.stop()
        if self._replace:
            engine.launcher.close()
            return Ended.REPLACE
        assert self._lease is not None
        self._lease.stop()
        self._sign_off()
        engine.launcher.close()
        engine.log.info("ended", uploads_left=self._uploader.pending)
        return Ended.DRAINED

    def _sign_off(self) -> None:
        """Leave the fleet, unless something is owned still: then a next start resumes this identity."""
        engine = self._engine
        if not self._drain.clean():
            engine.log.warning("some ends are not recorded yet; the next start on this state directory records them")
            return
        try:
            engine.store.instances.retire(engine.identity.id, engine.identity.incarnation)
        except StoreUnreachable as error:
            engine.log.warning("could not sign off; the others will see the lease end", why=str(error))
        engine.state.forget_identity()

    # --- what comes in -------------------------------------------------------------------------------

    def _read_inbox(self) -> None:
        for message in self._engine.inbox.drain():
            self._handle(message)

    def _handle(self, message: Message) -> None:
        match message:
            case Work(lane):
                if lane is None:
                    self._lanes.wake()
                    self._claimer.limiter.look_again()
                else:
                    self._claimer.add_lane(lane)
                self._claim.wake()
            case Scheduled():
                self._claim.wake()
            case Freed():
                self._claimer.limiter.look_again()
                self._claim.wake()
            case Touched():
                self._sweep.wake()
            case Followers():
                self._resolve.wake()
            case SpoolEmpty():
                pass  # it has woken the loop, which looks whether a drain is over
            case StreamDown():
                self._engine.log.debug("polling only, until the change stream is back")
            case Renewed():
                self._renewed(message)
            case Fenced(instance_id):
                self._fenced(instance_id)
            case Signaled(number):
                self._signaled(number)

    def _renewed(self, message: Renewed) -> None:
        engine, instance = self._engine, message.instance
        engine.server_offset = instance.renewed_at.timestamp() - message.sent
        if not engine.health.up:
            engine.log.info("the store answers again")
            engine.health.answered()
            self._timetable.wake_all()
        if engine.paused != instance.draining and not engine.draining:
            engine.paused = instance.draining
            self._claim.wake()
        wanted = instance.slots_wanted
        if wanted is not None and wanted != engine.ledger.capacity.slots:
            engine.ledger.resize(wanted)
            engine.log.info("slots changed", slots=wanted)
            self._claim.wake()

    def _fenced(self, instance_id: str) -> None:
        """Others declared this instance dead: whatever runs here is no longer ours. Begin anew under another id."""
        engine = self._engine
        if instance_id != engine.identity.id:
            return
        engine.log.error("declared dead by another instance; ending all runs and beginning anew", id=instance_id)
        for run in engine.roster:
            run.disowned = True
            engine.order_end(run, "lost", kill=True)
        engine.fenced = True
        self._register.wake()

    def _run_register(self) -> None:
        if not self._engine.fenced:
            return
        nonce = secrets.token_hex(8)
        self._recovery.begin_anew(nonce)
        self._engine.fenced = False
        self._engine.health.answered()
        self._begin_lease(nonce)
        self._timetable.wake_all()
        self._engine.log.info("up again", id=self._engine.identity.id)

    # --- duties that are more than one call ----------------------------------------------------------

    def _run_claim(self) -> None:
        won = self._claimer.run_once()
        if self._claimer.more:
            self._claim.wake()
        due_in = self._engine.store.queue.next_due()
        if due_in is not None:
            self._claim.wait_until(self._engine.now() + max(0.0, due_in))
        if self._claimer.limiter.opens_at is not None:
            self._claim.wait_until(self._claimer.limiter.opens_at)
        self._idle_passes = 0 if won or len(self._engine.roster) else self._idle_passes + 1
        if self._once and self._idle_passes > 1 and not self._engine.draining:
            self._drain.begin()

    def _run_publish(self) -> None:
        if self._publisher.run_once():
            self._claim.wake()

    def _run_rescue(self) -> None:
        if self._rescuer.run_once():
            self._claim.wake()

    def _run_resolve(self) -> None:
        if self._resolver.run_once():
            self._lanes.wake()
            self._claim.wake()
        if self._resolver.more:
            self._resolve.wake()

    def _run_fire(self) -> None:
        if self._firer.run_once():
            self._lanes.wake()
            self._claim.wake()
        due_in = self._firer.wait()
        if due_in is not None:
            self._fire.wait_until(self._engine.now() + due_in)

    def _slots_freed(self) -> None:
        self._finish.wake()
        self._resolve.wake()
        self._claimer.limiter.look_again()
        self._claim.wake()

    # --- signals -------------------------------------------------------------------------------------

    def _signaled(self, number: int) -> None:
        if number == signal.SIGHUP and not self._hangup_drains:
            self._hung_up()
        elif not self._engine.draining:
            self._replace = False  # the new program would not know that it is to leave
            self._drain.begin()
        else:
            self._drain.force()

    def _hung_up(self) -> None:
        if self._engine.draining:
            self._engine.log.info("not replaced: draining")
            return
        self._give_up_rehearsal()  # it may hang, as somebody asks again
        self._rehearsal = Rehearsal()
        self._selector.register(self._rehearsal, selectors.EVENT_READ, self._rehearsed)

    def _rehearsed(self) -> None:
        """The new program has been tried: it takes over, or this one goes on."""
        rehearsal, self._rehearsal = self._rehearsal, None
        assert rehearsal is not None
        self._selector.unregister(rehearsal)
        problem = rehearsal.problem()
        if problem is not None:
            self._engine.log.error("not replaced: the new program would not start", why=problem)
        elif not self._engine.draining:
            self._engine.log.info("replacing this program in place; running tasks go on")
            self._replace = True

    def _give_up_rehearsal(self) -> None:
        if self._rehearsal is not None:
            self._selector.unregister(self._rehearsal)
            self._rehearsal.close()
            self._rehearsal = None
