"""A real replica set of three on this machine whose members can be killed, frozen, stepped down and brought back.

The members are the same mongod as everywhere in the tests. They are tied to the process that started them: a test run
that is killed leaves none behind. Ports lie below the range that outgoing connections use, so that a member that is
down for a while finds its port free again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import pymongo
from pymongo import MongoClient
from pymongo import errors as driver
from pymongo.write_concern import WriteConcern

from slotsched.embedded import Binary, find_mongod

SET_NAME = "slotsched"
MONGOD_ELECTION_SECONDS = 10.0  # mongod's own default
START_SECONDS = 60.0
ASK_SECONDS = 2.0
MEMORY_BYTES = 2 << 30  # of private memory per member; one of them needs 150 MB
_PORTS = range(20_000, 30_000)
_OPTIONS = (
    "--wiredTigerCacheSizeGB", "0.25",
    "--oplogSize", "64",
    "--quiet",
    "--nounixsocket",
    "--setParameter", "diagnosticDataCollectionEnabled=false",
    "--setParameter", "transactionLifetimeLimitSeconds=10",
)  # fmt: skip

# Between fork and exec, in a Python of its own: PR_SET_PDEATHSIG (1), and no more memory than was said.
_TIE = """
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[3], sys.argv[3:])
"""


class Member:
    """One mongod of the set. `address` is what the set's configuration and clients call it."""

    def __init__(self, number: int, folder: Path, host: str, port: int, launch: Callable[[Member], Any]) -> None:
        self.number = number
        self.folder = folder
        self.host = host
        self.port = port
        self.address = f"{host}:{port}"
        self.environ: dict[str, str] = {}
        self.frozen = False
        self._launch = launch
        self._process: subprocess.Popen[bytes] | None = None
        self._client: MongoClient[dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return f"member {self.number} ({self.address})"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self.folder / "mongod.log"

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """This member alone, whatever it is at the moment."""
        if self._client is None:
            milliseconds = int(ASK_SECONDS * 1000)
            self._client = MongoClient(
                self.host,
                self.port,
                directConnection=True,
                connect=False,
                serverSelectionTimeoutMS=milliseconds,
                connectTimeoutMS=milliseconds,
                heartbeatFrequencyMS=500,
                tz_aware=True,
            )
        return self._client

    def hello(self) -> dict[str, Any] | None:
        """What it says it is; None where it says nothing."""
        if not self.alive or self.frozen:
            return None
        try:
            with pymongo.timeout(ASK_SECONDS):
                answer: dict[str, Any] = self.client.admin.command("hello")
        except driver.PyMongoError:
            return None
        return answer

    def refusal(self, command: Mapping[str, Any]) -> str | None:
        """Run an administrator's command; why it was refused, None if it was not."""
        try:
            with pymongo.timeout(20):
                self.client.admin.command(dict(command))
        except driver.PyMongoError as error:
            return str(error)
        return None

    def write(self, seconds: float = 30.0) -> None:
        """One write that a majority has acknowledged: until then an election is not over for anybody."""
        with pymongo.timeout(seconds):
            probes = self.client["probes"].get_collection("probes", write_concern=WriteConcern(w="majority", j=True))
            probes.insert_one({})

    def start(self) -> None:
        self._process = self._launch(self)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)
        self.frozen = False

    def restart(self, *, wait: bool = True, seconds: float = START_SECONDS) -> None:
        """Kill it if it lives, and start it on what it had; with `wait`, until it is a primary or a secondary."""
        if self.alive:
            self.kill()
        self.start()
        if wait:
            self.wait_ready(seconds)

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        def ready() -> bool:
            hello = self.hello()
            return hello is not None and bool(hello.get("isWritablePrimary") or hello.get("secondary"))

        self._wait(ready, seconds, "a primary or a secondary")

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nobody answers. Returns once it stands still."""
        self.frozen = True
        self._signal(signal.SIGSTOP)
        self._wait(lambda: self._state() == "T", 5, "frozen")

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        self.frozen = False

    def step_down(self, seconds: int = 30) -> None:
        """It gives up being primary, and does not stand for election for so long. That has to be well over the default
        election time of 10 s, or it may be the next primary itself.
        """
        with contextlib.suppress(driver.AutoReconnect), pymongo.timeout(20):
            command = {"replSetStepDown": seconds, "secondaryCatchUpPeriodSecs": min(5, seconds), "force": True}
            self.client.admin.command(command)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self.alive:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self.alive, f"{self} is not running"
        os.kill(self.pid, number)  # not reaped yet, hence ours

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _wait(self, probe: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not probe():
            assert self.alive, f"{self} ended: {self.log.read_text(errors='replace')[-2000:]}"
            assert time.monotonic() < deadline, f"{self} is not {what} after {seconds} s"
            time.sleep(0.02)


class ReplicaSet:
    """`with ReplicaSet(folder, election_seconds=2) as replica_set:` starts the members and waits for a primary.

    election_seconds: how long the others miss a primary before they elect another. host: the address under which the
    members and clients know each other; bind: further addresses to listen on. parameters: `--setParameter` values.
    environ: by member number, added to its environment.
    """

    def __init__(
        self,
        folder: Path,
        members: int = 3,
        *,
        election_seconds: float = MONGOD_ELECTION_SECONDS,
        host: str = "127.0.0.1",
        bind: Sequence[str] = (),
        parameters: Mapping[str, str] | None = None,
        environ: Mapping[int, Mapping[str, str]] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.election_seconds = election_seconds
        self._bind = ",".join(dict.fromkeys(["127.0.0.1", host, *bind]))
        self._parameters = dict(parameters or {})
        self._binary: Binary = find_mongod(folder / "lib")
        # A tied child dies with the *thread* that started it: this one lives as long as the set.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="replica-set")
        ports = free_ports(members)
        self.members = [Member(n, folder / f"member-{n}", host, ports[n], self._launch) for n in range(members)]
        for member in self.members:
            member.environ.update((environ or {}).get(member.number, {}))

    @property
    def uri(self) -> str:
        """Every member is named, so a client finds the set whoever is down."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={SET_NAME}"

    def __enter__(self) -> ReplicaSet:
        try:
            for member in self.members:
                member.start()
            self._initiate()
            self.wait_for_primary(seconds=START_SECONDS)
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for member in self.members:
            member.close()
        self._starter.shutdown()

    def find_primary(self) -> Member | None:
        """Who takes writes now. Of two that believe so, the one elected last."""
        found = [(member, hello) for member in self.members if (hello := member.hello()) is not None]
        writable = [(hello["electionId"], member.number) for member, hello in found if hello.get("isWritablePrimary")]
        return self.members[max(writable)[1]] if writable else None

    def primary(self) -> Member:
        member = self.find_primary()
        assert member is not None, "no member is primary"
        return member

    def secondaries(self) -> list[Member]:
        return [member for member in self.members if (hello := member.hello()) is not None and hello.get("secondary")]

    def leaf(self) -> Member:
        """A secondary that no other one replicates from: else its freeze is one of that other, too, until that has
        waited for MongoDB's `oplogNetworkTimeoutBufferSeconds` (5) and chosen another source.
        """
        secondaries = self.secondaries()
        sources = {one.client.admin.command("replSetGetStatus").get("syncSourceHost") for one in secondaries}
        return next(one for one in secondaries if one.address not in sources)

    def others(self, than: Member) -> list[Member]:
        """All but one, whatever they are at the moment."""
        return [member for member in self.members if member is not than]

    def wait_for_primary(self, *, other_than: Member | None = None, seconds: float = 30.0) -> Member:
        deadline = time.monotonic() + seconds
        while True:
            member = self.find_primary()
            if member is not None and member is not other_than:
                return member
            assert time.monotonic() < deadline, f"no primary after {seconds} s"
            time.sleep(0.02)

    def heal(self, seconds: float = START_SECONDS) -> Member:
        """Everybody thawed and running, and a primary that all of them follow; for the end of a test."""
        for member in self.members:
            if not member.alive:
                member.restart(wait=False)
            elif member.frozen:
                member.thaw()
        primary = self.wait_for_primary(seconds=seconds)
        for member in self.members:
            member.wait_ready(seconds)
        return primary

    def elect(self, member: Member, seconds: float = 30.0) -> None:
        """It becomes primary as soon as the others vote for it, whatever the election time."""
        deadline = time.monotonic() + seconds
        while (refused := member.refusal({"replSetStepUp": 1})) is not None:  # somebody is still starting
            assert time.monotonic() < deadline, f"{member} is not elected: {refused}"
            time.sleep(0.1)

    @contextlib.contextmanager
    def patient(self, seconds: float = 30.0) -> Iterator[None]:
        """A primary that has lost the others goes on as one for so long, and they wait so long. Whole at the end."""
        self._miss_primary_after(seconds)
        try:
            yield
        finally:
            self.heal()
            self._miss_primary_after(self.election_seconds)

    def _miss_primary_after(self, seconds: float) -> None:
        primary = self.primary()
        config = primary.client.admin.command("replSetGetConfig")["config"]
        config["settings"]["electionTimeoutMillis"] = int(seconds * 1000)
        config["version"] += 1
        refused = primary.refusal({"replSetReconfig": config})
        assert refused is None, refused

    @contextlib.contextmanager
    def frozen(self, *members: Member) -> Iterator[None]:
        """These members (all, when none is named) stand still meanwhile."""
        chosen = members or tuple(self.members)
        try:
            for member in chosen:
                member.freeze()
            yield
        finally:
            for member in chosen:
                if member.alive and member.frozen:
                    member.thaw()

    def _initiate(self) -> None:
        first = self.members[0]
        settings = {
            "electionTimeoutMillis": int(self.election_seconds * 1000),
            "heartbeatIntervalMillis": int(min(2.0, self.election_seconds / 5) * 1000),
            # A new primary first asks everybody what it has missed; this long it waits for one who is frozen.
            "heartbeatTimeoutSecs": max(1, round(self.election_seconds)),
        }
        members = [{"_id": member.number, "host": member.address} for member in self.members]
        command = {"replSetInitiate": {"_id": SET_NAME, "members": members, "settings": settings}}
        deadline = time.monotonic() + START_SECONDS
        while (refused := first.refusal(command)) is not None:  # somebody is still starting
            dead = [f"{m}: {m.log.read_text(errors='replace')[-500:]}" for m in self.members if not m.alive]
            assert not dead, dead
            assert time.monotonic() < deadline, f"the set cannot be initiated: {refused}"
            time.sleep(0.1)

    def _launch(self, member: Member) -> subprocess.Popen[bytes]:
        return self._starter.submit(self._spawn, member).result(20)

    def _spawn(self, member: Member) -> subprocess.Popen[bytes]:
        data = member.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        parameters = [word for pair in self._parameters.items() for word in ("--setParameter", "=".join(pair))]
        command = [
            str(self._binary.path),
            "--dbpath", str(data),
            "--bind_ip", self._bind,
            "--port", str(member.port),
            "--replSet", SET_NAME,
            "--logpath", str(member.log),
            "--logappend",
            *_OPTIONS,
            *parameters,
        ]  # fmt: skip
        tie = [sys.executable, "-I", "-S", "-c", _TIE, str(os.getpid()), str(MEMORY_BYTES)]
        with (member.folder / "mongod.out").open("ab") as output:
            return subprocess.Popen(
                [*tie, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._binary.environment, **member.environ},
                start_new_session=True,
            )


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment, and that no outgoing connection takes."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            if port not in found:
                found.append(port)
    return found
