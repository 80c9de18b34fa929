"""The state directory: what a scheduler that crashed or re-execs finds again.

One scheduler per state directory (flock on `lock`); who it is stands in `instance.json`; `runs/` holds one folder per
claim, the truth about attempts, and `claims/` what has been launched once more, where no script removes it together
with its run directory; `deadline-<id>` is the lease deadline that its supervisors watch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slotsched import logs
from slotsched.contract import RUN_START, RUN_STATUS
from slotsched.errors import AlreadyRunning, SlotschedError
from slotsched.failpoints import failpoint
from slotsched.machine import Space, space_at
from slotsched.process import workdir
from slotsched.scheduler.run import CLAIMS_NAME, RECORD_NAME, SETTLED_NAME, second_record
from slotsched.settings import LOCK_FD_VARIABLE

_PASSABLE = 0o711  # jobs of other users pass through
_KNOWN_BY = (RUN_START, RUN_STATUS, SETTLED_NAME, RECORD_NAME)  # what a next start needs, the record longest


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who this scheduler is in the store. A new id after a reboot, once declared dead, or in a copied directory.

    place: the directory it was saved in, "" before that.
    """

    id: str
    boot_id: str
    incarnation: int
    place: str = ""

    @classmethod
    def fresh(cls, boot_id: str) -> Identity:
        return cls(id=str(uuid.uuid4()), boot_id=boot_id, incarnation=1)

    def resumed(self) -> Identity:
        return replace(self, incarnation=self.incarnation + 1)


class StateDirectory:
    """Paths and small files below one state directory; `lock()` before anything else is touched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs = path / "runs"
        self._lock_fd: int | None = None

    def lock(self) -> None:
        """Hold the directory until this process ends. Raises AlreadyRunning when another scheduler does."""
        try:
            for folder in (self.path, self.runs):
                if not folder.exists():
                    folder.mkdir(parents=True, exist_ok=True, mode=_PASSABLE)
                    folder.chmod(_PASSABLE)  # whatever the umask
        except OSError as error:
            raise SlotschedError(
                f"cannot use the state directory {self.path}: {error.strerror}. Set --state-dir"
            ) from error
        inherited = os.environ.pop(LOCK_FD_VARIABLE, None)
        fd = int(inherited) if inherited else os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.set_inheritable(fd, False)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"another scheduler (pid {holder}) runs on {self.path}; give this one its own --state-dir"
            ) from None
        self._lock_fd = fd
        pid = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):  # only a message needs it, and the disk may be full
            os.pwrite(fd, pid, 0)
            os.ftruncate(fd, len(pid))

    def hand_over_lock(self) -> None:
        """Let the program that replaces this one in place (exec) inherit the lock."""
        assert self._lock_fd is not None
        os.set_inheritable(self._lock_fd, True)
        os.environ[LOCK_FD_VARIABLE] = str(self._lock_fd)

    def unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def load_identity(self) -> Identity | None:
        """Who ran here last; None on a first start or when the file cannot be read (a new identity is always safe).

        Also None in a copy of another scheduler's directory, made while it ran or after it was killed: two that are
        one and the same instance would end each other's tasks.
        """
        try:
            found = Identity(**json.loads((self.path / "instance.json").read_text(encoding="utf-8")))
            return found if found.place in ("", self._place()) else None
        except (OSError, ValueError, TypeError):
            return None

    @failpoint("save_identity")
    def save_identity(self, identity: Identity) -> None:
        temporary = self.path / "instance.json.new"
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(asdict(replace(identity, place=self._place())), stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path / "instance.json")

    @failpoint("forget_identity")
    def forget_identity(self) -> None:
        (self.path / "instance.json").unlink(missing_ok=True)

    def deadline_file(self, instance_id: str) -> Path:
        return self.path / f"deadline-{instance_id}"

    def drop_old_deadlines(self, keep: str) -> None:
        """Remove the deadline files of former identities."""
        for path in self.path.glob("deadline-*"):
            if path != self.deadline_file(keep):
                path.unlink(missing_ok=True)

    def run_directory(self, run_id: str) -> Path:
        return self.runs / run_id

    def run_directories(self) -> list[Path]:
        """Those of all runs that are not done with; one that its script has removed is among them."""
        names = {path.name for path in self.runs.iterdir() if path.is_dir()}
        names |= {path.stem for path in (self.path / CLAIMS_NAME).glob("*.json")}
        return [self.runs / name for name in sorted(names)]

    @failpoint("remove_run")
    def remove_run(self, directory: Path) -> None:
        """Remove a run directory whose log is safe (or whose script never started).

        Its record goes last: if something cannot be removed, the next start knows the run by it and tries again.
        """
        if workdir.remove(directory, last=_KNOWN_BY):
            second_record(directory).unlink(missing_ok=True)
        else:
            logs.get_logger().warning("a run cannot be removed; the next start tries again", run=directory.name)

    def space(self) -> Space:
        """What is left for run directories and the spool."""
        return space_at(self.path)

    def _place(self) -> str:
        """Which directory this is: a copy of it is another one."""
        found = self.path.stat()
        return f"{found.st_dev}:{found.st_ino}"
