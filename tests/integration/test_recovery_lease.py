"""A start on a live instance's state directory: its lease goes on, however long the store's indexes take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fleet import until
from stand_ins import MemoryLog

from slotsched.errors import StoreUnreachable, StoreUnsuitable
from slotsched.opening import open_store
from slotsched.scheduler import assemble
from slotsched.scheduler.loop import Loop
from slotsched.scheduler.statedir import StateDirectory
from slotsched.settings import Settings

LEASE_SECONDS = 3.0  # renewed twice a second
RENEWALS = 3


class Starts:
    """Schedulers on one state directory, one after the other; only their way up to the first turn."""

    def __init__(self, database: Any, raw: Any, folder: Path) -> None:
        self.instances = raw["instances"]
        self._settings = Settings(
            mongodb_uri=database.uri,
            database=database.name,
            jobs_dir=folder,
            state_dir=folder / "state",
            log_store=str(folder / "logs"),
            name="again",
            lease=LEASE_SECONDS,
        )
        self.state = StateDirectory(self._settings.state_dir)
        self.state.runs.mkdir(parents=True)

    @contextmanager
    def loop(self) -> Iterator[Loop]:
        store = open_store(self._settings)
        engine = assemble(self._settings, self.state, store, MemoryLog())
        engine.launcher.start()  # its containment is part of what an instance tells
        loop = Loop(engine)
        try:
            yield loop
        finally:
            if loop._lease is not None:
                loop._lease.stop()
                loop._lease.join(10)
            engine.launcher.close()
            loop._selector.close()
            store.close()

    def nonce(self) -> str:
        [live] = self.instances.find({"live": True})
        return str(live["nonce"])

    def wait_renewed(self) -> None:
        """Until the one live instance has renewed its lease some times more."""
        seen = {self.nonce()}
        until(lambda: seen.add(self.nonce()) or len(seen) > RENEWALS, seconds=5 * LEASE_SECONDS, what="renewals")


@pytest.fixture
def starts(database: Any, mongo_client: Any, tmp_path: Path) -> Starts:
    made = Starts(database, mongo_client[database.name], tmp_path)
    with made.loop() as loop:
        assert loop._recover()
    return made


def test_the_lease_goes_on_while_an_index_is_built(starts: Starts) -> None:
    with starts.loop() as loop:
        loop._engine.store.init = starts.wait_renewed  # type: ignore[method-assign]
        assert loop._recover()
        assert ("info", "up") in loop._engine.log.lines
        [only] = starts.instances.find({})
        assert (only["live"], only["incarnation"]) == (True, 2)


def test_a_store_that_goes_away_meanwhile_is_waited_for(starts: Starts) -> None:
    answers: list[Exception | None] = [StoreUnreachable("gone"), None]

    def init() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    with starts.loop() as loop:
        loop._engine.store.init = init  # type: ignore[method-assign]
        assert loop._recover()
        assert answers == []
        assert loop._engine.identity.incarnation == 2


def test_a_store_that_cannot_be_used_after_all_ends_the_start(starts: Starts) -> None:
    def init() -> None:
        raise StoreUnsuitable("this user may not create indexes")

    with starts.loop() as loop:
        loop._engine.store.init = init  # type: ignore[method-assign]
        with pytest.raises(StoreUnsuitable, match="may not create"):
            loop._recover()


def test_who_is_told_to_leave_does_not_wait_for_an_index(starts: Starts) -> None:
    over = threading.Event()

    with starts.loop() as loop:
        loop._engine.store.init = lambda: loop._drain.begin() or over.wait(30)  # type: ignore[method-assign]
        try:
            assert loop._recover(), "what runs is looked after until it has ended"
        finally:
            over.set()
