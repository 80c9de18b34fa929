"""An instance, as its document in the store shows it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slotsched.model.needs import Capacity


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One scheduler on one state directory. `id` lives through restarts within one boot.

    lease, grace: seconds; used: slots held by `running` tasks; nonce: the newest one acknowledged by the store.
    free: what was left at the last renewal, None before the first.
    """

    id: str
    name: str
    host: str
    pid: int
    boot_id: str
    incarnation: int
    nonce: str
    live: bool
    draining: bool
    capacity: Capacity
    used: int
    running: int = 0
    lease: float
    grace: float
    started_at: dt.datetime
    renewed_at: dt.datetime
    version: str
    containment: Mapping[str, Any] = field(default_factory=dict)
    free: Capacity | None = None
    hindrance: str | None = None  # why it claims nothing now although it is up, for people
    keeps_for: str | None = None  # the id of the task that it keeps free slots for
    slots_wanted: int | None = None  # `instance slots NAME N`: what the instance should offer from now on
