"""The command tree, and how every command ends: with one of the exit codes of the contract, never with a traceback
for what can be said in a sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from slotsched import contract
from slotsched.cli.render import say
from slotsched.cli.session import Session
from slotsched.cli.tree import build
from slotsched.errors import SlotschedError

PROGRAM = "slotsched"
EXIT_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended


def run(args: Sequence[str]) -> int:
    """Run one command line; the exit code of the process."""
    root = build()
    if "_SLOTSCHED_COMPLETE" in os.environ:
        from slotsched.cli.completion import answer

        return answer(root, args)
    session = Session()
    try:
        code = _ending(lambda: _invoke(root, list(args), session))
        return code or _flush()
    finally:
        session.close()
        _forget_what_was_not_heard()


def _invoke(root: TyperGroup, args: list[str], session: Session) -> int:
    try:
        with root.make_context(PROGRAM, args, obj=session) as context:
            root.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    return contract.EXIT_OK


def _ending(invoke: Callable[[], int]) -> int:
    """The exit code of a command, with a sentence on stderr for every error that is one."""
    try:
        return invoke()
    except SlotschedError as error:
        say(str(error))
        return error.exit_code
    except typer.Abort:
        return contract.EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return contract.EXIT_INTERRUPTED
    except OSError as error:
        return _lost_answer(error)
    except TyperException as error:
        return _usage(error)


def _usage(error: TyperException) -> int:
    """Say what is wrong with the words given, and where the right ones are listed."""
    say(error.format_message())
    context = getattr(error, "ctx", None)
    if context is not None:
        say(f"Try: {context.command_path} --help")
    return contract.EXIT_USAGE


def _flush() -> int:
    """Write out what is buffered while a failure can still be answered in a sentence."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _lost_answer(error)
    return contract.EXIT_OK


def _lost_answer(error: OSError) -> int:
    """A file or stdout that cannot be used. What is left in the buffer goes nowhere, without a word at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # nobody reads any more, and wants no word about it
        return EXIT_BROKEN_PIPE
    say(f"{error.filename or 'the answer cannot be written'}: {error.strerror or error}")
    return contract.EXIT_FAILED


def _forget_what_was_not_heard() -> None:
    """What could not be said on stderr, whose terminal may be gone, must not change the exit code."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def open_closed_streams() -> None:
    """`<&-` and `>&-` leave no stream at all: then nothing is to be read, and what is written goes nowhere."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - as below
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
