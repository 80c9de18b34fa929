"""slotsched: job scripts in resource slots on machines of different sizes.

Scripts import `task`, `log` and `Cancel`; programs import `Client`. Both load on first use, so that a job
process never pays for the database driver.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing typing would triple what a job process pays for us
if TYPE_CHECKING:
    from typing import Any

    from slotsched.client import Client
    from slotsched.job import Cancel, log, task

__version__ = "0.1.0"
__all__ = ["Cancel", "Client", "__version__", "log", "task"]


def __getattr__(name: str) -> Any:
    if name in ("task", "log", "Cancel"):
        from slotsched import job

        return getattr(job, name)
    if name == "Client":
        from slotsched.client import Client

        return Client
    raise AttributeError(f"module 'slotsched' has no attribute {name!r}")
