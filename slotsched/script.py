"""Runs a Python job's script inside its own process.

What the script sees is plain Python: its folder is sys.path[0], its name in sys.argv, and SystemExit, threads and
atexit do what they always do. Standard library only, and little of that: every attempt pays for this import. It
also runs in the interpreters of users' own virtual environments, which may be older than slotsched's.
"""

from __future__ import annotations

import os
import sys

from slotsched import contract, job

TYPE_CHECKING = False  # importing typing would cost as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType, TracebackType
    from typing import Any

_SIGINT, _SIGTERM = 2, 15
_STOP_MESSAGE = "asked to stop"


def run(script: str, mode: str, dependencies: list[str]) -> None:
    """Execute the script as the job it is. Ends by raising SystemExit, or returns for exit code 0."""
    sys.argv[:] = [script]
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))  # noqa: PTH120 - pathlib would double our cost
    _show_lines_at_once()
    stop = _Stop()
    stop.install()
    try:
        if mode == "main":
            _call_main(script)
        else:
            _execute(script, "__main__")
    except job.Cancel as cancel:
        _say_canceled(str(cancel))
        raise
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, the user sees their own frames only
        if stop.caused(error):
            _say_canceled(_STOP_MESSAGE)
            sys.exit(contract.SCRIPT_CANCELED)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(contract.EXIT_INTERRUPTED)
        _report(error, dependencies)
        sys.exit(1)


def _say_canceled(why: str) -> None:
    job.log.warn(f"canceled: {why}" if why else "canceled")


def _show_lines_at_once() -> None:
    """Stdout is a pipe, which Python would fill block by block: a follower would wait, and a kill would lose lines."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


class _Stop:
    """SIGTERM's handler: the first is raised as Cancel in the main thread, later ones do not interrupt cleaning up.

    Within asyncio nothing may be raised between two steps of its loop, where a step would be lost and the loop wait
    for it for ever. There it is passed on as Ctrl-C, which asyncio.run turns into a cancellation of the main task.
    """

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        import _signal  # type: ignore[import-not-found]  # what signal wraps in enums that cost 3 ms

        _signal.signal(_SIGTERM, self)
        os.register_at_fork(after_in_child=self._uninstall)

    def _uninstall(self) -> None:
        """A forked child dies of SIGTERM like any other: multiprocessing ends its workers that way."""
        import _signal

        if _signal.getsignal(_SIGTERM) is self:
            _signal.signal(_SIGTERM, _signal.SIG_DFL)

    def __call__(self, _number: int, frame: FrameType | None) -> None:
        import _signal

        if self.asked:
            return
        self.asked = True
        interrupt = _signal.getsignal(_SIGINT)
        if callable(interrupt) and _in_event_loop():
            interrupt(_SIGINT, frame)
        else:
            raise job.Cancel(_STOP_MESSAGE)

    def caused(self, error: BaseException) -> bool:
        return self.asked and (isinstance(error, KeyboardInterrupt) or type(error).__name__ == "CancelledError")


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _execute(script: str, name: str) -> ModuleType:
    """Run the file's code as a module of that name. Compiled anew: a cached one may be of an older text."""
    module = type(sys)(name)
    module.__file__ = script
    sys.modules[name] = module
    with open(script, "rb") as file:  # noqa: PTH123 - pathlib would double our cost
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - running the script is the point
    return module


def _call_main(script: str) -> None:
    main = _execute(script, _module_name(script)).main
    value = _call(main, dict(job.task.args))
    if type(value).__name__ == "coroutine":
        import asyncio

        value = asyncio.run(value)
    if value is not None:
        _give_result(value)


def _give_result(value: Any) -> None:
    try:
        job.task.result(value)
    except (TypeError, ValueError) as error:
        sys.stderr.write(f"slotsched: main returned something that cannot be stored: {error}\n")
        sys.exit(1)


def _module_name(script: str) -> str:
    """The file's own name, so that what it defines can be pickled; not `__main__`, whose guard would run it twice."""
    stem = script.rpartition("/")[2].rpartition(".")[0]
    return f"job_{stem}" if stem in sys.modules or stem in _standard_modules() else stem


def _standard_modules() -> frozenset[str]:
    return getattr(sys, "stdlib_module_names", frozenset())  # absent before Python 3.10


def _call(main: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Call with names, but positional-only parameters by position."""
    plain = main
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    code: Any = getattr(plain, "__code__", None)
    count = code.co_posonlyargcount if code else 0
    if not count:
        return main(**args)
    defaults = plain.__defaults__ or ()
    first_default = code.co_argcount - len(defaults)
    positional = []
    for index, name in enumerate(code.co_varnames[:count]):
        if name not in args and index < first_default:
            break  # main itself says what is missing
        positional.append(args.pop(name) if name in args else defaults[index - first_default])
    return main(*positional, **args)


def _report(error: BaseException, dependencies: list[str]) -> None:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    if isinstance(error, ModuleNotFoundError) and dependencies:
        listed = " ".join(dependencies)
        sys.stderr.write(
            "slotsched: the script's header lists dependencies that this Python does not have. Either install them:\n"
            f"  {sys.executable} -m pip install {listed}\n"
            "or install uv beside the scheduler (pip install uv): then each job gets an environment of its own.\n"
        )
