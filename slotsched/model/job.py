"""A job: a script plus its facts, as read from its header and its signature; and its form as a published document."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from slotsched.model.limits import Rate
from slotsched.model.needs import Needs
from slotsched.model.task import RetryPolicy


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One argument of a job.

    type: `str int float bool path date datetime list dict any`, or `choice` (then `choices` holds the values).
    default: as JSON; None also stands for a default that only running the file could tell.
    item: the items' type of a list, the values' type of a dict; None = any JSON value.
    """

    name: str
    type: str = "str"
    required: bool = True
    default: Any = None
    nullable: bool = False
    item: str | None = None
    choices: tuple[Any, ...] = ()
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`[tool.slotsched]` of a job file, parsed. Times are seconds, memory bytes."""

    slots: int = 1
    memory: int | None = None
    resources: Mapping[str, int] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    exclusive: bool = False
    concurrency: int | None = None  # how many tasks of the job run at once in the whole fleet,
    concurrency_key: str | None = None  # or how many with the same value of this argument
    rate: Rate | None = None
    memory_retry_factor: float | None = None  # what a retry after reason memory has the memory need multiplied by
    max_time: float = 3600.0
    grace: float = 10.0
    priority: float = 0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    workdir: str | None = None
    python: str | None = None
    command: tuple[str, ...] | None = None
    keep: float | None = None
    enabled: bool = True
    description: str = ""
    tags: tuple[str, ...] = ()
    unique: str | None = None  # "pending" or "running": see TaskRequest
    user_namespace: bool = True  # False: setuid programs keep working, containment is weaker without root
    dependencies: tuple[str, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)  # facts about when it runs, and who is told of its ends

    @property
    def needs(self) -> Needs:
        return Needs(
            slots=self.slots,
            memory=self.memory,
            resources=self.resources,
            tags=self.requires,
            exclusive=self.exclusive,
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A readable job file. hash: hex SHA-256 of the script's and the sidecar's bytes.

    path: the script, None for a sidecar with `command`. function: whether a top-level `main` is to be called.
    parameters: None where the job takes any arguments unchecked (a plain command without declared args).
    """

    name: str
    hash: str
    facts: Facts
    path: Path | None = None
    function: bool = False
    parameters: tuple[Parameter, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A job file that cannot be used, and why. path: from the jobs folder; line: 1 and up, None = the whole file."""

    name: str
    path: str
    line: int | None
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line or 1}: {self.message}"


def storable_text(text: str) -> str:
    """The text as UTF-8 can hold it: half a surrogate pair, as of a file's name in another encoding, becomes `?`."""
    return text.encode("utf-8", "replace").decode()


def job_to_document(job: Job | Broken) -> dict[str, Any]:
    """Plain values that JSON and BSON can hold; names of resources and variables may be any key."""
    document = asdict(job)
    document["broken"] = isinstance(job, Broken)
    if isinstance(job, Job):
        document["path"] = None if job.path is None else os.fsencode(job.path).decode("utf-8", "replace")
    plain: dict[str, Any] = _plain(document)
    return plain


def job_from_document(document: Mapping[str, Any]) -> Job | Broken:
    """The inverse. Keys of newer versions are ignored. Raises ValueError for a document that no slotsched wrote."""
    try:
        if document.get("broken"):
            return Broken(**_known(Broken, document))
        values = _known(Job, document)
        values["facts"] = _facts(document["facts"])
        if values.get("path") is not None:
            values["path"] = Path(values["path"])
        if values.get("parameters") is not None:
            values["parameters"] = tuple(_parameter(item) for item in values["parameters"])
        return Job(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the document of a job: {error}") from error


def _facts(document: Mapping[str, Any]) -> Facts:
    values = _known(Facts, document)
    values["retry"] = RetryPolicy(**_tuples(_known(RetryPolicy, document["retry"]), "on"))
    if values.get("rate") is not None:
        values["rate"] = Rate(**_known(Rate, values["rate"]))
    return Facts(**_tuples(values, "requires", "command", "tags", "dependencies"))


def _parameter(document: Mapping[str, Any]) -> Parameter:
    return Parameter(**_tuples(_known(Parameter, document), "choices"))


def _known(kind: type[Any], document: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in document.items() if key in names}


def _tuples(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return values | {name: tuple(values[name]) for name in names if values.get(name) is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return storable_text(value) if isinstance(value, str) else value
