"""Runs a Python job's script inside its own process.

What the script sees is plain Python: its folder is sys.path[0], its name in sys.argv, and SystemExit, threads and
atexit do what they always do. Standard library only, and little of that: every attempt pays for this import. It
also runs in the interpreters of users' own virtual environments, which may be older than slotsched's.
"""

from __future__ import annotations

import os
import sys

from slotsched import job

TYPE_CHECKING = False  # importing typing would cost as much as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType, TracebackType
    from typing import Any

_SIGTERM = 15


def run(script: str, mode: str, dependencies: list[str]) -> None:
    """Execute the script as the job it is. Ends by raising SystemExit, or returns for exit code 0."""
    sys.argv[:] = [script]
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))  # noqa: PTH120 - pathlib would double our cost
    _show_lines_at_once()
    _raise_on_sigterm()
    try:
        if mode == "main":
            _call_main(script)
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


def _show_lines_at_once() -> None:
    """Stdout is a pipe, which Python would fill block by block: a follower would wait, and a kill would lose lines."""
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _raise_on_sigterm() -> None:
    """The first SIGTERM is raised as Cancel in the main thread; later ones do not interrupt the cleaning up."""
    import _signal  # type: ignore[import-not-found]  # what signal wraps in enums that cost 3 ms

    asked = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise job.Cancel("asked to stop")

    _signal.signal(_SIGTERM, stop)


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
