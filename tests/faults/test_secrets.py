"""F35 and what SECURITY.md promises about secrets: in environments, in /proc, in files, in messages.

The job looks wherever a job can look, as the scheduler's own user and as another one.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pymongo
import pytest
from figures import Figures
from fleet import Fleet, FleetMaker, fleet, until
from security_document import blocks

from slotsched.embedded import Mongod

SECRETS = {
    "AWS_ACCESS_KEY_ID": "sesame-0-" + secrets.token_hex(8),
    "AWS_SECRET_ACCESS_KEY": "sesame-1-" + secrets.token_hex(8),
    "AWS_SESSION_TOKEN": "sesame-2-" + secrets.token_hex(8),
    "DATABASE_URL": "sesame-3-" + secrets.token_hex(8),
    "SLOTSCHED_S3_REGION": "sesame-4-" + secrets.token_hex(8),
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")

# Tells which of the files given as arguments it can read, and what /proc shows of others.
PRY = """#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "20s"
# user = "nobody"
# args = { paths = "list" }
# ///
id -un
find "$ROOT" -type f 2>/dev/null | while read -r path; do
  if head -c 1 "$path" >/dev/null 2>&1; then echo "read $path"; fi
done
for path in $PATHS; do
  if head -c 1 "$path" >/dev/null 2>&1; then echo "read $path"; else echo "closed $path"; fi
done
cat /proc/[0-9]*/environ 2>/dev/null | base64 -w0
"""


def test_a_secret_in_what_is_passed_on_would_be_found(fleet: Fleet) -> None:
    """The search of tests/acceptance/test_nasty_tasks.py finds what there is: TZ is among what every job gets."""
    fleet.start("giver", environ={**SECRETS, "TZ": SECRETS["DATABASE_URL"]})
    ended = fleet.client.wait([fleet.enqueue("snoop")], 20)[0]
    assert SECRETS["DATABASE_URL"] in json.dumps(ended.result)
    assert SECRETS["AWS_SECRET_ACCESS_KEY"] not in json.dumps(ended.result)


def test_no_log_and_no_message_holds_a_password(make_fleet: FleetMaker) -> None:
    """Of a store that cannot be reached, whose URI has one."""
    with make_fleet(mongodb_uri="mongodb://ann:sesame-9@127.0.0.1:9/?replicaSet=rs0", store_timeout="1s") as made:
        instance = made.start("lonely", wait=False, log_level="debug")
        done = made.cli("ps", check=False)
        assert "mongodb://ann:***@127.0.0.1:9" in done.stderr
        while not any(line["msg"] == "waiting for the store" for line in instance.log()):
            assert instance.process.poll() is None
        shown = made.cli("config", "show", check=False)
        assert "sesame-9" not in done.stdout + done.stderr + instance.output.read_text() + shown.stdout + shown.stderr


# --- files ------------------------------------------------------------------------------------------


@pytest.fixture
def open_place(mongod: Mongod, mongo_client: pymongo.MongoClient[dict[str, object]]) -> Iterator[tuple[Fleet, Path]]:
    """A fleet in a folder that any user may pass through, unlike pytest's; and its folder of jobs."""
    with tempfile.TemporaryDirectory(prefix="slotsched-open-") as text:
        folder = Path(text)
        folder.chmod(0o711)
        jobs = folder / "jobs"
        jobs.mkdir(mode=0o755)
        jobs.chmod(0o755)
        database = f"test_{secrets.token_hex(6)}"
        settings = {"mongodb_uri": mongod.uri, "database": database, "jobs_dir": str(jobs)}
        settings |= {"log_store": str(folder / "logs"), "lease": "4s", "grace": "1s"}
        try:
            with fleet(folder, settings, jobs) as made:
                made.start("open", slots=4)
                yield made, jobs
        finally:
            mongo_client.drop_database(database)


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


@needs_root
def test_a_job_of_another_user_reads_nothing_of_its_neighbours_or_the_scheduler(
    open_place: tuple[Fleet, Path], figure: Figures
) -> None:
    """It is told every path there is: arguments, specs, logs and results of others, the lock, the configuration."""
    fleet, jobs = open_place
    config = fleet.folder / "slotsched.toml"
    config.write_text("# mongodb_uri = sesame\n")
    config.chmod(0o600)
    script(
        jobs, "neighbour.sh", "#!/bin/sh\n# /// script\n# [tool.slotsched]\n# ///\necho said; echo 1 > r; sleep 60\n"
    )
    script(jobs, "same.sh", '#!/bin/sh\n# /// script\n# [tool.slotsched]\n# user = "daemon"\n# ///\nsleep 60\n')
    instance = fleet.instances[0]
    others = [fleet.client.enqueue(job, {}).id for job in ("neighbour", "same")]
    for other in others:
        _until_logged(fleet, other)
    targets = [path for path in fleet.folder.rglob("*") if path.is_file() and jobs not in path.parents]
    names = {path.name for path in targets if instance.state_dir in path.parents}
    assert {"args.json", "spec.json", "log.ndjson", "claim.json", "instance.json"} <= names, names
    pry = PRY.replace('"$ROOT"', f"'{instance.state_dir}'").replace("$PATHS", " ".join(f"'{path}'" for path in targets))
    script(jobs, "pry.sh", pry.replace('# args = { paths = "list" }\n', ""))
    task = fleet.client.enqueue("pry").id
    ended = fleet.client.wait([task], 30)[0]
    assert (ended.status, ended.message) == ("completed", None)

    said = fleet.cli("logs", task, "--raw", "--stream", "stdout").stdout.splitlines()
    assert said[0] == "nobody"
    assert sum(line.startswith("closed ") for line in said) > 8
    public = {"instance.json", "open.log", "witness.ndjson"}
    read = [line for line in said if line.startswith("read ") and Path(line[5:]).name not in public]
    figure("F35", "files of others that a job of another user could read", len(read), "", exactly=0)
    environments = base64.b64decode(said[-1]).split(b"\0")
    assert any(f"SLOTSCHED_TASK_ID={task}".encode() in line for line in environments), "it could not even look"
    assert not any(other.encode() in b"".join(environments) for other in others)
    for other in others:
        fleet.client.store.tasks.cancel(other, by="the test", kill=True)


def _until_logged(fleet: Fleet, task: str) -> None:
    state = fleet.instances[0].state_dir
    until(lambda: list((state / "runs").glob(f"{task}-*/log.ndjson")), what=f"the log of {task}")


@needs_root
def test_the_job_of_the_security_document_runs_as_its_user(open_place: tuple[Fleet, Path]) -> None:
    fleet, jobs = open_place
    (text,) = [block for block in blocks("sh") if block.startswith("#!")]
    script(jobs, "other.sh", text)
    task = fleet.client.enqueue("other").id
    assert fleet.client.wait([task], 20)[0].status == "completed"
    assert fleet.cli("logs", task, "--raw").stdout == "nobody\n"


def test_the_files_of_the_security_document_are_private(tmp_path: Path) -> None:
    """Its commands as they stand, for this user and in a folder of the test's."""
    (commands,) = [block for block in blocks("sh") if "install" in block]
    commands = commands.replace("-o slotsched", f"-o {os.geteuid()}").replace("/var/lib/", "").replace("/etc/", "etc/")
    (tmp_path / "etc").mkdir()
    (tmp_path / "slotsched.toml").write_text('database = "other"\n')
    commands = commands.replace(" slotsched\n", " state\n")
    subprocess.run(["sh", "-ec", commands], cwd=tmp_path, check=True, timeout=10)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o711
    assert stat.S_IMODE((tmp_path / "etc" / "slotsched.toml").stat().st_mode) == 0o600


def test_the_state_directory_is_its_users_alone(open_place: tuple[Fleet, Path]) -> None:
    """Folders may be passed through at most, files are 0600, but for the instance's public id."""
    fleet, jobs = open_place
    state = fleet.instances[0].state_dir
    script(jobs, "quiet.sh", "#!/bin/sh\n# /// script\n# [tool.slotsched]\n# ///\necho said; sleep 60\n")
    task = fleet.client.enqueue("quiet").id
    _until_logged(fleet, task)
    odd = {}
    for path in (state, *state.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        allowed = 0o711 if path.is_dir() else 0o644 if path.name == "instance.json" else 0o600
        within = {"io", "work"} & set(path.relative_to(state).parts[:-1])  # folders that are closed themselves
        if mode & ~allowed and not within:
            odd[str(path.relative_to(state))] = oct(mode)
    assert odd == {}
    fleet.client.store.tasks.cancel(task, by="the test", kill=True)
