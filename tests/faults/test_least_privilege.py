"""SECURITY.md's roles and policies: each is enough for what it is for, and for nothing else.

A real mongod with authentication takes the very documents that stand there; what the product asks of a bucket is
recorded on the wire and compared with the policies.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pymongo
import pytest
from fault_proxy import fault_proxy
from fleet import JOBS, Fleet, FleetMaker, fleet, until
from pymongo import errors as driver
from s3_servers import S3Server
from security_document import actions, documents
from web_user import serving

from slotsched import contract
from slotsched.embedded import find_mongod

DATABASE = "slotsched"  # as in the document
PASSWORD = secrets.token_hex(8)

# Between fork and exec: a test run that is killed leaves no server behind. 1 is PR_SET_PDEATHSIG.
TIE = "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGKILL); os.execv(sys.argv[1], sys.argv[1:])"

RUNNER = """
import json, sys
from slotsched.cli.app import run
for words in json.load(sys.stdin):
    code = run(words)
    sys.stdout.flush(); sys.stderr.flush()
    print(f"\\n@@@ {code}", flush=True)
"""


@dataclass
class Locked:
    """A mongod that asks for a user, with the document's roles; users are named like what they are for."""

    port: int
    admin: pymongo.MongoClient[dict[str, Any]]
    fleet: Fleet

    def uri(self, user: str, password: str = PASSWORD) -> str:
        return f"mongodb://{user}:{password}@127.0.0.1:{self.port}/?replicaSet=rs0&authSource={DATABASE}"

    def cli(self, user: str, *commands: Sequence[str]) -> list[tuple[int, str]]:
        """Exit code and words of each command, all in one process."""
        uri = self.uri(user) if user else f"mongodb://127.0.0.1:{self.port}/?replicaSet=rs0"
        done = subprocess.run(
            [sys.executable, "-c", RUNNER],
            env=self.fleet.environment(
                SLOTSCHED_MONGODB_URI=uri, SLOTSCHED_STATE_DIR=str(self.fleet.folder / "state-cli")
            ),
            cwd=self.fleet.folder,
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
        found = re.findall(r"(.*?)\n@@@ (\d+)\n", done.stdout, re.DOTALL)
        assert len(found) == len(commands), done.stdout
        return [(int(code), said.strip()) for said, code in found]

    def ok(self, user: str, *commands: Sequence[str]) -> list[str]:
        answers = self.cli(user, *commands)
        assert [code for code, _ in answers] == [0] * len(commands), answers
        return [said for _, said in answers]

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        """All that commands could change; instances renew by themselves."""
        database = self.admin[DATABASE]
        return {name: list(database[name].find().sort("_id")) for name in ("tasks", "schedules", "jobs", "tokens")}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    folder = tmp_path_factory.mktemp("locked")
    with ExitStack() as stack:
        port = stack.enter_context(_mongod(folder))
        uri = f"mongodb://admin:{PASSWORD}@127.0.0.1:{port}/?directConnection=true"
        admin = stack.enter_context(pymongo.MongoClient[dict[str, Any]](uri))
        for role in documents("createRole"):
            admin[DATABASE].command(role)
        (user,) = documents("createUser")
        roles = {"scheduler": "slotschedScheduler", "program": "slotschedEnqueue", "reader": "slotschedRead"}
        assert user["roles"] == [roles[user["createUser"]]]
        for name, role in {**roles, "setup": "readWrite"}.items():
            admin[DATABASE].command(user | {"createUser": name, "pwd": PASSWORD, "roles": [role]})
        settings = {
            "mongodb_uri": Locked(port, admin, None).uri("scheduler"),  # type: ignore[arg-type]
            "database": DATABASE,
            "jobs_dir": str(JOBS),
            "log_store": str(folder / "logs"),
            "lease": "4s",
            "grace": "1s",
        }
        yield Locked(port, admin, stack.enter_context(fleet(folder, settings)))


def _mongod(folder: Path) -> Any:
    """A replica set of one with a keyfile and one administrator; its port."""
    from contextlib import contextmanager

    @contextmanager
    def started() -> Iterator[int]:
        binary = find_mongod(folder / "lib")
        (folder / "data").mkdir()
        key = folder / "key"
        key.write_text(base64.b64encode(secrets.token_bytes(96)).decode())
        key.chmod(0o400)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [str(binary.path), "--dbpath", folder / "data", "--port", port, "--bind_ip", "127.0.0.1"]
        command += ["--replSet", "rs0", "--keyFile", key, "--auth", "--nounixsocket", "--quiet"]
        command += ["--wiredTigerCacheSizeGB", 0.25, "--oplogSize", 16, "--logpath", folder / "mongod.log"]
        command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        with subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", TIE, *map(str, command)],
            env={**os.environ, **binary.environment},
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                _initiate(port)
                yield port
            finally:
                process.kill()

    return started()


def _initiate(port: int) -> None:
    """From this machine, before there is any user, mongod lets the first one be made."""
    with pymongo.MongoClient[dict[str, Any]](
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=30_000
    ) as client:
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]})
        until(lambda: client.admin.command("hello")["isWritablePrimary"], seconds=30, what="a primary")
        client.admin.command({"createUser": "admin", "pwd": PASSWORD, "roles": ["root"]})


LACKING = "this user may not create indexes, and tasks lacks"


def test_each_role_is_enough_for_what_it_is_for(locked: Locked) -> None:
    """In order: nobody has made the indexes, somebody has, an instance works, a program enqueues, a person looks."""
    for user, command in (
        ("scheduler", ["enqueue", "work"]),
        ("program", ["enqueue", "work"]),
        ("reader", ["db", "init"]),
    ):
        ((code, said),) = locked.cli(user, command)
        assert (code, LACKING in said, "slotsched db init" in said) == (contract.EXIT_STORE_UNREACHABLE, True, True), (
            said
        )
    assert locked.ok("setup", ["db", "init"])[0].endswith("ready")

    instance = locked.fleet.start("locked", slots=4)
    task, twin, there = locked.ok(
        "program",
        ["enqueue", "work", "--wait", "out=said"],
        ["enqueue", "work", "--key", "once"],
        ["enqueue", "work", "--key", "once"],
    )
    task = task.split()[0]
    assert twin == there
    later, followed, _, fired = locked.ok(
        "scheduler",
        ["enqueue", "work", "--in", "1h"],
        ["enqueue", "work", "--after", "@last", "--when", "any"],
        ["cancel", "@last"],
        ["schedule", "add", "work", "--name", "soon", "--every", "1s"],
    )
    assert "soon" in fired
    until(
        lambda: locked.admin[DATABASE].tasks.count_documents({"schedule": "soon", "status": "completed"}), what="a fire"
    )
    locked.ok("scheduler", ["cancel", later], ["retry", later], ["schedule", "rm", "soon"], ["db", "prune"], ["doctor"])
    until(lambda: locked.fleet.client.get(task).attempts[-1].log.uploaded, what="the upload")
    shown = locked.ok(
        "reader",
        *(["ps", "-a"], ["task", "show", task], ["why", followed], ["logs", task], ["instance", "ls"]),
        *(["schedule", "ls"], ["db", "stats"], ["job", "ls"]),
    )
    assert "said" in shown[3]
    until(lambda: any(line["msg"] == "up" for line in instance.log()))
    troubles = [line for line in instance.log() if line["level"] >= contract.LEVEL_WARN]
    assert troubles == []
    assert "change streams on" in locked.ok("scheduler", ["doctor"])[0]


REFUSED = {
    "reader": {
        ("enqueue", "work"): "insert in slotsched.tasks",
        ("cancel", "TASK"): "findAndModify in slotsched.tasks",
        ("task", "rm", "TASK"): "delete in slotsched.tasks",
        ("instance", "drain", "locked"): "findAndModify in slotsched.instances",
        ("job", "disable", "work"): "in slotsched.jobs",
        ("db", "prune"): "in slotsched.",
        ("token", "add", "eve"): "insert in slotsched.tokens",
        ("token", "rm", "ann", "--yes"): "delete in slotsched.tokens",
    },
    "program": {
        ("cancel", "TASK"): "findAndModify in slotsched.tasks",
        ("task", "rm", "TASK"): "delete in slotsched.tasks",
        ("instance", "drain", "locked"): "findAndModify in slotsched.instances",
        ("schedule", "add", "work", "--every", "1h"): "in slotsched.schedules",
        ("enqueue", "work", "--after", "TASK"): "update in slotsched.tasks",
        ("schedule", "ls"): "find in slotsched.schedules",
        ("token", "ls"): "find in slotsched.tokens",
        ("token", "add", "eve"): "insert in slotsched.tokens",
        ("token", "rm", "ann"): "find in slotsched.tokens",
    },
}


@pytest.mark.parametrize("user", REFUSED)
def test_a_role_is_refused_the_others_acts_by_name_and_changes_nothing(locked: Locked, user: str) -> None:
    locked.ok("setup", ["db", "init"])
    if not locked.fleet.instances:  # alone, without the test before
        locked.fleet.start("locked", slots=4)
    (task,) = locked.ok("scheduler", ["enqueue", "work", "--in", "1h"])
    locked.cli("scheduler", ["token", "add", "ann"])  # where it is not there yet
    commands = [[task if word == "TASK" else word for word in words] for words in REFUSED[user]]
    before = locked.everything()
    answers = locked.cli(user, *commands)
    for words, (code, said) in zip(REFUSED[user], answers, strict=True):
        assert code == contract.EXIT_STORE_UNREACHABLE, (words, said)
        assert f"mongodb://{user}:***@127.0.0.1:{locked.port} does not let this user do this: " in said, (words, said)
        assert REFUSED[user][words] in said, (words, said)
        assert "role" in said
        assert PASSWORD not in said
    assert locked.everything() == before


def test_the_web_face_gets_by_with_the_schedulers_role(locked: Locked) -> None:
    """A person signs in, looks, cancels and signs out; a program enqueues, and removes what ended."""
    locked.ok("setup", ["db", "init"])
    everything, looks = locked.ok("scheduler", ["token", "add", "web"], ["token", "add", "looks", "--read-only"])
    with serving(locked.fleet) as web:
        task = web.call("POST", "/tasks", everything, {"job": "work", "in": "1h"}).json["id"]
        assert task in {one["id"] for one in web.call("GET", "/tasks", looks).json}
        cookie = {"Cookie": web.sign_in(everything)}
        page = web.get(f"/tasks/{task}", cookie)
        assert page.status == 200
        canceled = web.form(f"/tasks/{task}/cancel", {"form_key": page.form_key}, cookie)
        assert (canceled.status, canceled.headers["location"]) == (303, f"/tasks/{task}")
        assert web.call("DELETE", f"/tasks/{task}", everything).status == 204
        assert web.form("/sign-out", {"form_key": page.form_key}, cookie).status == 303
        assert web.get("/tasks", cookie).status == 303
        assert [line for line in web.log() if line["level"] >= contract.LEVEL_WARN] == []
        assert web.stop() == 0
    locked.ok("scheduler", ["token", "rm", "web"], ["token", "rm", "looks", "--yes"])


def test_a_user_is_asked_for_and_a_wrong_password_is_said(locked: Locked) -> None:
    ((code, said),) = locked.cli("", ["ps"])
    assert (code, "mongodb_uri" in said) == (contract.EXIT_STORE_UNREACHABLE, True), said
    done = locked.fleet.cli("ps", "--mongodb-uri", locked.uri("reader", "wrong"), check=False)
    assert "refused the credentials" in done.stderr
    assert "wrong" not in done.stderr


def test_the_roles_keep_to_the_database(locked: Locked) -> None:
    with pymongo.MongoClient[dict[str, Any]](locked.uri("scheduler")) as client:
        client[DATABASE].tasks.find_one()
        for act in (client.other.tasks.find_one, client.admin.system.users.find_one, client[DATABASE].tasks.drop):
            with pytest.raises(driver.OperationFailure, match="not authorized"):
                act()


# --- the bucket -------------------------------------------------------------------------------------

# What a request is called in a policy. HEAD needs the right to read.
_ACTIONS = (
    (r"PUT /(?P<bucket>[^/?]+)/(?P<key>[^?]+)", "s3:PutObject"),
    (r"(?:GET|HEAD) /(?P<bucket>[^/?]+)/(?P<key>[^?]+)", "s3:GetObject"),
    (r"DELETE /(?P<bucket>[^/?]+)/(?P<key>[^?]+)", "s3:DeleteObject"),
    (r"POST /(?P<bucket>[^/?]+)\?delete", "s3:DeleteObject"),
    (r"GET /(?P<bucket>[^/?]+)\?list-type=2", "s3:ListBucket"),
)


def asked(requests: list[str], prefix: str) -> set[tuple[str, str]]:
    """The (action, resource) pairs that the requests need; keys beyond the prefix stand for themselves."""
    found = set()
    for request in requests:
        action, match = next((name, m) for pattern, name in _ACTIONS if (m := re.match(pattern, request)))
        key = match.groupdict().get("key")
        if action == "s3:ListBucket":
            found.add((action, "arn:aws:s3:::BUCKET"))
        else:
            found.add(
                (action, f"arn:aws:s3:::BUCKET/{prefix}/*" if key is None or key.startswith(f"{prefix}/") else key)
            )
    return found


def test_the_bucket_is_asked_for_exactly_what_the_policies_allow(moto_s3: S3Server, make_fleet: FleetMaker) -> None:
    """An upload, an outage's read-back, the doctor's probe and pruning; then a reader."""
    for_instances, for_readers = (actions(policy) for policy in documents("Version"))
    bucket = moto_s3.new_bucket()
    client = bucket.client()
    old = f"{bucket.prefix}/2020/01/01/65f0c0ffee00000000000001/1.ndjson.gz"
    client.put_object(Bucket=bucket.name, Key=old, Body=b"")
    with fault_proxy(bucket.endpoint) as proxy, make_fleet(replace(bucket, endpoint=proxy.endpoint)) as made:
        instance = made.start("uploader", slots=1)
        task = made.client.enqueue("work").id
        made.client.wait([task], 20)
        until(lambda: not list((instance.state_dir / "runs").iterdir()), what="the upload")
        made.cli("doctor", check=False)
        made.cli("db", "prune")
        assert old not in bucket.objects()
        assert asked(proxy.requests, bucket.prefix) == for_instances

        proxy.requests.clear()
        assert "hello from work" in made.cli("logs", task).stdout
        assert asked(proxy.requests, bucket.prefix) == for_readers
    client.close()


def test_a_request_beyond_the_policy_would_be_seen() -> None:
    assert asked(["PUT /b/elsewhere/x", "GET /b?list-type=2&prefix=logs"], "logs") == {
        ("s3:PutObject", "elsewhere/x"),
        ("s3:ListBucket", "arn:aws:s3:::BUCKET"),
    }
