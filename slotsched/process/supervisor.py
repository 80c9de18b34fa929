"""The supervisor: one process per attempt that owns the script's tree, its pipes and its deadlines.

It is forked by the spawner and reports to nobody. What it knows is in the run directory: its life is the lock, its
orders are `order.json` and a signal, its last word is `status.json`, written once nothing of the tree is left.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from pathlib import Path

from slotsched import contract
from slotsched.process import cgroups, linux, procfs, rundir, script, tree, workdir
from slotsched.process.agenda import Agenda, boottime
from slotsched.process.capture import Capture
from slotsched.process.containment import CGROUP, NAMESPACES, SUBREAPER, mount_proc
from slotsched.process.deadline import DeadlineReader, next_check
from slotsched.process.files import boot_id
from slotsched.process.logfile import LogFile
from slotsched.process.memory import MemoryGauge
from slotsched.process.spec import Spec
from slotsched.process.status import PRECEDENCE, Ending, StatusFile

_TAG_BYTES = 6
_INHERITED_DESCRIPTORS = 64  # the spawner never has as many open


class LeaseOver(Exception):
    """Raised when the instance's lease has run out before the script started."""


def run(run_dir: Path, spec: Spec, rung: str) -> None:
    """Supervise the attempt in `run_dir` from its start to its end. Does nothing if it has a supervisor, or if its
    start was forbidden.
    """
    linux.set_name("slotsched-sup")
    _stand_alone()
    lock = rundir.take_lock(run_dir)
    if lock is None or (run_dir / contract.RUN_START).exists():
        return
    status = StatusFile(run_dir)  # before the start right: without room for its end the script does not start
    log = LogFile(run_dir / contract.RUN_LOG, spec.log_limit)
    boot = boot_id()
    facts = {"by": "supervisor", "boot_id": boot, "started": boottime(), "containment": rung}
    if rung == CGROUP:
        facts["cgroup"] = str(cgroups.group_for(run_dir, cgroups.base()))
    tag = int.from_bytes(os.urandom(_TAG_BYTES), "little") if rung == SUBREAPER else 0
    if tag:
        facts["tag"] = tag
    limited = _memory_group(run_dir, spec, rung)
    if limited is not None:
        facts["memory_cgroup"] = str(limited)
    supervisor = Supervisor(run_dir, spec, rung, log, boot, tag, limited)
    if rundir.take_start_right(run_dir, facts):
        status.write(supervisor.ending())
        workdir.remove(run_dir / contract.RUN_WORK)


def _memory_group(run_dir: Path, spec: Spec, rung: str) -> Path | None:
    """The group by which the kernel keeps the memory limit beside us; None where it cannot, or the tree's own does."""
    parent = cgroups.memory_parent() if rung != CGROUP and spec.memory else None
    return None if parent is None else cgroups.group_for(run_dir, parent)


def _stand_alone() -> None:
    """Leave the spawner's session and descriptors, and take signals only where they are read."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.closerange(3, _INHERITED_DESCRIPTORS)
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    linux.hide_from_scripts()


class Supervisor:
    """One attempt, from containment to ending."""

    def __init__(
        self, run_dir: Path, spec: Spec, rung: str, log: LogFile, boot: str, tag: int, limited: Path | None
    ) -> None:
        self._run_dir = run_dir
        self._spec = spec
        self._rung = rung
        self._boot = boot
        self._log = log
        self._capture = Capture(log, spec.log_limit, boottime)
        self._agenda = Agenda()
        self._timer = linux.Timer()
        self._signals = linux.Signals([signal.SIGCHLD, rundir.ORDER_SIGNAL, rundir.END_SIGNAL, rundir.KILL_SIGNAL])
        self._tree = tree.Tree(tag)
        self._limited = limited
        self._gauge: MemoryGauge | None = None
        self._main = 0  # the script's pid
        self._main_status: int | None = None
        self._started: float | None = None
        self._exec_answer: int | None = None
        self._exec_report = b""
        self._asked_to_end = False  # SIGTERM was sent
        self._kill = False
        self._cause = ""
        self._message: str | None = None
        self._refused: int | None = None  # the errno for which the script was not started

    def ending(self) -> Ending:
        """Run the script to its end and return how it was."""
        try:
            self._enter_containment()
            self._open_lease()
            self._start_script()
            self._watch()
        except script.NotStarted as error:
            self._not_started(str(error), None)
        except LeaseOver:
            self._cause, self._message = "lost", "the instance's lease had run out before the script started"
        except OSError as error:
            self._fail(error)
        self._end_tree()
        self._capture.finish()
        self._judge()
        return self._describe()

    # --- steps to the start ---------------------------------------------------------------------------

    def _enter_containment(self) -> None:
        linux.become_subreaper()
        if self._rung in NAMESPACES:
            mount_proc()
            self._tree = tree.NamespaceTree()
        elif self._rung == CGROUP:
            group = cgroups.group_for(self._run_dir, cgroups.base())
            self._tree = tree.CgroupTree(group, self._spec.memory)
        if self._limited is not None and self._spec.memory:
            with contextlib.suppress(OSError):  # it is faster than any sampling, but that does it, too
                self._tree = tree.LimitedTree(self._tree, self._limited, self._spec.memory)
        self._gauge = MemoryGauge(self._tree, self._spec.memory)

    def _open_lease(self) -> None:
        try:
            self._deadline = DeadlineReader(self._spec.deadline_file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise LeaseOver from error
        self._require_lease()

    def _require_lease(self) -> None:
        self._check_lease()
        if self._cause:
            raise LeaseOver

    def _start_script(self) -> None:
        person = script.look_up(self._spec.user)
        work = self._run_dir / contract.RUN_WORK
        work.mkdir(mode=0o700, exist_ok=True)
        if person is not None:
            self._run_dir.chmod(0o711)
            script.give_away([work, self._run_dir / contract.RUN_IO], person)
        ends = self._capture.open()
        if person is not None:
            for end in ends.values():
                os.fchown(end, person.uid, person.gid)  # so that /dev/stdout can be opened
        env = script.environment(self._spec, work, _iso(time.time() + self._spec.max_time))
        cwd = Path(self._spec.cwd) if self._spec.cwd is not None else work
        self._require_lease()  # again: a directory service may have taken long to know the user
        self._started = boottime()
        self._main, self._exec_answer = script.start(self._spec, env, cwd, person, ends, self._tree.enter)
        for end in ends.values():
            os.close(end)
        self._agenda.put("max time", self._started + self._spec.max_time, self._max_time_over)

    # --- while it runs --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Serve pipes, signals and appointments until the script has ended or has to be killed."""
        poller = select.poll()
        assert self._exec_answer is not None
        for fd in (self._timer.fd, self._signals.fd, self._exec_answer, *self._capture.descriptors()):
            poller.register(fd, select.POLLIN)
        while self._main_status is None and not self._kill:
            self._agenda_flush()
            self._timer.arm(self._agenda.next())
            for fd, _ in poller.poll():
                if fd == self._timer.fd:
                    self._timer.drain()
                elif fd == self._signals.fd:
                    self._take_signals()
                elif fd == self._exec_answer:
                    if self._read_exec_answer():
                        poller.unregister(fd)
                elif not self._capture.read(fd):
                    poller.unregister(fd)
            if self._main_status is None:  # else it was in time, and its pid is no longer its own
                self._agenda.keep(boottime())

    def _agenda_flush(self) -> None:
        at = self._capture.flush_at()
        if at is None:
            self._agenda.drop("flush")
        else:
            self._agenda.put("flush", at, self._capture.flush)

    def _read_exec_answer(self) -> bool:
        """Take what the child says about its exec; True once it has said all."""
        assert self._exec_answer is not None
        try:
            chunk = os.read(self._exec_answer, 4096)
        except BlockingIOError:
            return False
        self._exec_report += chunk
        if chunk:
            return False
        os.close(self._exec_answer)
        self._exec_answer = None
        if not self._exec_report:
            self._sample_memory()
        return True

    def _take_signals(self) -> None:
        arrived = self._signals.take()
        if any(each.number == signal.SIGCHLD for each in arrived):
            self._note(tree.reap()[0])
        for each in arrived:
            if each.number != signal.SIGCHLD and self._main_status is None and self._is_from_outside(each.sender):
                self._obey(each.number)

    def _is_from_outside(self, sender: int) -> bool:
        """Orders come from outside of the tree only; a script must not be able to confuse its supervisor.

        Without a PID namespace a sender that is gone already may have been in the tree, so it is not obeyed.
        """
        if self._rung in NAMESPACES:
            return sender == 0
        return procfs.stat(sender) is not None and sender not in {each.pid for each in procfs.descendants(os.getpid())}

    def _obey(self, number: int) -> None:
        order = rundir.read_order(self._run_dir) if number == rundir.ORDER_SIGNAL else None
        if order is not None:
            message = f"{order.cause} by {order.by}" if order.by else None
            self._end_script(order.cause, self._spec.grace if order.grace is None else order.grace, message)
        elif number == rundir.END_SIGNAL:
            self._end_script("shutdown", self._spec.grace, None)
        elif number == rundir.KILL_SIGNAL:
            self._end_script("shutdown", 0, None)

    def _max_time_over(self) -> None:
        self._end_script("timeout", self._spec.grace, f"max time of {self._spec.max_time:g} s is over")

    def _check_lease(self) -> None:
        now = boottime()
        again = next_check(now, *self._deadline.read(), die_at_deadline=self._spec.die_at_deadline)
        if again is None:
            self._end_script("lost", 0, "the instance's lease ran out")
        else:
            self._agenda.put("lease", again, self._check_lease)

    def _sample_memory(self) -> None:
        assert self._gauge is not None
        pause = self._gauge.sample()
        if self._gauge.exceeded():
            self._end_script(
                "memory", 0, f"used {_mib(self._gauge.now)} of memory, the limit is {_mib(self._spec.memory)}"
            )
        else:
            self._agenda.put("memory", boottime() + pause, self._sample_memory)

    def _end_script(self, cause: str, grace: float, message: str | None) -> None:
        """SIGTERM to the script's process group now, SIGKILL to the tree after `grace` seconds; 0: at once."""
        if PRECEDENCE[cause] > PRECEDENCE.get(self._cause, 0):
            self._cause, self._message = cause, message
        if grace <= 0:
            self._kill = True
            return
        self._agenda.put_earlier("kill", boottime() + grace, self._grace_over)
        if not self._asked_to_end and self._main_status is None:
            self._asked_to_end = True
            for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process would not see its SIGTERM
                _signal_group(self._main, number)

    def _grace_over(self) -> None:
        self._kill = True

    # --- the end --------------------------------------------------------------------------------------

    def _note(self, reaped: tree.Reaped) -> None:
        for pid, status in reaped:
            if pid == self._main:
                self._main_status = status

    def _fail(self, error: OSError) -> None:
        """Something the supervisor itself needed did not work."""
        text = f"the supervisor failed: {error}"
        if self._main == 0:
            self._not_started(text, error.errno)
        else:
            self._cause, self._message = "lost", text

    def _not_started(self, message: str, number: int | None) -> None:
        self._cause, self._message, self._refused, self._started = "not_started", message, number, None

    def _end_tree(self) -> None:
        """Kill whatever is left, also after a normal exit, and wait until nothing is."""
        self._note(self._tree.end())
        if self._tree.out_of_memory():
            self._end_script("memory", 0, f"the kernel ended it at its memory limit of {_mib(self._spec.memory)}")
        self._tree.close()

    def _judge(self) -> None:
        """Settle the cause: an exec that failed is no exit of the script."""
        told = -1
        while self._exec_answer is not None and told != len(self._exec_report):
            told = len(self._exec_report)
            self._read_exec_answer()
        failure = script.failure(self._exec_report)
        if failure is not None:
            self._not_started(*failure)
        if not self._cause:
            self._cause = "signal" if os.WIFSIGNALED(self._main_status or 0) else "exit"

    def _describe(self) -> Ending:
        status = self._main_status if self._started is not None else None
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Ending(
            cause=self._cause,
            exit_code=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
            signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
            message=self._message,
            cpu_seconds=round(used.ru_utime + used.ru_stime, 6),
            peak_memory=self._gauge.peak() if self._gauge is not None else 0,
            started=self._started,
            ended=boottime(),
            boot_id=self._boot,
            log_bytes=self._log.size,
            log_truncated=self._log.truncated,
            errno=self._refused,
        )


def _signal_group(pid: int, number: int) -> None:
    """To the group of a child we have not waited for. One that became another user's (sudo) is left to SIGKILL."""
    with contextlib.suppress(OSError):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:  # the child has not made its group yet
            os.kill(pid, number)  # never a stranger's: we have not waited for it


def _mib(count: int | None) -> str:
    return f"{(count or 0) / (1 << 20):.1f} MiB"


def _iso(epoch: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(epoch))}.{int(epoch * 1000) % 1000:03d}Z"
