"""Who may use the web face: a token, and a browser's session that was opened with one."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Token:
    """A bearer token, without its secret: that is shown once, when it is made.

    name: whom it stands for, the owner of the tasks it enqueues. read_only: it may look, and change nothing.
    expires_at: None = never.
    """

    name: str
    read_only: bool
    created_at: dt.datetime
    expires_at: dt.datetime | None = None
