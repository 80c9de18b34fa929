"""A real mongod for the whole run, and a fresh database for every test that asks for a store.

A mongod that cannot be had fails the tests that need it in CI (the variable CI is set) and skips them loudly
elsewhere. It runs in a private temporary folder, so any number of test runs can go on side by side, and is killed
with its folder at the end, or by the kernel when the run itself is killed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymongo
import pytest

from slotsched.embedded import Mongod
from slotsched.errors import EmbeddedUnavailable
from slotsched.store import Store, connect

pytest_plugins = ["s3_servers", "fleet_fixtures", "figures", "web_office"]

# failCommand lets tests lose answers on purpose; a short TTL pass and quick elections keep them fast.
SERVER_PARAMETERS = {"enableTestCommands": "1", "ttlMonitorSleepSecs": "1"}

_loudly: list[str] = []


@dataclass(frozen=True)
class Database:
    """A database of one test's own."""

    uri: str
    name: str

    @property
    def env(self) -> dict[str, str]:
        """What a slotsched process of the test needs to reach it."""
        return {"SLOTSCHED_MONGODB_URI": self.uri, "SLOTSCHED_DATABASE": self.name}


@pytest.fixture(scope="session")
def mongod() -> Iterator[Mongod]:
    """The run's own mongod, a replica set of one."""
    folder = Path(tempfile.mkdtemp(prefix="slotsched-tests-mongod-"))
    server = Mongod(folder, parameters=SERVER_PARAMETERS, tied=True)
    try:
        _start(server)
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mongo_client(mongod: Mongod) -> Iterator[pymongo.MongoClient[dict[str, object]]]:
    """The driver itself, for looking behind the store's back."""
    with pymongo.MongoClient(
        mongod.uri, tz_aware=True, datetime_conversion="DATETIME_AUTO", serverSelectionTimeoutMS=10_000
    ) as client:
        yield client


@pytest.fixture
def database(mongod: Mongod, mongo_client: pymongo.MongoClient[dict[str, object]]) -> Iterator[Database]:
    """A fresh database, dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    yield Database(uri=mongod.uri, name=name)
    mongo_client.drop_database(name)


@pytest.fixture
def store(database: Database) -> Iterator[Store]:
    """A store with its indexes on a fresh database."""
    connected = connect(database.uri, database.name, timeout=10.0)
    try:
        connected.init()
        yield connected
    finally:
        connected.close()


def _start(server: Mongod) -> None:
    try:
        server.start()
    except EmbeddedUnavailable as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a mongod: {missing}", pytrace=False)
        _loudly.append(f"SKIPPED every test that needs MongoDB: {missing}")
        pytest.skip(f"no mongod: {missing}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A run without a server must not look like a whole one."""
    for line in _loudly:
        terminalreporter.write_line(line, red=True, bold=True)
