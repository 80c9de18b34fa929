"""Everything on this machine: an embedded mongod unless a store is named, a log store in a folder, an instance, the web
face.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from slotsched import logs, scheduler
from slotsched.children import ended_behind, tied
from slotsched.embedded import Mongod
from slotsched.errors import EmbeddedUnavailable
from slotsched.opening import open_store
from slotsched.scheduler.statedir import StateDirectory
from slotsched.settings import UP_FILE, Loaded, Settings

WATCH_SECONDS = 1.0  # how often it is seen to that the embedded database lives

WEB_END_SECONDS = 15.0  # for answers that are under way

Progress = Callable[[float, str], None]


class Standalone:
    """What `slotsched up` runs on. `lock`, `start`, then `run`; `stop` ends what `start` began.

    web: the command that serves the web face on these settings. It is a process of its own, which the instance's loop
    never waits for; one that cannot listen says so, and the rest goes on.
    """

    def __init__(self, loaded: Loaded, web: Sequence[str]) -> None:
        self.settings = loaded.settings
        self._web = list(web)
        named = loaded.origins["mongodb_uri"] not in ("default", "slotsched up")
        self._mongod = None if named else Mongod(loaded.settings.state_dir / "mongod")
        self._state = StateDirectory(loaded.settings.state_dir)

    @property
    def data(self) -> Path | None:
        """Where the embedded database keeps its files; None when a store was named."""
        return self._mongod.folder if self._mongod else None

    def lock(self) -> None:
        """Come first: a second `up` must not touch the database of the one that runs. Raises AlreadyRunning."""
        self._state.lock()

    def start(self, progress: Progress) -> Settings:
        """Have a store that takes writes, with its indexes; the settings of everything that talks to it.

        progress: called with a fraction (0 to 1) and what is being waited for. Raises EmbeddedUnavailable, StoreError.
        """
        if self._mongod is not None:
            uri = self._mongod.start(progress)
            self.settings = replace(self.settings, mongodb_uri=uri)
        store = open_store(self.settings)
        try:
            store.check()
            store.init()
        finally:
            store.close()
        self._announce()
        return self.settings

    def run(self) -> int:
        """Run the instance until it has drained; its exit code."""
        with self._database_kept(), self._web_face():
            return scheduler.run(self.settings, hangup_drains=True, held=self._state)

    def stop(self) -> None:
        """End the embedded database, once nothing needs it any more; other terminals are told of nothing any more."""
        self._up_file.unlink(missing_ok=True)
        if self._mongod is not None:
            self._mongod.stop()
        self._state.unlock()

    @contextmanager
    def _database_kept(self) -> Iterator[None]:
        """Nobody else looks after the embedded database: if it dies it is started again, on its port."""
        if self._mongod is None:
            yield
            return
        over = threading.Event()
        keeper = threading.Thread(target=_keep, args=(self._mongod, over), name="keep-mongod", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()

    @contextmanager
    def _web_face(self) -> Iterator[None]:
        """Ctrl-C at the terminal is for the instance: the pages stay while it drains."""
        face = subprocess.Popen(
            tied(self._web),
            stdin=subprocess.DEVNULL,
            env={**os.environ, "SLOTSCHED_MONGODB_URI": self.settings.mongodb_uri},
            start_new_session=True,
        )
        with ended_behind(face, WEB_END_SECONDS):
            yield

    @property
    def _up_file(self) -> Path:
        return self.settings.state_dir / UP_FILE

    def _announce(self) -> None:
        """Let commands in other terminals of this user find the store without naming it."""
        found = {
            "mongodb_uri": self.settings.mongodb_uri,
            "log_store": self.settings.log_store,
            "jobs_dir": str(self.settings.jobs_dir),
        }
        temporary = self._up_file.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(found), encoding="utf-8")
        temporary.replace(self._up_file)


def _keep(mongod: Mongod, over: threading.Event) -> None:
    log = logs.get_logger("up")
    while not over.wait(WATCH_SECONDS):
        if mongod.pid is not None:
            continue
        log.warning("mongod ended; starting it again", log=str(mongod.folder / "mongod.log"))
        try:
            mongod.start()
        except (EmbeddedUnavailable, OSError) as error:
            log.warning("mongod does not start; trying again", why=str(error))
