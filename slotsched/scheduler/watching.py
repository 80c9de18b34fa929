"""The wake-up thread: turns the store's change stream into messages for the loop. Without it polling still works."""

from __future__ import annotations

import threading

from slotsched.errors import StoreError
from slotsched.scheduler.engine import Engine
from slotsched.scheduler.inbox import Followers, Freed, Scheduled, StreamDown, Touched, Work
from slotsched.store import watch as events

RETRY_SECONDS = 1.0
REST_SECONDS = 0.2


class Watcher(threading.Thread):
    """Keeps one change stream open, with a pause between attempts while the store is away."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(name="watch", daemon=True)
        self._engine = engine
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.follow()
            except StoreError as error:
                self._engine.log.debug("change stream broke", why=str(error))
                self._broken()
            except Exception:  # one odd event must not end the thread
                self._engine.log.exception("change stream broke, unexpectedly")
                self._broken()

    def _broken(self) -> None:
        self._engine.inbox.post(StreamDown())
        self._rest()

    def _rest(self) -> None:
        """While the loop leaves the store alone, so does this thread: the lease thread asks for all of them."""
        self._stopping.wait(RETRY_SECONDS)
        while not self._engine.health.up and not self._stopping.is_set():
            self._stopping.wait(REST_SECONDS)

    def follow(self) -> None:
        """Open the stream, have the lanes read after that, and pass on what comes."""
        inbox = self._engine.inbox
        with self._engine.store.watch() as stream:
            inbox.post(Work(None))
            while not self._stopping.is_set():
                event = stream.try_next()
                if isinstance(event, events.Work):
                    inbox.post(Work(event.lane) if event.due_now else Scheduled())
                elif isinstance(event, events.Touched):
                    inbox.post(Touched(event.task_id))
                elif isinstance(event, events.Freed):
                    inbox.post(Freed())
                if isinstance(event, events.Followers) or (isinstance(event, events.Freed) and event.followers):
                    inbox.post(Followers())
