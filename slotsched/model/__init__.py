"""The domain's types: frozen, keyword-only, leaves of the import tree."""

from slotsched.model.instance import Instance
from slotsched.model.job import Broken, Facts, Job, Parameter, job_from_document, job_to_document
from slotsched.model.needs import Capacity, Lane, Needs
from slotsched.model.task import (
    OPEN,
    TERMINAL,
    UNIQUES,
    WHENS,
    Attempt,
    Cancel,
    InstanceRef,
    LogRef,
    Outcome,
    Progress,
    Reason,
    Reservation,
    RetryPolicy,
    Status,
    Task,
    TaskRequest,
)

__all__ = [
    "OPEN",
    "TERMINAL",
    "UNIQUES",
    "WHENS",
    "Attempt",
    "Broken",
    "Cancel",
    "Capacity",
    "Facts",
    "Instance",
    "InstanceRef",
    "Job",
    "Lane",
    "LogRef",
    "Needs",
    "Outcome",
    "Parameter",
    "Progress",
    "Reason",
    "Reservation",
    "RetryPolicy",
    "Status",
    "Task",
    "TaskRequest",
    "job_from_document",
    "job_to_document",
]
