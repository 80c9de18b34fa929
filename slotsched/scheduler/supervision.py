"""The loop's side of the spawner and the supervisors: who was launched, who ended, and a spawner that died."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Callable

from slotsched.model import Outcome, Reason
from slotsched.process import Gone, Launched, LaunchFailed, Supervised, find_supervisor, forbid_start, read_ending
from slotsched.scheduler.ending import Finisher
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.run import Phase, Run
from slotsched.scheduler.starting import Starter

UNSEEN_SECONDS = 10.0  # a launch nobody reported for so long lost its message or its spawner
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

    def start_spawner(self) -> None:
        """Raises SpawnerGone or ContainmentUnavailable when none can be had."""
        launcher = self._engine.launcher
        launcher.start()
        self._spawner_fd = launcher.fileno()
        self._selector.register(self._spawner_fd, selectors.EVENT_READ, self.on_spawner)

    def on_spawner(self) -> None:
        """Messages from the spawner: hints only, the truth is in the run directories."""
        for event in self._engine.launcher.receive():
            if isinstance(event, Launched):
                self._launched(event)
            elif isinstance(event, LaunchFailed):
                self._launch_failed(event)
            elif isinstance(event, Gone):
                self._respawn()
                return

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

        Returns how many there were.
        """
        engine = self._engine
        if self._spawner_fd is None:
            self.start_spawner()
        unseen = engine.now() - UNSEEN_SECONDS
        late = [run for run in engine.roster.alive() if run.supervised is None and run.launched < unseen]
        for run in late:
            self._find(run)
        disobeying = [run for run in engine.roster.alive() if self._disobeys(run)]
        for run in disobeying:
            self._kill_supervisor(run)
        return len(late) + len(disobeying)

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

    def _launched(self, event: Launched) -> None:
        run = self._engine.roster.get(event.run_dir.name)
        if run is None or run.phase is not Phase.LAUNCHING:
            os.close(event.pidfd)
            return
        self.adopt(run, Supervised(event.pid, event.pidfd))

    def _launch_failed(self, event: LaunchFailed) -> None:
        run = self._engine.roster.get(event.run_dir.name)
        if run is None or run.phase is not Phase.LAUNCHING:
            return
        if forbid_start(run.directory):  # a launch that was sent twice may have worked once
            self._settle(run, Outcome(reason=Reason.NOT_STARTED, message=event.message))

    def _respawn(self) -> None:
        """A spawner's death costs a new one: supervisors live on, launches that got lost are sent again."""
        engine = self._engine
        engine.log.warning("the spawner died; starting another")
        assert self._spawner_fd is not None
        self._selector.unregister(self._spawner_fd)
        self._spawner_fd = None
        self.start_spawner()  # if it fails now, `run_once` tries again
        for run in engine.roster.alive():
            if run.phase is Phase.LAUNCHING:
                self._find(run)

    def _find(self, run: Run) -> None:
        """A launching run: its supervisor may live, may be over, or was never forked."""
        supervised = find_supervisor(run.directory)
        if supervised is not None:
            self.adopt(run, supervised)
        elif run.phase is Phase.RUNNING or read_ending(run.directory) is not None:
            self._collect(run)
        else:
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

    def _settle(self, run: Run, outcome: Outcome) -> None:
        run.end(outcome, self._engine.now())
        self._engine.ledger.give_back(run.id)
        self._on_ended()
