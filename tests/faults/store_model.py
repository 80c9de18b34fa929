"""What must be true of tasks and instances after each write to the store, in plain Python without any concurrency.

Durations are left out: a retry's backoff is nothing, a key's window never closes, what is due later never comes due.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from slotsched.model import TERMINAL, Outcome, Reason, Status

MOST_LOSSES = 3
_ACCEPTED = {"success": {Status.COMPLETED}, "failure": {Status.FAILED}, "any": set(TERMINAL)}


@dataclass
class Claim:
    """A claim that once was; its owner may write under it at any time, long after it is over."""

    task: str
    token: str
    owner: str


@dataclass
class Record:
    """An attempt, as its task remembers it."""

    number: int
    fence: int
    owner: str
    reason: Reason | None = None
    log_left: bool = False  # it has a log that is in no bucket yet


@dataclass
class ModelTask:
    """One task. `retries` is the limit, `retried` whether being lost is one of its reasons."""

    status: Status
    retries: int = 0
    retried: bool = True
    limited: bool = False
    due: bool = True
    key: str | None = None
    args: int = 0
    after: set[str] = field(default_factory=set)
    when: str = "success"
    attempt: int = 0
    fence: int = 0
    claim: Claim | None = None
    cancel: bool | None = None  # asked for; True: as a kill
    losses: int = 0
    reason: Reason | None = None
    ended: str | None = None
    pokes: int = 0
    resolve: bool = False
    records: list[Record] = field(default_factory=list)

    def claimed(self, claim: Claim) -> None:
        self.status, self.claim, self.reason = Status.RUNNING, claim, None
        self.attempt += 1
        self.fence += 1
        self.records.append(Record(self.attempt, self.fence, claim.owner))

    def is_under(self, token: str) -> bool:
        return self.status is Status.RUNNING and self.claim is not None and self.claim.token == token

    def released(self, token: str) -> Status | None:
        if not self.is_under(token):
            return None
        self.claim = None
        self.attempt -= 1
        self.records.pop()
        if self.cancel is None:
            self.status = Status.PENDING
        else:
            self._end(Status.CANCELED, Reason.CANCELED)
        return self.status

    def finished(self, token: str, outcome: Outcome, *, again: bool, log_left: bool) -> Status | None:
        if not self.is_under(token):
            return self.status if self.ended == token else None
        self._close(outcome.reason, log_left)
        self.ended = token
        if outcome.reason is Reason.EXIT and outcome.exit_code == 0:
            self._end(Status.COMPLETED, outcome.reason)
        elif outcome.reason is Reason.CANCELED_BY_JOB:
            self._end(Status.CANCELED, outcome.reason)
        else:
            self._end_or_retry(again)
        return self.status

    def taken(self) -> None:
        self._close(Reason.LOST, log_left=False)
        self._end_or_retry(self.retried and self.attempt <= self.retries)

    def canceled(self, kill: bool) -> bool:
        """Whether it was not too late."""
        if self.status in TERMINAL:
            return False
        if self.status is Status.RUNNING:
            self.cancel = kill or bool(self.cancel)
        else:
            self.cancel = kill
            self._end(Status.CANCELED, Reason.CANCELED)
        return True

    def told(self, ended: dict[str, Status]) -> None:
        """Of how tasks ended that it may wait for."""
        of_these = self.after & set(ended)
        if self.status is not Status.WAITING or not of_these:
            return
        self.after -= of_these
        if any(ended[parent] not in _ACCEPTED[self.when] for parent in of_these):
            self._end(Status.CANCELED, Reason.UPSTREAM)
        elif not self.after:
            self.status = Status.PENDING

    def poked(self) -> None:
        self.pokes += 1
        self.resolve = True

    @property
    def removable(self) -> bool:
        return self.status in TERMINAL and not (self.resolve and self.pokes)

    @property
    def prunable(self) -> bool:
        return self.removable and self.key is None and not any(record.log_left for record in self.records)

    def shown(self) -> dict[str, Any]:
        """What there is of it to compare."""
        return {
            "status": self.status,
            "reason": self.reason,
            "attempt": self.attempt,
            "fence": self.fence,
            "claim": self.claim and (self.claim.owner, self.claim.token),
            "cancel": self.cancel,
            "losses": self.losses,
            "after": self.after,
            "marks": (self.pokes, self.resolve),
            "records": [(one.number, one.fence, one.owner, one.reason) for one in self.records],
        }

    def _close(self, reason: Reason, log_left: bool) -> None:
        self.claim, self.reason = None, reason
        self.losses += reason is Reason.LOST
        self.records[-1].reason, self.records[-1].log_left = reason, log_left

    def _end_or_retry(self, again: bool) -> None:
        assert self.reason is not None
        if self.cancel is not None:
            self._end(Status.CANCELED, Reason.CANCELED)
        elif again and (self.reason is not Reason.LOST or self.losses < MOST_LOSSES):
            self.status, self.due = Status.SCHEDULED, True
        else:
            self._end(Status.FAILED, self.reason)

    def _end(self, status: Status, reason: Reason) -> None:
        self.status, self.reason = status, reason
        self.after = set()
        if self.pokes:
            self.poked()


@dataclass
class ModelInstance:
    """One instance. nonces: those it has sent, the newest last; shown: the one in the store."""

    live: bool = True
    incarnation: int = 1
    shown: str = ""

    def renewed(self, incarnation: int, nonces: Iterable[str], nonce: str) -> bool:
        if not (self.live and self.incarnation == incarnation and self.shown in nonces):
            return False
        self.shown = nonce
        return True

    def resumed(self, incarnation: int, nonce: str) -> bool:
        if self.live:
            self.incarnation, self.shown = max(self.incarnation, incarnation), nonce
        return self.live

    def fenced(self, nonce: str) -> bool:
        if not (self.live and self.shown == nonce):
            return False
        self.live = False
        return True
