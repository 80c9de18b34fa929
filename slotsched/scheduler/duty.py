"""The loop's timetable: a duty is something with one pass, done every so often or when woken.

A pass that fails never stops the loop (G7): a store that does not answer puts all store duties to rest until it does
again; anything else is logged with its traceback and tried at the next time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from slotsched.errors import SlotschedError, StoreUnreachable
from slotsched.scheduler.engine import Engine


@dataclass
class Duty:
    """`run_once` is called every `every` seconds, and at the next turn after `wake()`."""

    name: str
    run_once: Callable[[], object]
    every: float
    needs_store: bool = True
    urgent: bool = True  # wanted at once when the store is back
    next_at: float = field(default=0.0)
    unanswered: bool = False  # the store did not answer its last pass

    def wake(self) -> None:
        self.next_at = 0.0

    def wait_until(self, moment: float) -> None:
        """Come earlier than planned, if `moment` (CLOCK_BOOTTIME) is earlier."""
        self.next_at = min(self.next_at, moment)


class Timetable:
    """Runs the duties that are due, in the order in which they were given.

    One whose last pass the store did not answer comes behind the others: it may be its query that takes too long, and
    then those behind it would never have their turn.
    """

    def __init__(self, engine: Engine, duties: list[Duty]) -> None:
        self._engine = engine
        self._duties = duties

    def wake_all(self) -> None:
        for duty in self._duties:
            if duty.urgent:
                duty.wake()

    def seconds_to_next(self, now: float) -> float:
        return max(0.0, min(d.next_at for d in self._duties if self._engine.health.up or not d.needs_store) - now)

    def run_due(self) -> None:
        for duty in sorted(self._duties, key=lambda duty: duty.unanswered):
            engine = self._engine
            if duty.next_at <= engine.now() and (engine.health.up or not duty.needs_store):
                duty.next_at = engine.now() + duty.every
                self._run(duty)
                engine.tick()

    def _run(self, duty: Duty) -> None:
        engine = self._engine
        duty.unanswered = False
        try:
            duty.run_once()
        except StoreUnreachable as error:
            duty.unanswered = True
            if engine.health.up:
                engine.log.warning("the store does not answer; carrying on without it", duty=duty.name, why=str(error))
            engine.health.failed()
        except SlotschedError as error:
            engine.log.warning("duty failed", duty=duty.name, why=str(error))
        except Exception:  # one bad document or file must not stop the instance
            engine.log.exception("duty failed unexpectedly", duty=duty.name)
