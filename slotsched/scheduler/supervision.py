"""The loop's side of the spawner and the supervisors: who was launched, who ended, and a spawner that died."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable
from functools import partial

from slotsched.model import Outcome, Reason
from slotsched.process import (
    ContainmentUnavailable,
    Gone,
    Launched,
    LaunchFailed,
    SpawnerGone,
    Supervised,
    find_supervisor,
    read_ending,
    start_facts,
)
from slotsched.scheduler.ending import Finisher
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.fitness import SHORTAGES
from slotsched.scheduler.run import Phase, Run, never_started
from slotsched.scheduler.starting import Starter

UNSEEN_SECONDS = 10.0  # a launch nobody reported for so long lost its message or its spawner
OVERDUE_SECONDS = 5.0  # beyond max time and grace: then a supervisor has had its chance to end its run by itself
SPAWNER_AGE_SECONDS = 60.0  # one that dies younger may do so again at once
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0  # between the deaths of spawners and the next ones
STRANDED_SECONDS = 2 * LONGEST_PAUSE_SECONDS  # without a spawner: then another machine had better have the task
OBEY_SECONDS = 10.0  # a supervisor that has not ended so long after its order (and its grace) is stopped or stuck


class Supervision:
    """Keeps one pidfd per living supervisor in the loop's selector; `on_ended` is called when slots came free."""

    def __init__(
        self,
        engine: Engine,
        selector: selectors.BaseSelector,
        starter: Starter,
        finisher: Finisher,
        *,
        on_running: Callable[[Run], None],
        on_ended: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._selector = selector
        self._starter = starter
        self._finisher = finisher
        self._on_running = on_running
        self._on_ended = on_ended
        self._spawner_fd: int | None = None
        self._spawner_born = 0.0  # CLOCK_BOOTTIME
        self._spawner_lost = 0.0  # when the last one that worked was found dead
        self._spawner_again = 0.0  # when the next may be started
        self._young_deaths = 0  # in a row

    def start_spawner(self) -> None:
        """Raises SpawnerGone or ContainmentUnavailable when none can be had."""
        launcher = self._engine.launcher
        self._spawner_born = self._engine.now()
        launcher.start()
        self._spawner_fd = launcher.fileno()
        self._selector.register(self._spawner_fd, selectors.EVENT_READ, self.on_spawner)

    def on_spawner(self) -> None:
        """Messages from the spawner: hints only, the truth is in the run directories."""
        for event in self._engine.launcher.receive():
            if isinstance(event, Gone):
                self._respawn()
                return
            run = self._engine.roster.get(event.run_dir.name)
            if run is None or run.phase is not Phase.LAUNCHING:
                if isinstance(event, Launched):
                    os.close(event.pidfd)
            elif isinstance(event, Launched):
                self.adopt(run, Supervised(event.pid, event.pidfd))
            else:
                self._guarded(partial(self._launch_failed, event), run)

    def adopt(self, run: Run, supervised: Supervised) -> None:
        """Watch a living supervisor, one just launched or one found after a restart."""
        run.supervised, run.phase = supervised, Phase.RUNNING
        self._selector.register(supervised.fileno(), selectors.EVENT_READ, lambda: self._on_exit(run))
        if run.ordered is not None:  # it was asked to end before anyone knew its pid
            cause, kill = run.ordered
            supervised.order(run.directory, cause, 0.0 if kill else None)
        self._on_running(run)

    def run_once(self) -> int:
        """Look for launches whose report was lost, ends that could not be read, and supervisors that do not obey.

        Returns how many there were. Needs no store: what somebody stopped ends in time during an outage, too.
        """
        engine = self._engine
        if self._spawner_fd is None and engine.now() >= self._spawner_again:
            self._revive_spawner()
        unseen = engine.now() - UNSEEN_SECONDS
        stranded = [run for run in engine.roster.alive() if self._is_stranded(run)]
        for run in stranded:
            self._guarded(self._give_up_launch, run)
        late = [
            run
            for run in engine.roster.alive()
            if run.supervised is None and (run.phase is Phase.RUNNING or run.launched < unseen)
        ]
        if self._spawner_fd is not None and any(run.relaunched for run in late if run.phase is Phase.LAUNCHING):
            engine.log.error("the spawner does not answer; killing it")  # somebody has stopped it, or it is stuck
            engine.launcher.kill()  # it is replaced as soon as the loop sees that, and gets all launches again
        for run in late:
            self._guarded(self._find, run)
        overdue = [run for run in engine.roster.alive() if self._is_overdue(run)]
        for run in overdue:
            engine.log.error("a run outlived its max time; ending it", task=run.record.task_id)
            engine.order_end(run, "timeout", kill=True)
        disobeying = [run for run in engine.roster.alive() if self._disobeys(run)]
        for run in disobeying:
            self._kill_supervisor(run)
        return len(stranded) + len(late) + len(overdue) + len(disobeying)

    def _is_stranded(self, run: Run) -> bool:
        """Nobody has launched it, and either nobody can or nobody wants that any more."""
        if run.phase is not Phase.LAUNCHING or run.supervised is not None:
            return False
        forsaken = self._spawner_fd is None and self._engine.now() > self._spawner_lost + STRANDED_SECONDS
        return forsaken or run.ordered is not None

    def _give_up_launch(self, run: Run) -> None:
        """Where it has been launched after all, it is its supervisor's to end."""
        supervised = find_supervisor(run.directory)
        if supervised is not None:
            self.adopt(run, supervised)
            return
        if not never_started(run.directory):
            return
        why = "there is no spawner" if run.ordered is None else f"told to end: {run.ordered[0]}"
        self._engine.log.warning("not started; releasing it", task=run.record.task_id, why=why)
        run.end_unstarted()
        self._freed(run)

    def _guarded(self, step: Callable[[Run], None], run: Run) -> None:
        """A run directory that a script has damaged must not keep the others from being looked at."""
        try:
            step(run)
        except Exception:
            self._engine.log.exception("a run cannot be settled; trying again", run=run.id)

    def _is_overdue(self, run: Run) -> bool:
        """Its supervisor should have ended it: somebody has stopped it, or it is stuck."""
        if run.supervised is None or (run.ordered is not None and run.ordered[1]):
            return False
        patience = run.record.max_time + run.record.grace + OVERDUE_SECONDS
        now = self._engine.now()
        if now <= run.launched + patience:
            return False
        started = start_facts(run.directory).get("started")
        if isinstance(started, float) and run.launched < started <= now:  # a busy machine forks late
            run.launched = started
        return now > run.launched + patience

    def _disobeys(self, run: Run) -> bool:
        if run.supervised is None or run.ordered is None:
            return False
        grace = 0.0 if run.ordered[1] else run.record.grace
        return self._engine.now() > run.ordered_at + grace + OBEY_SECONDS

    def _kill_supervisor(self, run: Run) -> None:
        """Its tree dies with it or is swept after it; only its account of the end is lost."""
        assert run.supervised is not None
        self._engine.log.error("a supervisor does not obey; killing it", task=run.record.task_id)
        run.supervised.kill()
        run.ordered_at = self._engine.now()

    def _launch_failed(self, event: LaunchFailed, run: Run) -> None:
        if not never_started(run.directory):  # a launch that was sent twice may have worked once
            if not run.directory.is_dir():
                self._collect(run)
        elif event.errno in SHORTAGES:
            self._engine.fitness.refused(f"it cannot start a process: {event.message}")
            self._engine.log.warning("not started; releasing it", task=run.record.task_id, why=event.message)
            run.end_unstarted()
            self._freed(run)
        else:
            run.end(Outcome(reason=Reason.NOT_STARTED, message=event.message), self._engine.now())
            self._freed(run)

    def _respawn(self) -> None:
        """A spawner's death costs a new one: supervisors live on, launches that got lost are sent again.

        The first one at once; those that die young again and again later and later.
        """
        engine = self._engine
        assert self._spawner_fd is not None
        self._selector.unregister(self._spawner_fd)
        self._spawner_fd = None
        self._spawner_lost = engine.now()
        self._spawner_died()
        if engine.now() >= self._spawner_again:
            self._revive_spawner()

    def _spawner_died(self) -> None:
        engine = self._engine
        young = engine.now() - self._spawner_born < SPAWNER_AGE_SECONDS
        self._young_deaths = self._young_deaths + 1 if young else 1
        doubled = FIRST_PAUSE_SECONDS * 2.0 ** min(self._young_deaths - 2, 20)
        pause = min(LONGEST_PAUSE_SECONDS, doubled) if self._young_deaths > 1 else 0.0
        self._spawner_again = engine.now() + pause
        engine.log.warning("the spawner died; starting another", pause=pause)

    def _revive_spawner(self) -> None:
        """Another spawner, and to it what the last one was to launch; `run_once` tries again if there is none."""
        engine = self._engine
        try:
            self.start_spawner()
        except (SpawnerGone, ContainmentUnavailable, OSError) as error:
            engine.log.warning("no spawner; nothing is started", why=str(error))
            self._spawner_died()
            return
        for run in engine.roster.alive():
            if run.phase is Phase.LAUNCHING:
                self._guarded(self._find, run)
                run.relaunched = False  # this one has heard of it once

    def _find(self, run: Run) -> None:
        """A launching run: its supervisor may live, may be over, or was never forked."""
        supervised = find_supervisor(run.directory)
        if supervised is not None:
            self.adopt(run, supervised)
        elif run.phase is Phase.RUNNING or read_ending(run.directory) is not None:
            self._collect(run)
        else:
            run.relaunched = True
            run.launched = self._engine.now()
            self._starter.relaunch(run)

    def _on_exit(self, run: Run) -> None:
        supervised = run.supervised
        assert supervised is not None
        self._selector.unregister(supervised.fileno())
        with contextlib.suppress(ChildProcessError):  # as PID 1 of a container we inherit a dead spawner's children
            os.waitid(os.P_PIDFD, supervised.fileno(), os.WEXITED | os.WNOHANG)
        supervised.close()
        run.supervised = None
        other = find_supervisor(run.directory) if read_ending(run.directory) is None else None
        if other is not None:  # launched twice, and the second found the first at work
            self.adopt(run, other)
        else:
            self._collect(run)

    def _collect(self, run: Run) -> None:
        self._finisher.collect(run)
        self._on_ended()

    def _freed(self, run: Run) -> None:
        self._engine.ledger.give_back(run.id)
        self._on_ended()
