"""From a job to its command, environment and files; and what a script may leave in them."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from job_lab import run_job

from slotsched import contract
from slotsched.catalog import Folder
from slotsched.errors import InvalidArguments, InvalidJob
from slotsched.execution import Command, build, parse_progress, read_progress, read_result, read_state_out
from slotsched.model import Facts, Job, Progress

ENVIRON = {
    "PATH": os.environ["PATH"],
    "HOME": "/home/somebody",
    "LANG": "C.UTF-8",
    "TZ": "Europe/Paris",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "SLOTSCHED_MONGODB_URI": "mongodb://user:secret@host",
    "MY_TOKEN": "secret",
}


def job_of(facts: Facts | None = None, **more: Any) -> Job:
    return Job(name="job", hash="0", facts=facts or Facts(), **{"path": Path("/jobs/job.sh"), **more})


def command_of(job: Job, args: dict[str, Any] | None = None, **options: Any) -> Command:
    identity = {contract.ENV_ID: "a" * 24, contract.ENV_FENCE: "3"}
    return build(job, io=Path("/run/io"), args=args or {}, identity=identity, **{"environ": ENVIRON, **options})


# --- what is executed -------------------------------------------------------------------------------


def test_a_script_is_executed_itself_and_a_command_as_it_stands() -> None:
    assert command_of(job_of()).argv == ["/jobs/job.sh"]
    assert command_of(job_of(Facts(command=("rsync", "-a")), path=None)).argv == ["rsync", "-a"]


def test_a_python_file_runs_by_the_scheduler_python_unless_something_names_another(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    python = job_of(path=script, function=True)
    assert command_of(python).argv[0] == sys.executable
    assert command_of(python).argv[2:] == [str(script), "main"]
    assert command_of(python, python="/bin/sh").argv[0] == "/bin/sh"
    own = tmp_path / "venv" / "python"
    own.parent.mkdir()
    own.symlink_to(sys.executable)
    named = job_of(Facts(python="venv/python"), path=script)
    assert command_of(named, python="/bin/sh").argv[0] == str(own)
    assert command_of(job_of(Facts(python="sh"), path=script)).argv[0].endswith("/sh")


@pytest.mark.parametrize("python", ["/nowhere/python", "no-such-python-anywhere"])
def test_an_interpreter_that_is_not_there_is_said_before_anything_starts(python: str) -> None:
    with pytest.raises(InvalidJob, match=f"there is no Python interpreter at {python}"):
        command_of(job_of(Facts(python=python), path=Path("/jobs/job.py")))


def test_with_uv_a_job_with_dependencies_is_prepared_first(tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    environ = {**ENVIRON, "PATH": str(tmp_path), "UV_INDEX_URL": "https://index", "HTTPS_PROXY": "http://proxy"}
    job = job_of(Facts(dependencies=("pillow",)), path=Path("/jobs/job.py"), function=True)
    command = command_of(job, environ=environ)
    assert command.argv[0] == sys.executable
    assert command.argv[4:6] == [str(uv), "UV_INDEX_URL,HTTPS_PROXY"]
    assert command.argv[-2:] == ["/jobs/job.py", "main"]
    assert command.env["UV_INDEX_URL"] == "https://index"
    plain = command_of(job_of(path=Path("/jobs/job.py"), function=True), environ=environ)
    assert "UV_INDEX_URL" not in plain.env


# --- the environment --------------------------------------------------------------------------------


def test_a_script_sees_no_secret_of_the_scheduler() -> None:
    env = command_of(job_of(), {"x": 1}).env
    assert "secret" not in json.dumps(env)
    assert {name for name in env if name in ENVIRON} == {"PATH", "HOME", "LANG", "TZ"}


def test_what_is_passed_by_name_and_by_the_env_fact_is_there() -> None:
    env = command_of(job_of(Facts(env={"HOME": "/elsewhere", "A": "b"})), pass_env=["MY_TOKEN", "ABSENT"]).env
    assert (env["HOME"], env["A"], env["MY_TOKEN"]) == ("/elsewhere", "b", "secret")
    assert "ABSENT" not in env


def test_arguments_are_variables() -> None:
    args = {
        "name": "a b",
        "dry-run": True,
        "n": 3,
        "day": "2026-01-02",
        "list": [1, "é"],
        "map": {"k": 1},
        "none": None,
    }
    env = command_of(job_of(), args).env
    assert {name: value for name, value in env.items() if name.startswith("ARG_")} == {
        "ARG_NAME": "a b",
        "ARG_DRY_RUN": "true",
        "ARG_N": "3",
        "ARG_DAY": "2026-01-02",
        "ARG_LIST": '[1, "é"]',
        "ARG_MAP": '{"k": 1}',
    }


def test_an_argument_too_long_for_the_environment_is_only_in_the_file() -> None:
    env = command_of(job_of(), {"big": "x" * 200_000, "small": "y"}).env
    assert "ARG_BIG" not in env
    assert env["ARG_SMALL"] == "y"


def test_a_function_gets_no_variables_of_its_arguments() -> None:
    env = command_of(job_of(path=Path("/jobs/job.py"), function=True), {"a": 1}).env
    assert not [name for name in env if name.startswith("ARG_")]


def test_clashes_of_names_are_errors() -> None:
    with pytest.raises(InvalidArguments, match="would both be ARG_A_B"):
        command_of(job_of(), {"a-b": 1, "a_b": 2})
    with pytest.raises(InvalidArguments, match="env sets ARG_A"):
        command_of(job_of(Facts(env={"ARG_A": "x"})), {"a": 1})


def test_the_trace_is_one_per_task_and_the_span_one_per_claim() -> None:
    parents = [
        build(job_of(), io=Path("/io"), args={}, identity={contract.ENV_ID: task, contract.ENV_FENCE: fence}).env[
            "TRACEPARENT"
        ]
        for task, fence in (("a", "1"), ("a", "2"), ("b", "1"))
    ]
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", parent) for parent in parents)
    traces = [parent.split("-")[1] for parent in parents]
    spans = [parent.split("-")[2] for parent in parents]
    assert traces[0] == traces[1] != traces[2]
    assert len(set(spans)) == 3


# --- real scripts -----------------------------------------------------------------------------------


def test_a_shell_job_gets_its_arguments_and_gives_progress_and_result(tmp_path: Path) -> None:
    script = tmp_path / "dump.sh"
    script.write_text(
        """#!/bin/sh
# /// script
# [tool.slotsched.args]
# database = "str"
# keep = { type = "int", default = 7 }
# ///
echo "$ARG_DATABASE $ARG_KEEP"; pwd; cat "$SLOTSCHED_TASK_ARGS"
echo "0.1 dumping" > "$SLOTSCHED_TASK_PROGRESS"
printf '{"dumps": %d}' 3 > "$SLOTSCHED_TASK_RESULT"
echo '{"at": 1}' > "$SLOTSCHED_TASK_STATE_OUT"
echo "with a pipe of its own" >&2
exit 100
"""
    )
    script.chmod(0o755)
    ran = run_job(tmp_path, "dump", {"database": "shop"}, environ=ENVIRON)
    lines = ran.stdout.splitlines()
    assert lines[0] == "shop 7"
    assert lines[1].endswith("/work")
    assert json.loads(lines[2]) == {"database": "shop", "keep": 7}
    assert (ran.code, ran.result, ran.state) == (100, {"dumps": 3}, {"at": 1})
    assert ran.progress == Progress(fraction=0.1, message="dumping")
    assert ran.stderr == "with a pipe of its own\n"


def test_state_travels_from_one_run_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "count.py").write_text(
        "from slotsched import task\ndef main():\n    n = (task.state() or 0) + 1\n    task.state(n)\n    return n\n"
    )
    first = run_job(tmp_path, "count")
    assert (first.result, first.state) == (1, 1)
    assert run_job(tmp_path, "count", state=first.state).result == 2


def test_a_job_whose_file_is_a_link_within_the_folder_runs(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "job.py").write_text("def main():\n    return __file__\n")
    (tmp_path / "job.py").symlink_to(".data/job.py")
    assert run_job(tmp_path, "job").result == str(tmp_path / "job.py")
    assert Folder(tmp_path).fresh("job").path == tmp_path / "job.py"


# --- what a script may leave behind -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("0.38 12.png", Progress(fraction=0.38, message="12.png")),
        ("38% 12.png", Progress(fraction=0.38, message="12.png")),
        ("1", Progress(fraction=1.0)),
        ("12 of 40", Progress(message="12 of 40")),
        ("? 1 of 40", Progress(message="1 of 40")),
        ("? ", Progress()),
        ("?? what", Progress(message="?? what")),
        ("? " + "x" * 9000, Progress(message="x" * 500)),
        ("nan x", Progress(message="nan x")),
        ("-0.5", Progress(message="-0.5")),
        ("x" * 9000, Progress(message="x" * 500)),
    ],
)
def test_progress_lines(line: str, progress: Progress) -> None:
    assert parse_progress(line) == progress


def test_the_last_line_of_the_progress_file_counts(tmp_path: Path) -> None:
    path = tmp_path / contract.IO_PROGRESS
    assert read_progress(tmp_path) is None
    path.write_text("")
    assert read_progress(tmp_path) is None
    path.write_bytes(b"0.1 a\n" * 10_000 + b"0.5 \xff\0b\n\n")
    assert read_progress(tmp_path) == Progress(fraction=0.5, message="\ufffdb")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"hello", "the result is not JSON: "),
        (b"\xff", "the result is not JSON: "),
        (b'"' + b"x" * (1 << 20) + b'"', "the result is more than 1 MiB"),
        (b"[" * 100_000, "the result is not JSON: "),
        (b"[" * 60 + b"]" * 60, "the result cannot be stored: "),
        (b"NaN", "the result cannot be stored: "),
        (b'{"a": 99999999999999999999}', "the result cannot be stored: a: a whole number of more than 64 bits"),
        (b'"\\ud800"', "the result cannot be stored: "),
    ],
)
def test_a_result_that_cannot_be_stored_is_said_in_words(tmp_path: Path, data: bytes, complaint: str) -> None:
    (tmp_path / contract.IO_RESULT).write_bytes(data)
    value, said = read_result(tmp_path)
    assert value is None
    assert said is not None
    assert said.startswith(complaint)


def test_a_result_is_read_as_json_and_an_empty_file_is_none(tmp_path: Path) -> None:
    (tmp_path / contract.IO_RESULT).write_text(' {"$where": 1} \n')
    assert read_result(tmp_path) == ({"$where": 1}, None)
    (tmp_path / contract.IO_RESULT).write_text("")
    assert read_result(tmp_path) == (None, None)
    assert read_state_out(tmp_path) is None


def test_neither_links_nor_pipes_nor_folders_in_the_io_folder_are_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('"secret"')
    (tmp_path / contract.IO_RESULT).symlink_to(secret)
    os.mkfifo(tmp_path / contract.IO_PROGRESS)
    (tmp_path / contract.IO_STATE_OUT).mkdir()
    assert read_result(tmp_path) == (None, None)
    assert read_progress(tmp_path) is None
    assert read_state_out(tmp_path) is None
    assert stat.S_ISFIFO((tmp_path / contract.IO_PROGRESS).stat().st_mode)
