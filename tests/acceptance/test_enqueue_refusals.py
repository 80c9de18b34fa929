"""What enqueue refuses: in one clear sentence, with the right exit code, and with nothing stored.

F25: arguments that are not what they seem. F26: job names that lead out of the jobs folder.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson import ObjectId
from figures import Figures
from fleet import JOBS, Fleet, FleetMaker, until

from slotsched.client import Client

Mongo = pymongo.MongoClient[dict[str, Any]]
USAGE, NOT_FOUND, REFUSED = 2, 3, 5


@pytest.fixture(scope="module")
def quiet(make_fleet: FleetMaker) -> Iterator[Fleet]:
    """No instance at all: what is enqueued here stays."""
    with make_fleet() as made:
        yield made


def stored(fleet: Fleet, mongo_client: Mongo) -> int:
    return mongo_client[fleet.settings["database"]]["tasks"].count_documents({})


def refused(fleet: Fleet, mongo_client: Mongo, *words: str, stdin: str | None = None) -> tuple[int, str]:
    """The exit code and the sentence of a command that must store nothing."""
    before = stored(fleet, mongo_client)
    done = fleet.cli(*words, check=False, stdin=stdin)
    assert stored(fleet, mongo_client) == before
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


# --- one sentence each ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mistake:
    """What `enqueue` is given, and what it must end with and say."""

    words: tuple[str, ...]
    said: str
    code: int = USAGE
    stdin: str | None = None


def unstorable(args: str, said: str) -> Mistake:
    return Mistake(("anything", "--args", "-"), said, stdin=args)


MISTAKES = {
    "at and in": Mistake(("work", "--at", "03:15", "--in", "5m"), "--at and --in exclude each other"),
    "neither job nor lines": Mistake((), "name the job, or give --from-jsonl FILE"),
    "timeout of nothing": Mistake(("work", "--timeout", "3s"), "--timeout needs --wait or --follow"),
    "slots 0": Mistake(("work", "--slots", "0"), "slots: 0 is not a whole number of at least 1"),
    "slots -4": Mistake(("work", "--slots", "-4"), "slots: -4 is not a whole number of at least 1"),
    "unknown job": Mistake(("wrok",), 'Did you mean "work"?', NOT_FOUND),
    "unknown argument": Mistake(("work", "secnds=3"), 'work has no argument "secnds"'),
    "bad argument": Mistake(("work", "seconds=soon"), 'seconds: "soon" is not a number'),
    "missing argument": Mistake(("deaf",), "deaf needs mark="),
    "not JSON": Mistake(("work", "--args", "{seconds: 3}"), "--args: not JSON"),
    "no JSON object": Mistake(("work", "--args", "[3]"), "--args: not a JSON object"),
    "max time 0": Mistake(("work", "--max-time", "0"), "max_time: must be more than 0"),
    "no duration": Mistake(("work", "--in", "soon"), "soon"),
    "NUL": unstorable('{"text": "a\\u0000b"}', "NUL"),
    "NUL in a name": unstorable('{"a\\u0000b": 1}', "NUL"),
    "lone surrogate": unstorable('{"text": "\\ud800"}', "surrogate"),
    "2**63": unstorable('{"deep": {"number": 9223372036854775808}}', "64 bits"),
    "NaN": unstorable('{"number": NaN}', "finite"),
    "17 MB": unstorable('{"big": "' + 17 * 1024 * 1024 * "x" + '"}', "1 MiB"),
    "5000 brackets": unstorable("[" * 5000 + "]" * 5000, "--args"),
    "400 levels": unstorable('{"deep": ' + "[" * 400 + "]" * 400 + "}", "nested"),
}


@dataclass(frozen=True)
class Answers:
    """How each mistake was answered, and how many tasks the store held before and after all of them."""

    by_name: dict[str, subprocess.CompletedProcess[str]]
    before: int
    after: int


@pytest.fixture(scope="module")
def answers(quiet: Fleet, mongo_client: Mongo) -> Answers:
    """Asked for side by side: a command costs half a second of a core."""

    def ask(mistake: Mistake) -> subprocess.CompletedProcess[str]:
        return quiet.cli("enqueue", *mistake.words, check=False, stdin=mistake.stdin)

    before = stored(quiet, mongo_client)
    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(MISTAKES, pool.map(ask, MISTAKES.values()), strict=True))
    return Answers(found, before, stored(quiet, mongo_client))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_in_one_sentence(answers: Answers, name: str) -> None:
    mistake, answer = MISTAKES[name], answers.by_name[name]
    sentence = answer.stderr.strip()

    assert (answer.returncode, answer.stdout) == (mistake.code, "")
    assert len(sentence.splitlines()) == 1, sentence[:500]
    assert mistake.said in sentence
    assert len(sentence) < 300
    assert answers.after == answers.before, "nothing was stored"


UNSTORABLE = [name for name, mistake in MISTAKES.items() if mistake.words[0:1] == ("anything",)]


def test_what_cannot_be_stored_is_one_clear_error_each(answers: Answers, figure: Figures) -> None:
    figure("F25", "arguments that cannot be stored, each one clear error", len(UNSTORABLE), "")
    figure("F25", "tasks stored by them", answers.after - answers.before, "", exactly=0)
    said = {answers.by_name[name].stderr for name in UNSTORABLE}
    assert len(said) == len(UNSTORABLE), "each says what is wrong with it"


# --- keys -------------------------------------------------------------------------------------------


def test_a_key_given_twice_is_one_task(quiet: Fleet, mongo_client: Mongo) -> None:
    before = stored(quiet, mongo_client)
    first = quiet.cli("enqueue", "work", "seconds=1", "--key", "once").stdout
    second = quiet.cli("enqueue", "work", "seconds=1", "--key", "once").stdout

    assert first == second
    assert stored(quiet, mongo_client) == before + 1


def test_a_key_with_other_arguments_is_refused(quiet: Fleet, mongo_client: Mongo) -> None:
    quiet.cli("enqueue", "work", "seconds=1", "--key", "other")
    code, sentence = refused(quiet, mongo_client, "enqueue", "work", "seconds=2", "--key", "other")

    assert code == REFUSED
    assert "other" in sentence


def test_racers_with_one_key_on_a_fresh_database_get_one_task(make_fleet: FleetMaker, mongo_client: Mongo) -> None:
    """Fresh: no instance was ever up on it, so enqueue itself has to make sure that keys are unique."""
    with make_fleet() as fleet:

        def enqueue(_: int) -> str:
            with Client(fleet.settings["mongodb_uri"], database=fleet.settings["database"], jobs_dir=str(JOBS)) as one:
                return one.enqueue("work", key="race").id

        with ThreadPoolExecutor(12) as racers:
            ids = set(racers.map(enqueue, range(12)))

        assert len(ids) == 1
        assert stored(fleet, mongo_client) == 1


# --- many at once -----------------------------------------------------------------------------------


def test_ten_thousand_lines_are_stored_or_every_bad_one_is_named(
    make_fleet: FleetMaker, mongo_client: Mongo, tmp_path: Path
) -> None:
    with make_fleet() as fleet:
        good = [json.dumps({"job": "work", "args": {"seconds": number / 1000}}) for number in range(10_000)]
        bad = list(good)
        bad[1] = "{not json"
        bad[4999] = json.dumps({"job": "wrok"})
        bad[7000] = json.dumps({"job": "work", "args": {"seconds": "soon"}})
        bad[9999] = json.dumps({"job": "work", "slots": 0})
        source = tmp_path / "tasks.jsonl"

        source.write_text("\n".join(bad))
        code, report = refused(fleet, mongo_client, "enqueue", "--from-jsonl", str(source))
        assert code == USAGE
        named = [line.split(":")[0] for line in report.splitlines() if line.startswith("line ")]
        assert named == ["line 2", "line 5000", "line 7001", "line 10000"]
        assert report.splitlines()[-1] == "4 of 10000 lines refused, nothing was stored"

        source.write_text("\n".join(good))
        ids = fleet.cli("enqueue", "--from-jsonl", str(source)).stdout.split()
        assert len(set(ids)) == 10_000
        in_store = mongo_client[fleet.settings["database"]]["tasks"].find({}, {"args": 1})
        assert {str(task["_id"]): task["args"]["seconds"] for task in in_store} == {
            task_id: number / 1000 for number, task_id in enumerate(ids)
        }


# --- arguments that are not what they seem ----------------------------------------------------------

OPERATORS = {
    "$where": "sleep(10000)",
    "$set": {"status": "completed"},
    "a.b.c": {"$gt": ""},
    "": "an empty name",
    "$$NOW": ["$job", "$$ROOT", {"$ne": None}],
    "plain": "$status",
}


def test_operators_and_dots_in_arguments_are_stored_and_read_as_data(shared: Fleet, figure: Figures) -> None:
    task = shared.cli("enqueue", "anything", "--args", json.dumps(OPERATORS)).stdout.strip()
    ended = shared.client.wait([task], 20)[0]

    assert (ended.status, ended.message) == ("completed", None)
    assert ended.result == {"given": OPERATORS}
    assert shared.task(task)["args"] == OPERATORS
    figure("F25", "arguments with operators, dots and no name, stored and read as data", len(OPERATORS), "")


# --- job names that are paths -----------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A script that nobody put into the jobs folder; it leaves a mark if it is ever run."""
    script = tmp_path / "outside.py"
    script.write_text(f"# /// script\n# [tool.slotsched]\n# ///\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    return script


def test_names_that_lead_out_of_the_folder_are_refused_at_enqueue(
    make_fleet: FleetMaker, mongo_client: Mongo, tmp_path: Path, outside: Path, figure: Figures
) -> None:
    jobs = copied_jobs(tmp_path / "jobs")
    (jobs / "linked.py").symlink_to(outside)
    names = [
        "../outside",
        str(outside.with_suffix("")),
        "/etc/passwd",
        "work\0",
        ".",
        "..",
        "sub/../work",
        "linked",
        "",
    ]
    lines = "\n".join(json.dumps({"job": name}) for name in names)
    with make_fleet(jobs=jobs) as fleet:
        code, report = refused(fleet, mongo_client, "enqueue", "--from-jsonl", "-", stdin=lines)

        assert code == USAGE
        *sentences, summary = report.splitlines()
        assert [line.split(":")[0] for line in sentences] == [f"line {number}" for number in range(1, len(names) + 1)]
        assert summary == f"{len(names)} of {len(names)} lines refused, nothing was stored"
        figure("F26", "names that lead out of the jobs folder, refused at enqueue", len(names), "")
    assert not (tmp_path / "ran").exists()


def test_a_name_that_leads_out_of_the_folder_is_never_started(
    make_fleet: FleetMaker, mongo_client: Mongo, tmp_path: Path, outside: Path, figure: Figures
) -> None:
    """Put into the queue behind the back of enqueue: a well-formed document, and one whose lane names another job."""
    jobs = copied_jobs(tmp_path / "jobs")
    with make_fleet(jobs=jobs) as fleet:
        fleet.start("strict", slots=8)
        names = ["../outside", str(outside.with_suffix("")), "sub/../../outside", "work\0"]
        good = fleet.client.request("work")
        honest = [fleet.client.submit(replace(good, job=name)).id for name in names[:3]]
        tasks = mongo_client[fleet.settings["database"]]["tasks"]
        template = tasks.find_one({"_id": ObjectId(honest[0])})
        assert template is not None
        lane = template["lane"].replace("../outside", "work")
        forged = [template | {"_id": ObjectId(), "rid": "f", "job": name, "lane": lane} for name in names]
        tasks.insert_many(forged)

        for document in forged:
            ended = fleet.client.wait([str(document["_id"])], 20)[0]
            assert ended.status == "failed"
            assert ended.reason in ("not_started", "invalid")
            assert ended.message
        for task in honest:
            assert fleet.client.get(task).status == "pending"
            assert "is on no instance that is up" in fleet.client.why(task)
        assert fleet.client.wait([fleet.client.enqueue("work").id], 20)[0].status == "completed"
        figure("F26", "the same put into the queue by hand, refused at start", len(forged) + len(honest), "")
    figure("F26", "of them run", int((tmp_path / "ran").exists()), "", exactly=0)


def test_a_script_that_became_a_link_out_of_the_folder_is_refused_at_start(
    make_fleet: FleetMaker, tmp_path: Path, outside: Path
) -> None:
    """Linked between the scan and the claim: what enqueue and the scan saw was a good file."""
    jobs = copied_jobs(tmp_path / "jobs")
    with make_fleet(jobs=jobs) as fleet:
        fleet.start("strict")
        request = fleet.client.request("work")
        (jobs / "link").symlink_to(outside)
        (jobs / "link").rename(jobs / "work.py")
        task = fleet.client.submit(request).id

        def verdict() -> str | None:
            """Claimed before the next scan it fails; scanned first it waits. Both are a refusal, with the reason."""
            found = fleet.client.get(task)
            if found.status == "failed":
                assert found.reason == "not_started"
                return found.message
            return why if "broken" in (why := fleet.client.why(task)) else None

        assert "symbolic link that leads out of the jobs folder" in until(verdict)
    assert not (tmp_path / "ran").exists()


def copied_jobs(folder: Path) -> Path:
    folder.mkdir()
    for name in ("work.py", "_witness.py"):
        (folder / name).write_text((JOBS / name).read_text())
    return folder
