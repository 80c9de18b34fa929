"""Python jobs in their own processes: what the harness promises of arguments, results, endings and tracebacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_lab import Ran, run_job

RunSource = Callable[..., Ran]
UV = "uv>=0.9,<1"
UV_SECONDS = 100


@pytest.fixture
def run(tmp_path: Path) -> RunSource:
    def write_and_run(source: str, args: dict[str, Any] | None = None, *, name: str = "job", **options: Any) -> Ran:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return run_job(tmp_path, name, args, **options)

    return write_and_run


HEADER = "# /// script\n# [tool.slotsched]\n# slots = 1\n# ///\n"


# --- arguments and results --------------------------------------------------------------------------


def test_main_gets_its_arguments_in_the_types_it_declares(run: RunSource) -> None:
    ran = run(
        """
        import datetime as dt
        from datetime import date
        from pathlib import Path
        from typing import Literal, Optional

        def main(folder: Path, day: date, at: dt.datetime, size: Literal["s", 2], ratio: float,
                 files: list[Path], by: dict[str, date], flag: bool = False, note: Optional[str] = "unset"):
            return [repr(value) for value in (folder, day, at, size, ratio, files, by, flag, note)]
        """,
        {
            "folder": "/a",
            "day": "2026-01-02",
            "at": "2026-01-02T03:04:05Z",
            "size": 2,
            "ratio": 3,
            "files": ["/b"],
            "by": {"k": "2026-01-02"},
            "flag": True,
        },
    )
    assert ran.code == 0, ran.stderr
    assert ran.result == [
        "PosixPath('/a')",
        "datetime.date(2026, 1, 2)",
        "datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)",
        "2",
        "3.0",
        "[PosixPath('/b')]",
        "{'k': datetime.date(2026, 1, 2)}",
        "True",
        "'unset'",
    ]


def test_positional_only_and_keyword_only_parameters_are_filled(run: RunSource) -> None:
    source = "def main(a, b=2, /, c=3, *, d, e=5):\n    return [a, b, c, d, e]\n"
    assert run(source, {"a": 1, "d": 4}).result == [1, 2, 3, 4, 5]
    assert run(source, {"a": 1, "b": 7, "d": 4, "e": 9}).result == [1, 7, 3, 4, 9]


def test_a_decorated_main_is_called_as_its_signature_says(run: RunSource) -> None:
    source = """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return 2 * function(*args, **kwargs)
            return wrapper

        @twice
        def main(a: int, /, *, b: int):
            return a + b
        """
    assert run(source, {"a": 1, "b": 2}).result == 6


def test_an_async_main_is_run(run: RunSource) -> None:
    ran = run("import asyncio\nasync def main(n: int):\n    await asyncio.sleep(0)\n    return n + 1\n", {"n": 1})
    assert (ran.code, ran.result) == (0, 2)


def test_task_args_are_there_for_a_script_without_main(run: RunSource) -> None:
    source = HEADER.replace("slots = 1", "args = { folder = 'path', n = { type = 'int', default = 3 } }")
    ran = run(source + "from slotsched import task\nprint(task.args)\ntask.result(task.args)\n", {"folder": "/a"})
    assert ran.stdout == "{'n': 3, 'folder': PosixPath('/a')}\n"
    assert ran.result == {"n": 3, "folder": "/a"}


def test_a_result_keeps_paths_and_dates_as_text_and_none_leaves_no_result(run: RunSource) -> None:
    source = (
        "import datetime, pathlib\ndef main():\n    return {'p': pathlib.Path('/a'), 'd': datetime.date(2026, 1, 2)}\n"
    )
    assert run(source).result == {"p": "/a", "d": "2026-01-02"}
    nothing = run("def main():\n    pass\n")
    assert (nothing.code, nothing.result, nothing.complaint) == (0, None, None)
    kept = run("from slotsched import task\ndef main():\n    task.result(1)\n")
    assert kept.result == 1


@pytest.mark.parametrize("value", ["{1, 2}", "float('nan')", "object()", "'x' * 2000000", "b'x'", "{(1, 2): 3}"])
def test_a_result_that_is_not_json_fails_and_says_why(run: RunSource, value: str) -> None:
    ran = run(f"def main():\n    return {value}\n")
    assert ran.code == 1
    assert ran.stderr.startswith("slotsched: main returned something that cannot be stored: the result ")
    assert "Traceback" not in ran.stderr


# --- how it ends ------------------------------------------------------------------------------------


def test_an_exception_is_a_traceback_of_the_users_own_frames_and_exit_1(run: RunSource) -> None:
    ran = run("def inner():\n    raise ValueError('boo')\n\n\ndef main():\n    inner()\n")
    assert ran.code == 1
    assert ran.stderr.endswith("ValueError: boo\n")
    assert ran.stderr.count('File "') == 2
    assert "raise ValueError('boo')" in ran.stderr
    assert "slotsched" not in ran.stderr


def test_a_syntax_error_that_only_running_finds_is_the_scripts_too(run: RunSource) -> None:
    ran = run("def main():\n    exec('1 +')\n")
    assert ran.code == 1
    assert "SyntaxError" in ran.stderr


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(0)", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("sys.exit(100)", 100, ""),
        ("sys.exit('no disk')", 1, "no disk\n"),
        ("raise SystemExit(3)", 3, ""),
        ("raise KeyboardInterrupt", 130, ""),
        ("import os; os._exit(9)", 9, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
    ],
)
@pytest.mark.parametrize("mode", ["main", "script"])
def test_exit_codes_are_what_python_makes_them(run: RunSource, mode: str, statement: str, code: int, said: str) -> None:
    source = f"import sys\ndef main():\n    {statement}\n" if mode == "main" else f"{HEADER}import sys\n{statement}\n"
    ran = run(source)
    assert (ran.code, ran.stderr) == (code, said)


def test_a_job_that_cancels_itself_says_so_in_its_log(run: RunSource) -> None:
    ran = run("from slotsched import Cancel\ndef main():\n    raise Cancel('no pictures')\n")
    assert (ran.code, ran.stderr) == (100, "")
    assert [(line["level"], line["msg"]) for line in ran.log] == [(40, "canceled: no pictures")]


SLEEPS = """
    import time
    def main():
        try:
            try:
                print("ready")
                time.sleep(30)
            except Exception:
                print("swallowed")
        finally:
            print("cleaned up")
    """
ASYNC_SLEEPS = """
    import asyncio
    async def other():
        try:
            await asyncio.sleep(30)
        finally:
            print("cleaned up")
    async def main():
        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        print("ready")
        while True:
            await asyncio.sleep(0)
    """


@pytest.mark.parametrize(
    "source", [SLEEPS, ASYNC_SLEEPS, HEADER + textwrap.dedent(SLEEPS).replace("main", "go") + "go()\n"]
)
def test_sigterm_is_raised_as_cancel_and_cleans_up(run: RunSource, source: str) -> None:
    ran = run(source, terminate_on="ready")
    assert ran.code == 100
    assert ran.stdout == "ready\ncleaned up\n"
    assert ran.stderr == ""
    assert [line["msg"] for line in ran.log] == ["canceled: asked to stop"]


def test_a_second_sigterm_does_not_interrupt_the_cleaning_up(run: RunSource) -> None:
    source = """
        import os, signal, time
        def main():
            try:
                print("ready")
                time.sleep(30)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                print("cleaned up")
        """
    assert run(source, terminate_on="ready").stdout == "ready\ncleaned up\n"


def test_threads_are_joined_and_their_exceptions_shown_and_atexit_runs(run: RunSource) -> None:
    ran = run(
        """
        import atexit, threading, time
        def late():
            time.sleep(0.05)
            print("thread done")
            raise RuntimeError("in a thread")
        def main():
            atexit.register(print, "atexit")
            threading.Thread(target=late).start()
        """
    )
    assert ran.code == 0
    assert ran.stdout == "thread done\natexit\n"
    assert "RuntimeError: in a thread" in ran.stderr


# --- it looks like plain Python ---------------------------------------------------------------------


def test_the_scripts_folder_is_first_on_the_path_and_nothing_of_slotsched_is(run: RunSource, tmp_path: Path) -> None:
    (tmp_path / "_shared.py").write_text("VALUE = 7\n")
    ran = run(
        """
        import sys
        from _shared import VALUE
        def main():
            return [VALUE, sys.path[0], sys.argv, [path for path in sys.path if "process" in path], __file__]
        """
    )
    script = str(tmp_path / "job.py")
    assert ran.result == [7, str(tmp_path), [script], [], script]


def test_a_script_without_main_is_main(run: RunSource) -> None:
    ran = run(HEADER + "import sys\nclass A: pass\nprint(__name__, A.__module__, sys.modules['__main__'].A is A)\n")
    assert ran.stdout == "__main__ __main__ True\n"


def test_a_guard_at_the_end_does_not_run_main_twice(run: RunSource) -> None:
    ran = run("def main():\n    print('once')\nif __name__ == '__main__':\n    main()\n")
    assert ran.stdout == "once\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_with_what_the_script_defines(run: RunSource, method: str) -> None:
    ran = run(
        f"""
        import multiprocessing
        from slotsched import log
        def double(n):
            return 2 * n
        def main():
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                return pool.map(double, [1, 2])
        """
    )
    assert (ran.code, ran.result) == (0, [2, 4]), ran.stderr


def test_a_job_named_like_a_standard_module_does_not_replace_it(run: RunSource) -> None:
    ran = run("import sys\ndef main():\n    return [__name__, sys.modules['io'].__name__]\n", name="io")
    assert ran.result == ["job_io", "io"]


def test_output_appears_line_by_line(run: RunSource) -> None:
    ran = run("import os\ndef main():\n    print('before the end')\n    os._exit(0)\n")
    assert ran.stdout == "before the end\n"


def test_a_script_that_changed_within_one_second_runs_as_it_is_now(run: RunSource) -> None:
    assert run("def main():\n    return 1\n").result == 1
    assert run("def main():\n    return 2\n").result == 2


# --- interpreters and dependencies ------------------------------------------------------------------


def test_an_interpreter_without_slotsched_can_import_it_and_nothing_else_from_beside_it(
    run: RunSource, tmp_path: Path
) -> None:
    import venv

    venv.create(tmp_path / "own", with_pip=False)
    source = """
        # /// script
        # [tool.slotsched]
        # python = "own/bin/python"
        # ///
        import sys
        from slotsched import task, log, Cancel
        def main():
            log.info("hello")
            try:
                import pymongo
            except ModuleNotFoundError:
                return sys.prefix
        """
    ran = run(source)
    assert (ran.code, ran.result) == (0, str(tmp_path / "own")), ran.stderr
    assert [line["msg"] for line in ran.log] == ["hello"]


def test_a_failed_import_names_the_fix(run: RunSource) -> None:
    source = """
        # /// script
        # dependencies = ["no-such-package-here"]
        # ///
        import no_such_package_here
        def main(): ...
        """
    ran = run(source, environ={"PATH": "/usr/bin:/bin"})
    assert ran.code == 1
    assert "ModuleNotFoundError" in ran.stderr
    assert f"{sys.executable} -m pip install no-such-package-here" in ran.stderr
    assert "pip install uv" in ran.stderr
    plain = run("import no_such_package_here\ndef main(): ...\n")
    assert "pip install" not in plain.stderr


def interpreters() -> list[str]:
    """Other Pythons of this machine that work: a name on PATH may be a shim with nothing behind it."""
    found = [path for minor in range(8, 16) if (path := shutil.which(f"python3.{minor}"))]
    probe = {"capture_output": True, "timeout": 30, "check": False}
    return [path for path in found if subprocess.run([path, "-c", "pass"], **probe).returncode == 0]


def test_jobs_run_in_older_and_newer_pythons_too(run: RunSource) -> None:
    source = """
        from __future__ import annotations
        import datetime, pathlib, sys
        from slotsched import Cancel, log, task
        def main(folder: pathlib.Path, day: datetime.date, at: datetime.datetime):
            log.info("hello", folder=folder)
            task.progress(0.5, "half")
            task.state({"day": "x"})
            return [list(sys.version_info[:2]), str(day), at]
        """
    args = {"folder": "/a", "day": "2026-01-02", "at": "2026-01-02T03:04:05Z"}
    for python in interpreters():
        ran = run(source, args, python=python)
        assert (ran.code, ran.stderr) == (0, ""), python
        assert ran.result[1:] == ["2026-01-02", "2026-01-02T03:04:05+00:00"]
        assert ran.log[0]["folder"] == "/a"


FAKE_UV = """#!/bin/sh
echo "$@" >> "{calls}"
[ -n "$UV_INDEX_URL" ] && echo "index $UV_INDEX_URL" >> "{calls}"
case "$1 $2" in
    "sync --no-progress") [ -e "{folder}/refuse" ] && echo "no such package" >&2 && exit 2; mkdir -p "{folder}/env" ;;
    "python find") [ -e "{folder}/env" ] && echo "{folder}/env/bin/python" || echo /usr/bin/python3 ;;
esac
exit 0
"""
NEEDS_UV = """
    # /// script
    # dependencies = ["something"]
    # ///
    import os, sys
    def main():
        return [sys.prefix, [name for name in os.environ if name.startswith("UV_")]]
    """


@pytest.fixture
def fake_uv(tmp_path: Path) -> dict[str, str]:
    """A uv whose environments are one ready venv, and which writes down what it was asked."""
    import venv

    folder = tmp_path / "fake"
    venv.create(folder / "ready", with_pip=False)
    (folder / "bin").mkdir()
    uv = folder / "bin" / "uv"
    text = FAKE_UV.replace('mkdir -p "{folder}/env"', 'ln -sfn "{folder}/ready" "{folder}/env"')
    uv.write_text(text.format(calls=folder / "calls", folder=folder))
    uv.chmod(0o755)
    return {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "UV_INDEX_URL": "https://index"}


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "fake" / "calls"
    found = path.read_text().splitlines()
    path.unlink()
    return found


def test_uv_makes_the_environment_at_first_sight_and_is_only_asked_for_it_afterwards(
    run: RunSource, fake_uv: dict[str, str], tmp_path: Path
) -> None:
    find = f"python find --script {tmp_path / 'job.py'}"
    sync = f"sync --no-progress --script {tmp_path / 'job.py'}"
    first = run(NEEDS_UV, environ=fake_uv)
    assert (first.code, first.result[1]) == (0, []), first.stderr
    assert Path(first.result[0]).resolve() == (tmp_path / "fake" / "ready").resolve()
    assert calls(tmp_path) == [find, "index https://index", sync, "index https://index", find, "index https://index"]
    assert run(NEEDS_UV + "    # another line of code\n", environ=fake_uv).code == 0
    assert calls(tmp_path) == [find, "index https://index"]
    assert run(NEEDS_UV.replace("something", "something-else"), environ=fake_uv).code == 0
    assert sync in calls(tmp_path)


def test_a_failing_uv_fails_the_task_with_its_own_words(
    run: RunSource, fake_uv: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "fake" / "refuse").touch()
    ran = run(NEEDS_UV, environ=fake_uv)
    assert ran.code == 1
    assert ran.stderr == f"no such package\nslotsched: uv could not make the environment of {tmp_path / 'job.py'}\n"


def wheel(folder: Path) -> Path:
    """A package of one module, as a wheel."""
    path = folder / "slotsched_lab_thing-1.0-py3-none-any.whl"
    info = "slotsched_lab_thing-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("slotsched_lab_thing.py", "VALUE = 7\n")
        packed.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: slotsched-lab-thing\nVersion: 1.0\n")
        packed.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        packed.writestr(
            f"{info}/RECORD", f"slotsched_lab_thing.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return path


@pytest.fixture(scope="session")
def uv_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a real uv: the machine's, or one installed for this run.

    It is no part of the extra `test`: beside the interpreter it would be found by every run of a job.
    """
    found = shutil.which("uv")
    if found is not None:
        return Path(found).parent
    target = tmp_path_factory.mktemp("uv")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), UV]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=UV_SECONDS, check=False)
        problem = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"it took more than {UV_SECONDS} s"
    if problem:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"uv cannot be installed: {problem}")
    return target / "bin"


def test_with_the_real_uv_a_job_has_its_own_environment(run: RunSource, uv_folder: Path, tmp_path: Path) -> None:
    source = f"""
        # /// script
        # dependencies = ["slotsched-lab-thing @ {wheel(tmp_path).as_uri()}"]
        # ///
        import sys
        import slotsched_lab_thing
        from slotsched import log
        def main():
            log.info("hello")
            return [slotsched_lab_thing.VALUE, sys.prefix]
        """
    path = f"{uv_folder}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_OFFLINE": "1"}
    ran = run(source, environ=environ)
    assert ran.code == 0, ran.stderr
    assert ran.result[0] == 7
    assert ran.result[1].startswith(str(tmp_path / "cache"))
    assert [line["msg"] for line in ran.log] == ["hello"]
