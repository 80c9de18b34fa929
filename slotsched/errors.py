"""Every error slotsched raises on purpose. A message says what happened and what to do next.

Each class carries the exit code the command line ends with, so that the faces decide nothing.
"""

from __future__ import annotations

from slotsched import contract


class SlotschedError(Exception):
    """The base of every error raised on purpose."""

    exit_code = contract.EXIT_FAILED


class UsageError(SlotschedError):
    """Raised when what was asked for is malformed: a bad value, option or combination."""

    exit_code = contract.EXIT_USAGE


class InvalidArguments(UsageError):
    """Raised when a task's arguments do not fit its job's parameters, or cannot be stored."""


class InvalidBatch(UsageError):
    """Raised when a request of many is malformed; none was stored. problems: (1-based position, sentence)."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__(f"{len(problems)} refused, nothing stored; first: line {problems[0][0]}: {problems[0][1]}")
        self.problems = problems


class InvalidRecurrence(UsageError):
    """Raised when a cron, an interval, a moment or a time zone cannot be used; the message points at the place."""


class InvalidSettings(UsageError):
    """Raised when a setting has an unknown name or a value that cannot be used."""


class InvalidJob(SlotschedError):
    """Raised when a job file cannot be used; the message begins with `file:line:`."""


class NotFound(SlotschedError):
    """Raised when nothing has the given name or id, or more than one thing has it."""

    exit_code = contract.EXIT_NOT_FOUND


class Ambiguous(NotFound):
    """Raised when an abbreviated id fits more than one task."""


class StoreError(SlotschedError):
    """The base of what goes wrong between slotsched and MongoDB."""

    exit_code = contract.EXIT_STORE_UNREACHABLE


class StoreUnreachable(StoreError):
    """Raised when MongoDB did not answer in time; the operation's effect is unknown, and it may be tried again."""


class StoreUnsuitable(StoreError):
    """Raised when MongoDB answers but cannot be used: standalone, too old, credentials refused."""


class InvalidDocument(StoreError):
    """Raised when the server refuses a write for good (too large, invalid): repeating it cannot help."""

    exit_code = contract.EXIT_USAGE


class Refused(SlotschedError):
    """Raised when the thing exists but is in a status that does not allow the operation."""

    exit_code = contract.EXIT_REFUSED


class KeyConflict(Refused):
    """Raised when an idempotency key is taken by a task with other arguments."""


class ArchiveError(SlotschedError):
    """The base of what goes wrong between slotsched and the log store; always worth another try later."""


class ObjectMissing(ArchiveError):
    """Raised when the log store has no object of that key."""


class ProcessError(SlotschedError):
    """The base of what goes wrong while starting or ending processes."""


class AlreadyRunning(ProcessError):
    """Raised when another scheduler holds the state directory."""

    exit_code = contract.EXIT_REFUSED


class EmbeddedUnavailable(SlotschedError):
    """Raised when no usable mongod is found, or the one found does not start."""


class WaitTimeout(SlotschedError):
    """Raised when `--timeout` ran out; the task goes on."""

    exit_code = contract.EXIT_TIMEOUT
