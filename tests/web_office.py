"""What the attacks on the web face share: something to attack, and how a refusal is told from anything else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
import pymongo
import pytest
from fleet import Fleet, FleetMaker
from web_user import Answer, Web, serving

from slotsched import contract

QUICK_SECONDS = 3.0  # for a refusal, on a busy machine
STORED = ("tasks", "schedules", "tokens")  # what a request could change

JOB = """# /// script
# [tool.slotsched]
# max_time = "30s"
# ///
def main(word: str = "", count: int = 0, items: list | None = None) -> None:
    print("a" * 40_000 + "b")
    print("a" * 60)
    print('{"level":30,"time":1,"msg":"half a pair \\\\ud800"}')
"""


def everything(database: Any) -> dict[str, list[bytes]]:
    """What is stored, byte for byte."""
    return {name: [bson.encode(one) for one in database[name].find().sort("_id", 1)] for name in STORED}


def not_refused(answers: Mapping[str, Answer], *allowed: int) -> list[str]:
    """The requests that were answered in another way, too late, or not to the end."""
    return [
        f"{asked[:120]} -> {answer.status} in {answer.seconds:.1f} s: {answer.body[:200]!r}"
        for asked, answer in answers.items()
        if answer.status not in allowed or answer.seconds > QUICK_SECONDS or not answer.whole
    ]


def slowest(answers: Iterable[Answer]) -> float:
    return max(answer.seconds for answer in answers)


@dataclass
class Office:
    """A fleet, its web face, and the database itself."""

    fleet: Fleet
    web: Web
    database: Any

    def later(self) -> str:
        """The id of a task that nothing but a request changes."""
        return self.fleet.client.enqueue("lines", {"word": "secret word"}, in_="1h").id

    def status(self, task: str) -> str | None:
        """As stored; None for a task that is gone."""
        found = self.database.tasks.find_one({"_id": bson.ObjectId(task)}, {"status": 1})
        return None if found is None else str(found["status"])


@pytest.fixture(scope="module")
def hostile_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "lines.py").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def attacked(
    make_fleet: FleetMaker, mongo_client: pymongo.MongoClient[dict[str, Any]], hostile_jobs: Path
) -> Iterator[Office]:
    """Without any token: whoever can connect is let in, so nothing but the request's form can refuse it."""
    with make_fleet(jobs=hostile_jobs) as fleet, serving(fleet, log_level="trace") as web:
        yield Office(fleet, web, mongo_client[fleet.settings["database"]])
        assert web.process.poll() is None
        unexpected = [line for line in web.log() if line["level"] >= contract.LEVEL_ERROR]
        assert unexpected == [], "errors that the web face did not expect"


@pytest.fixture(scope="module")
def logged_task(attacked: Office) -> str:
    """A task that has ended, with a log."""
    attacked.fleet.start("here", slots=2)
    task = attacked.fleet.client.enqueue("lines", {}).id
    attacked.fleet.client.wait([task], 30)
    return task
