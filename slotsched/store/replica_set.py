"""Making a replica set of one out of a mongod that was just started: what `slotsched up` and the tests run on."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo import errors as driver

from slotsched.store.connection import Document

SET_NAME = "slotsched"
_NOT_INITIATED = 94
_TRY_SECONDS = 2.0


class Member:
    """One mongod on this machine, asked directly, whether it is a set yet or not."""

    def __init__(self, port: int) -> None:
        self._address = f"127.0.0.1:{port}"
        self._client: MongoClient[Document] = MongoClient(
            self._address,
            directConnection=True,
            connect=False,
            serverSelectionTimeoutMS=int(_TRY_SECONDS * 1000),
            heartbeatFrequencyMS=500,
        )

    def advance(self, pid: int | None) -> bool:
        """One step towards a writable primary; whether it is one. False too while nothing answers.

        pid: of the server we mean; a stranger that has taken the port since is left alone.
        """
        try:
            with pymongo.timeout(_TRY_SECONDS):
                if self._client.admin.command("serverStatus", repl=0, metrics=0, wiredTiger=0)["pid"] != pid:
                    return False
                if self._client.admin.command("hello").get("isWritablePrimary"):
                    return True
                self._configure()
        except driver.PyMongoError:
            return False  # still starting, or electing itself; the caller has the deadline
        return False

    def _configure(self) -> None:
        """Initiates the set, or gives it the address it has now (a restart on another port)."""
        config = self._config()
        if config is None:
            member = {"_id": 0, "host": self._address}
            self._client.admin.command("replSetInitiate", {"_id": SET_NAME, "members": [member]})
        elif config["members"][0]["host"] != self._address:
            config["members"][0]["host"] = self._address
            config["version"] += 1
            self._client.admin.command("replSetReconfig", config, force=True)

    def _config(self) -> dict[str, Any] | None:
        try:
            config: dict[str, Any] = self._client.admin.command("replSetGetConfig")["config"]
        except driver.OperationFailure as error:
            if error.code == _NOT_INITIATED:
                return None
            raise
        return config

    def close(self) -> None:
        self._client.close()
