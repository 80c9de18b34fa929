"""The demo's stage: a temporary folder with a database, a log store, and two instances of different size."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from slotsched.children import ended_behind, program
from slotsched.client import Client
from slotsched.embedded import Mongod
from slotsched.errors import SlotschedError
from slotsched.settings import Settings

INSTANCES: Mapping[str, int] = {"big": 4, "small": 2}  # name: slots
STOP_SECONDS = 20.0

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Stage:
    """What the demo plays on. `client` enqueues and looks, like any program of a user would."""

    folder: Path
    client: Client
    instances: Mapping[str, int]

    @property
    def logs(self) -> Path:
        return self.folder / "logs"


@contextlib.contextmanager
def stage(*, keep: bool, progress: Progress) -> Iterator[Stage]:
    """Build it, hand it over, and take everything down again. Raises EmbeddedUnavailable."""
    jobs = examples()
    folder = Path(tempfile.mkdtemp(prefix="slotsched-demo-"))
    mongod = Mongod(folder / "mongod", tied=True)
    try:
        uri = mongod.start(progress)
        settings = Settings(
            mongodb_uri=uri, jobs_dir=jobs, state_dir=folder / "state", log_store=str(folder / "logs"), name="demo"
        )
        client = Client.of(settings)
        client.store.init()
        with contextlib.ExitStack() as instances:
            for name, slots in INSTANCES.items():
                instances.enter_context(_instance(settings, name, slots))
            yield Stage(folder, client, INSTANCES)
        client.close()
    finally:
        mongod.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def examples() -> Path:
    """The example jobs: packed into the wheel, or the checkout's `jobs/`."""
    package = Path(__file__).parents[1]
    for folder in (package / "_examples", package.parent / "jobs"):
        if (folder / "hello.py").is_file():
            return folder
    raise SlotschedError("the example jobs are not installed; install slotsched from its wheel or its checkout")


@contextlib.contextmanager
def _instance(settings: Settings, name: str, slots: int) -> Iterator[None]:
    """One `slotsched scheduler run`, as a user would start it on a machine of its own."""
    folder = settings.state_dir.parent
    own = replace(settings, name=name, state_dir=folder / f"state-{name}")
    environment = {
        **{variable: value for variable, value in os.environ.items() if not variable.startswith("SLOTSCHED_")},
        "SLOTSCHED_MONGODB_URI": own.mongodb_uri,
        "SLOTSCHED_JOBS_DIR": str(own.jobs_dir),
        "SLOTSCHED_STATE_DIR": str(own.state_dir),
        "SLOTSCHED_LOG_STORE": own.log_store,
        "SLOTSCHED_NAME": own.name,
        "SLOTSCHED_SLOTS": str(slots),
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*program(), "scheduler", "run"],
            env=environment,
            cwd=folder,  # away from a slotsched.toml of the user's
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which then ends its instances in order
        )
    with ended_behind(process, STOP_SECONDS):
        yield
