"""Fleets for the acceptance and fault tests: a fresh database and log store each, and leases short enough to wait for.

A test that looks at one instance's capacity, loss or end starts its own fleet; tests that only run tasks share the
module's (`shared`), which costs nothing but the start of two or three processes per module.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from fleet import JOBS, Fleet, FleetMaker, fleet
from s3_servers import Bucket

from slotsched.embedded import Mongod

# Short, and still several renewals long on a busy machine. Rescue after a loss: lease + grace + two polls of 1 s.
LEASE_SECONDS = 4.0
GRACE_SECONDS = 1.0
POLL_SECONDS = 1.0


@pytest.fixture(scope="session")
def make_fleet(
    mongod: Mongod,
    mongo_client: pymongo.MongoClient[dict[str, object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> FleetMaker:
    """Opens fleets: `with make_fleet() as fleet`, `with make_fleet(bucket, lease="6s") as fleet`.

    bucket: where logs go; None: a directory of the fleet's own. jobs: the folder of scripts. Anything else is a
    setting.
    """

    @contextlib.contextmanager
    def opened(bucket: Bucket | None = None, jobs: Path = JOBS, **settings: Any) -> Iterator[Fleet]:
        folder = tmp_path_factory.mktemp("fleet")
        name = f"test_{secrets.token_hex(6)}"
        ours = {
            "mongodb_uri": mongod.uri,
            "database": name,
            "jobs_dir": str(jobs),
            "log_store": str(folder / "logs"),
            "lease": f"{LEASE_SECONDS}s",
            "grace": f"{GRACE_SECONDS}s",
        }
        if bucket is not None:
            ours |= {"log_store": bucket.url, "s3_endpoint": bucket.endpoint}
        ours |= {key: str(value) for key, value in settings.items()}
        try:
            with fleet(folder, ours, jobs, environ=bucket.env if bucket else {}) as made:
                yield made
        finally:
            mongo_client.drop_database(name)

    return opened


@pytest.fixture(name="fleet")
def _fleet(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """A fleet of one test's own, with nothing started yet."""
    with make_fleet() as made:
        yield made


@pytest.fixture(scope="module")
def shared(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """The module's fleet: one instance of 8 slots named `shared`, for tests that only run tasks."""
    with make_fleet() as made:
        made.start("shared", slots=8)
        yield made
