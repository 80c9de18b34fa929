"""The jobs folder: what is a job, what is broken, what is ignored, and that nothing in it can hurt."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slotsched.catalog import Folder, Scan, check_scan, new_job
from slotsched.catalog import folder as folder_module
from slotsched.errors import InvalidJob, NotFound, UsageError
from slotsched.model import Broken, job_from_document, job_to_document

SHELL = "#!/bin/sh\n# /// script\n# [tool.slotsched]\n# slots = 2\n# ///\ntrue\n"
MAIN = "def main(n: int = 1): ...\n"
SIDECAR = "[tool.slotsched]\nslots = 3\n"
Write = Callable[..., Path]


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    folder.mkdir()
    return folder


@pytest.fixture
def write(jobs: Path) -> Write:
    def put(name: str, text: str | bytes = "", *, x: bool = False) -> Path:
        path = jobs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o755 if x else 0o644)
        return path

    return put


def scan(jobs: Path) -> Scan:
    return Folder(jobs).scan()


def broken(jobs: Path) -> dict[str, str]:
    return {name: str(problem) for name, problem in scan(jobs).broken.items()}


# --- what is a job ----------------------------------------------------------------------------------


def test_a_python_file_with_a_main_is_a_job_that_is_called(jobs: Path, write: Write) -> None:
    path = write("hello.py", f'"""Say hello."""\n{MAIN}')
    job = scan(jobs).jobs["hello"]
    assert (job.function, job.path, job.facts.description) == (True, path, "Say hello.")
    assert [p.name for p in job.parameters or ()] == ["n"]
    assert job.hash == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_python_file_with_a_block_and_no_main_is_a_plain_command(jobs: Path, write: Write) -> None:
    write("plain.py", "# /// script\n# dependencies = ['x']\n# [tool.slotsched]\n# slots = 5\n# ///\nprint(1)\n")
    job = scan(jobs).jobs["plain"]
    assert (job.function, job.parameters, job.facts.slots, job.facts.dependencies) == (False, None, 5, ("x",))


def test_a_main_with_a_foreign_block_keeps_its_dependencies(jobs: Path, write: Write) -> None:
    write("uses.py", f"# /// script\n# dependencies = ['x']\n# ///\n{MAIN}")
    assert scan(jobs).jobs["uses"].facts.dependencies == ("x",)


def test_an_executable_with_a_block_is_a_job_and_declares_its_arguments(jobs: Path, write: Write) -> None:
    write("dump.sh", SHELL.replace("# ///\ntrue", "# [tool.slotsched.args]\n# database = 'str'\n# ///\ntrue"), x=True)
    job = scan(jobs).jobs["dump"]
    assert (job.facts.slots, [p.name for p in job.parameters or ()]) == (2, ["database"])


def test_an_executable_with_a_sidecar_is_a_job_hashed_over_both(jobs: Path, write: Write) -> None:
    program = write("tool", b"\x7fELF\0\1", x=True)
    sidecar = write("tool.toml", SIDECAR)
    job = scan(jobs).jobs["tool"]
    assert (job.path, job.facts.slots) == (program, 3)
    assert job.hash == hashlib.sha256(program.read_bytes() + sidecar.read_bytes()).hexdigest()


def test_a_sidecar_alone_needs_a_command(jobs: Path, write: Write) -> None:
    write("sync.toml", '[tool.slotsched]\ncommand = ["rsync", "-a"]\n')
    write("near.toml", '[tool.slotsched]\ncommand = ["./bin/x"]\n')
    write("empty.toml", SIDECAR)
    found = scan(jobs)
    assert found.jobs["sync"].facts.command == ("rsync", "-a")
    assert found.jobs["sync"].path is None
    assert found.jobs["near"].facts.command == (str(jobs / "bin/x"),)
    assert str(found.broken["empty"]) == "empty.toml:1: no command, and no executable file beside it"


def test_sub_folders_are_part_of_the_name(jobs: Path, write: Write) -> None:
    write("reports/daily.py", MAIN)
    assert set(scan(jobs).jobs) == {"reports/daily"}
    assert Folder(jobs).fresh("reports/daily").name == "reports/daily"


@pytest.mark.parametrize(
    ("name", "text", "x"),
    [
        ("_helpers.py", MAIN, False),
        ("_lib/x.py", MAIN, False),
        (".hidden.py", MAIN, False),
        ("__pycache__/x.py", MAIN, False),
        ("module.py", "def helper(): ...\n", False),
        ("broken_module.py", "def helper(:\n", False),
        ("uv_script.py", "# /// script\n# dependencies = []\n# ///\n", False),
        ("uv_broken.py", "# /// script\n# dependencies = [\n# ///\n", False),
        ("README.md", SHELL, False),
        ("hello.py~", MAIN, True),
        ("data.csv", "a,b\n", False),
        ("tool", "#!/bin/sh\n", True),
        ("config.toml", "[database]\nport = 3\n", False),
        ("bad.toml", "[[[", False),
        ("noise.bin", os.urandom(70_000), True),
    ],
)
def test_all_other_files_are_no_jobs_and_no_trouble(jobs: Path, write: Write, name: str, text: str, x: bool) -> None:
    write(name, text, x=x)
    found = scan(jobs)
    assert (found.jobs, found.broken, found.files) == ({}, {}, 0)


# --- what is broken ---------------------------------------------------------------------------------


def test_a_mistake_is_reported_with_file_line_and_suggestion_and_hurts_nothing_else(jobs: Path, write: Write) -> None:
    write("hello.py", MAIN)
    write(
        "resize.py",
        f"# /// script\n# dependencies = []\n# [tool.slotsched]\n# max_time = '1m'\n#\n# slot = 4\n# ///\n{MAIN}",
    )
    assert broken(jobs) == {"resize": 'resize.py:6: unknown key "slot", did you mean "slots"?'}
    assert set(scan(jobs).jobs) == {"hello"}
    with pytest.raises(InvalidJob, match=r"^resize\.py:6: unknown key"):
        Folder(jobs).fresh("resize")


@pytest.mark.parametrize(
    ("name", "text", "x", "message"),
    [
        ("a.py", "def main(:\n", False, "a.py:1: not Python: "),
        ("a.py", "\n\ndef main(*a): ...\n", False, "a.py:3: main takes *a"),
        (
            "a.py",
            "# /// script\n# slots = 3\n# [tool.slotsched]\n# ///\n",
            False,
            'a.py:2: "slots" belongs under [tool.',
        ),
        (
            "a.py",
            "# /// script\n# dependancies = []\n# [tool.slotsched]\n# ///\n",
            False,
            'a.py:2: unknown key "dependan',
        ),
        (
            "a.py",
            f"# /// script\n# [tool.slotshed]\n# slots = 1\n# ///\n{MAIN}",
            False,
            'a.py:2: unknown table "tool.slot',
        ),
        ("a.py", "# /// script\n# [tool]\n# slotsched = 3\n# ///\n", False, "a.py:3: tool.slotsched is not a table"),
        ("a.py", "# /// script\n# dependencies = 3\n# [tool.slotsched]\n# ///\n", False, "a.py:2: dependencies: 3 is"),
        ("a.py", f"# /// script\n# [tool.slotsched.args]\n# x='int'\n# ///\n{MAIN}", False, "a.py:2: args: the signat"),
        ("a.py", "# /// script\n# [tool.slotsched]\n# command = ['x']\n# ///\n", False, "a.py:3: command is for a sid"),
        ("a.py", b"#" * (1 << 20) + b"\n" + MAIN.encode(), False, None),
        ("a.py", MAIN.encode() + b"#" * (1 << 20), False, "a.py:1: larger than 1 MiB"),
        ("a.sh", SHELL, False, "a.sh:1: not executable; chmod +x a.sh"),
        ("a.sh", SHELL.removeprefix("#!/bin/sh\n"), True, 'a.sh:1: no "#!" line'),
        ("a.sh", SHELL.replace("slots = 2", "python = 'python3'"), True, "a.sh:4: python is for .py files"),
        (
            "a.sh",
            SHELL.replace("# slots = 2", "# env.ARG_X='1'\n# args.x = 'str'"),
            True,
            "a.sh:5: args.x: env sets its",
        ),
        (
            "a.sh",
            SHELL.replace("slots = 2", "args = { a-b = 'str', a_b = 'str' }"),
            True,
            'a.sh:4: args: arguments "a-b"',
        ),
        ("a.sh", SHELL.replace("slots = 2", "args.n = {type='int', default='x'}"), True, "a.sh:4: args.n: the default"),
        ("My Job.py", MAIN, False, 'My Job.py:1: the name "My Job" may only have a-z 0-9 _ - in it'),
    ],
)
def test_what_breaks_a_job_file(
    jobs: Path, write: Write, name: str, text: str | bytes, x: bool, message: str | None
) -> None:
    write(name, text, x=x)
    problems = [str(problem) for problem in scan(jobs).problems]
    if message is None:
        assert problems == []
    else:
        assert problems[0].startswith(message)
        assert scan(jobs).jobs == {}


def test_facts_in_two_places_are_refused(jobs: Path, write: Write) -> None:
    write("dump.sh", SHELL, x=True)
    write("dump.toml", SIDECAR)
    assert broken(jobs) == {"dump": "dump.toml:1: facts here and in dump.sh; keep one of the two"}


def test_two_files_of_one_name_are_both_broken(jobs: Path, write: Write) -> None:
    write("report.py", MAIN)
    write("report.sh", SHELL, x=True)
    found = scan(jobs)
    assert found.jobs == {}
    assert [str(problem) for problem in found.problems] == [
        'report.py:1: "report" is the name of report.sh too; rename one',
        'report.sh:1: "report" is the name of report.py too; rename one',
    ]
    with pytest.raises(InvalidJob, match="rename one"):
        Folder(jobs).fresh("report")


# --- what must not hurt -----------------------------------------------------------------------------


def test_pipes_sockets_and_unreadable_things_neither_hang_nor_break_the_scan(jobs: Path, write: Write) -> None:
    write("good.py", MAIN)
    os.mkfifo(jobs / "pipe.py", 0o777)
    os.mkfifo(jobs / "pipe")
    (jobs / "loop").symlink_to(jobs)
    (jobs / "gone.py").symlink_to(jobs / "nothing.py")
    (jobs / "circle.py").symlink_to(jobs / "circle.py")
    (jobs / os.fsdecode(b"\xff.py")).write_text(MAIN)
    found = scan(jobs)
    assert set(found.jobs) == {"good"}
    assert len(found.broken) == 1, "the file whose name is not UTF-8"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_reported(jobs: Path, write: Write) -> None:
    write("secret.py", MAIN).chmod(0)
    assert broken(jobs) == {"secret": "secret.py:1: cannot be read: permission denied"}


def test_a_link_out_of_the_folder_is_refused(jobs: Path, write: Write, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text(MAIN)
    (jobs / "escape.py").symlink_to(outside)
    (jobs / "up").symlink_to(tmp_path)
    assert broken(jobs) == {"escape": "escape.py:1: a symbolic link that leads out of the jobs folder"}
    with pytest.raises(InvalidJob, match="leads out"):
        Folder(jobs).fresh("escape")
    with pytest.raises(NotFound):
        Folder(jobs).fresh("up/outside")


def test_a_link_within_the_folder_and_a_linked_folder_work(jobs: Path, write: Write, tmp_path: Path) -> None:
    write(".data/hello.py", MAIN)
    (jobs / "hello.py").symlink_to(".data/hello.py")
    (tmp_path / "link").symlink_to(jobs)
    assert set(scan(tmp_path / "link").jobs) == {"hello"}


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a\0b", "", "_x", "reports/../hello", "hello.py", "é", "x" * 5000]
)
def test_a_name_that_is_no_name_is_not_found(jobs: Path, write: Write, name: str) -> None:
    write("hello.py", MAIN)
    with pytest.raises(NotFound, match=r"^no job .* in jobs/ \(1 file\)\."):
        Folder(jobs).fresh(name)


def test_a_missing_job_is_answered_with_the_nearest_name(jobs: Path, write: Write) -> None:
    write("resize.py", MAIN)
    write("hello.py", MAIN)
    with pytest.raises(NotFound) as caught:
        Folder(jobs).fresh("resise")
    assert str(caught.value) == 'no job "resise" in jobs/ (2 files). Did you mean "resize"?'


def test_a_folder_that_does_not_exist_has_no_jobs(tmp_path: Path) -> None:
    assert scan(tmp_path / "none").jobs == {}


# --- rescans ----------------------------------------------------------------------------------------


def settle(path: Path) -> None:
    """Give a file a time stamp that a rescan trusts."""
    then = time.time() - 60
    os.utime(path, (then, then))


def test_unchanged_files_are_not_read_again(jobs: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(write("hello.py", MAIN))
    settle(write("module.py", "x = 1\n"))
    monkeypatch.setattr(folder_module, "SETTLE_SECONDS", 0.0)
    reads: list[str] = []
    real = folder_module.read_content
    monkeypatch.setattr(folder_module, "read_content", lambda path: reads.append(path.name) or real(path))
    folder = Folder(jobs)
    first = folder.scan()
    assert sorted(reads) == ["hello.py", "module.py"]
    assert folder.scan() == first
    assert folder.fresh("hello") == first.jobs["hello"]
    assert sorted(reads) == ["hello.py", "module.py"]
    write("hello.py", MAIN + "#")
    assert folder.fresh("hello").hash != first.jobs["hello"].hash
    (jobs / "hello.py").unlink()
    assert folder.scan().jobs == {}


def test_an_edit_of_the_same_length_at_the_same_moment_is_seen(jobs: Path, write: Write) -> None:
    folder = Folder(jobs)
    path = write("hello.py", "def main(a): ...\n")
    stamp = path.stat()
    assert [p.name for p in folder.scan().jobs["hello"].parameters or ()] == ["a"]
    path.write_text("def main(b): ...\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert [p.name for p in folder.scan().jobs["hello"].parameters or ()] == ["b"]


def test_a_changed_sidecar_is_seen(jobs: Path, write: Write) -> None:
    write("tool", b"\0", x=True)
    write("tool.toml", SIDECAR)
    folder = Folder(jobs)
    assert folder.scan().jobs["tool"].facts.slots == 3
    write("tool.toml", SIDECAR.replace("3", "4"))
    assert folder.scan().jobs["tool"].facts.slots == 4


# --- documents, check, new --------------------------------------------------------------------------


def test_jobs_survive_the_way_through_a_document(jobs: Path, write: Write) -> None:
    write("dump.sh", SHELL.replace("slots = 2", "resources.gpu = 1\n# env.A = 'b'\n# cron = '* * * * *'"), x=True)
    write("sync.toml", '[tool.slotsched]\ncommand = ["rsync"]\nretries = 2\n')
    write("call.py", "from typing import Literal\ndef main(a: Literal['x', 1], b: list[int] = [1]): ...\n")
    write("bad.py", "def main(:\n")
    found = scan(jobs)
    for job in (*found.jobs.values(), *found.broken.values()):
        assert job_from_document(job_to_document(job)) == job
    newer = job_to_document(found.jobs["call"]) | {"colour": "red", "_id": 1}
    assert job_from_document(newer) == found.jobs["call"]
    for document in ({}, {"name": "x"}, {"name": "x", "hash": "", "facts": 3}, {"broken": True}):
        with pytest.raises(ValueError, match="not the document of a job"):
            job_from_document(document)


def test_a_check_lists_every_problem_and_what_is_only_odd(jobs: Path, write: Write) -> None:
    write("two.sh", SHELL.replace("slots = 2", "slots = 0\n# slot = 1"), x=True)
    write("random.py", MAIN)
    write("later.sh", SHELL.replace("slots = 2", "on_event = 'upload'"), x=True)
    write(
        "series.py",
        "# /// script\n# [tool.slotsched]\n# after = ['series', 'elsewhere']\n# ///\ndef main(n: int): ...\n",
    )
    write("timely.sh", SHELL.replace("slots = 2", "cron = '61 * * * *'\n# timezone = 'Europe/Pari'"), x=True)
    write("gone.toml", '[tool.slotsched]\ncommand = ["no-such-program-at-all"]\n')
    found = check_scan(scan(jobs))
    assert [(str(finding), finding.error) for finding in found] == [
        ("gone.toml:1: warning: there is no program no-such-program-at-all on this machine", False),
        ("later.sh:1: warning: on_event: read, but this version does not act on it yet", False),
        ("random.py:1: warning: its name hides Python's own module random from every script in its folder", False),
        (
            "series.py:1: warning: after: no run can start, as n has no default; slotsched schedule add has values",
            False,
        ),
        ('series.py:1: warning: after: "series" is this job itself', False),
        (
            'series.py:1: warning: after: there is no job "elsewhere" in this folder; it follows a schedule of that '
            "name, if there is one",
            False,
        ),
        ('timely.sh:4: cron: minute 61 is not in 0-59: "[61] * * * *"', True),
        ('timely.sh:5: timezone: time zone "Europe/Pari" is not known, did you mean "Europe/Paris"?', True),
        ("two.sh:4: slots: 0 is not a whole number from 1 to 2147483647", True),
        ('two.sh:5: unknown key "slot", did you mean "slots"?', True),
    ]


def test_a_job_is_not_looked_for_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r'^no job "a": there is no folder .*/nowhere$'):
        Folder(tmp_path / "nowhere").fresh("a")


def test_a_broken_job_is_told_by_its_first_line_that_is_wrong(jobs: Path, write: Write) -> None:
    write("a.py", "# /// script\n# [tool.slotsched]\n# slot = 1\n# ///\ndef main(*words): ...\n")
    assert scan(jobs).broken["a"].line == 3


@pytest.mark.parametrize("language", ["python", "shell", "command"])
def test_a_new_job_is_a_good_job(jobs: Path, write: Write, language: str) -> None:
    new = new_job("reports/first", language)
    write(new.path, new.text, x=new.executable)
    assert check_scan(scan(jobs)) == []
    assert Folder(jobs).fresh("reports/first").facts.description or language == "shell"


@pytest.mark.parametrize(("name", "language"), [("../x", "python"), ("_x", "python"), ("A", "python"), ("a", "pyton")])
def test_a_new_job_needs_a_good_name_and_a_known_language(name: str, language: str) -> None:
    with pytest.raises(UsageError):
        new_job(name, language)


def test_a_broken_file_shows_where_and_why() -> None:
    assert str(Broken(name="a", path="x/a.py", line=None, message="m")) == "x/a.py:1: m"
