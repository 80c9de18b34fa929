"""Followers: whoever waits for a task that has ended is told by any instance, in bounded passes."""

from __future__ import annotations

from typing import Any

from slotsched.scheduler.engine import Engine
from slotsched.store import Followed

PASS_SECONDS = 0.25  # after this a pass leaves the rest to the next, so that nothing else in the loop waits long


class Resolver:
    """`run_once` tells the followers of what has ended, along chains; `end_strays` looks for those nobody would tell.

    Nothing is kept here: after a crash between any two writes, the next pass of any instance begins where it stopped.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._strays_after: Any = None
        self.more = False  # the last pass left something to do

    def run_once(self) -> int:
        """Returns how many waiting tasks changed."""
        engine = self._engine
        begun = engine.now()
        told = 0
        before: list[Followed] = []
        while True:
            ended = engine.store.resolve.ended()
            stuck = ended == before  # nothing came of the last round: the next poll is soon enough
            self.more = bool(ended) and not stuck and engine.now() - begun > PASS_SECONDS
            if not ended or stuck or self.more:
                return told
            before = ended
            # The books first, but nobody waits for them: while the schedule is in somebody else's hands, the round that
            # waits for this one is told from the task itself what it left.
            booked = engine.store.schedules.settle_many(one.id for one in ended if one.series)
            told += engine.store.resolve.tell(ended)
            engine.store.resolve.done([one for one in ended if not one.series or one.id in booked])
            engine.tick()

    def end_strays(self) -> int:
        """Looks at one page of the waiting tasks; how many could never have started."""
        count, self._strays_after = self._engine.store.resolve.strays(after=self._strays_after)
        if count:
            self._engine.log.warning("ended waiting tasks whose parents are gone", tasks=count)
        return count
