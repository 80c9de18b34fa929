"""When something recurs: crons, intervals and single moments, in time zones. Pure: values in, values out, no clock.

Every recurrence answers the same questions (see `Recurrence`): the fire after a moment, the one before it, those
between two moments, and what it says in plain words. Moments are aware datetimes; answers are aware, UTC, and whole
milliseconds, so that a fire survives a document store unchanged and the one after it is always later.

What clocks that are put forward and back do to a cron is decided in `cron`; `notes` tells it to people.
"""

from slotsched.recurrence.cron import Cron, parse_cron
from slotsched.recurrence.interface import Recurrence
from slotsched.recurrence.interval import MIN_PERIOD_SECONDS, Interval, parse_every
from slotsched.recurrence.notes import Note, notes
from slotsched.recurrence.once import Once, parse_once
from slotsched.recurrence.zones import Zone, find_zone

__all__ = [
    "MIN_PERIOD_SECONDS",
    "Cron",
    "Interval",
    "Note",
    "Once",
    "Recurrence",
    "Zone",
    "find_zone",
    "notes",
    "parse_cron",
    "parse_every",
    "parse_once",
]
