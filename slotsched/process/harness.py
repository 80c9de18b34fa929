"""Runs a Python job inside its own process: `python harness.py SCRIPT main|script [DEPENDENCY ...]`.

Started as a file, by whatever interpreter the job names, so it must not need slotsched to be installed there: a
finder makes this one package importable and nothing else of the place it is in. Only the standard library, and
little of that: its start is paid by every attempt.

What a script sees is plain Python: its folder is sys.path[0], SystemExit, threads and atexit do what they always do.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing would double this module's start
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType
    from typing import Any

_PROCESS = __file__.rpartition("/")[0]
_PACKAGE = _PROCESS.rpartition("/")[0]
_COROUTINE_TYPE = "coroutine"
_SIGTERM = 15


class SlotschedFinder:
    """Finds the package `slotsched` where this file is, for an interpreter that does not have it installed."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG003 - the protocol's
        if name != "slotsched":
            return None
        from _frozen_importlib_external import PathFinder

        return PathFinder.find_spec(name, [_PACKAGE.rpartition("/")[0]])


# At import, not in main(): a child started by multiprocessing imports this file under another name.
if not any(getattr(finder, "__name__", "") == SlotschedFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, SlotschedFinder)


def run(script: str, mode: str, dependencies: list[str]) -> None:
    """Execute the script as the job it is. Ends by raising SystemExit, or returns for exit code 0."""
    import os

    from slotsched import job

    _take_place(script, os.path.realpath(script))
    _show_lines_at_once()
    _on_sigterm(job.Cancel)
    try:
        if mode == "main":
            _call_main(script, job)
        else:
            _execute(script, "__main__")
    except job.Cancel as cancel:
        job.log.warn(f"canceled: {cancel}" if str(cancel) else "canceled")
        raise
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the user sees their own frames only
        _report(error, dependencies)
        sys.exit(1)


def _take_place(script: str, real: str) -> None:
    """Make argv and path what they would be had Python started the script itself."""
    sys.argv[:] = [script]
    folder = real.rpartition("/")[0]
    if sys.path and sys.path[0] == _PROCESS:
        sys.path[0] = folder
    else:
        sys.path.insert(0, folder)


def _show_lines_at_once() -> None:
    """Stdout is a pipe, which Python would fill block by block: a follower would wait, and a kill would lose lines."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _on_sigterm(cancel: type[BaseException]) -> None:
    import _signal  # without the enums of signal

    def stop(number: int, frame: object) -> None:  # noqa: ARG001 - a signal handler's parameters
        _signal.signal(_SIGTERM, _signal.SIG_IGN)  # cleaning up is not interrupted by a second one
        raise cancel("asked to stop")

    _signal.signal(_SIGTERM, stop)


def _execute(script: str, name: str) -> ModuleType:
    """Run the file's code as a module of that name. Compiled anew: a cached one may be of an older text."""
    module = type(sys)(name)
    module.__file__ = script
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    sys.modules[name] = module
    with open(script, "rb") as file:  # noqa: PTH123 - pathlib costs more than this whole file
        code = compile(file.read(), script, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102 - running the script is the point
    return module


def _call_main(script: str, job: ModuleType) -> None:
    main = _execute(script, _module_name(script)).main
    value = _call(main, dict(job.task.args))
    if type(value).__name__ == _COROUTINE_TYPE:
        import asyncio

        value = asyncio.run(value)
    if value is not None:
        job.task.result(value)


def _module_name(script: str) -> str:
    """The file's own name, so that what it defines can be pickled; not `__main__`, whose guard would run it twice."""
    stem = script.rpartition("/")[2].removesuffix(".py")
    return f"job_{stem}" if stem in sys.stdlib_module_names else stem


def _call(main: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Call with names, but positional-only parameters by position."""
    plain = main
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    code = getattr(plain, "__code__", None)
    count = code.co_posonlyargcount if code else 0
    if not count:
        return main(**args)
    names = code.co_varnames[:count]
    defaults = dict(zip(reversed(code.co_varnames[: code.co_argcount]), reversed(plain.__defaults__ or ())))
    positional = [args.pop(name) if name in args else defaults[name] for name in names]
    return main(*positional, **args)


def _report(error: BaseException, dependencies: list[str]) -> None:
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    if isinstance(error, ModuleNotFoundError) and dependencies:
        listed = " ".join(dependencies)
        sys.stderr.write(
            f"slotsched: the header lists dependencies ({listed}), but they are not installed for {sys.executable}.\n"
            f"Install uv beside the scheduler (pip install uv), and each job gets an environment of its own; "
            f"or: {sys.executable} -m pip install {listed}\n"
        )


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], sys.argv[3:])
