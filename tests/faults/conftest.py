"""A replica set of three for a module of fault tests; what a module needs beyond it, it makes itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from replica_set import ReplicaSet

from slotsched.embedded import Mongod

ELECTION_SECONDS = 2.0


@pytest.fixture(scope="module")
def replica_set(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Three members that elect a new primary after two seconds without one. A test leaves it whole (`heal`)."""
    with ReplicaSet(tmp_path_factory.mktemp("replica-set"), election_seconds=ELECTION_SECONDS) as started:
        yield started
