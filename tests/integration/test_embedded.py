"""The embedded mongod: found, started once, found again, ended, and clear words when there is none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from slotsched import embedded
from slotsched.embedded import Mongod, find_mongod
from slotsched.errors import EmbeddedUnavailable
from slotsched.model import TaskRequest
from slotsched.store import connect

pytestmark = pytest.mark.usefixtures("mongod")  # where there is none, these say nothing either


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one server; what runs on it is ended with the test."""
    path = Path(tempfile.mkdtemp(prefix="slotsched-tests-embedded-"))
    yield path
    Mongod(path).kill()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def server(folder: Path) -> Iterator[Mongod]:
    """A server on the folder, not started."""
    server = Mongod(folder)
    yield server
    server.kill()


def test_it_starts_tells_how_far_it_is_and_is_found_again_with_its_data(folder: Path, server: Mongod) -> None:
    heard: list[tuple[float, str]] = []
    first = server
    uri = first.start(lambda fraction, what: heard.append((fraction, what)))
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    store = connect(uri)
    try:
        store.init()
        task_id = store.tasks.enqueue(TaskRequest(job="a")).id
        second = Mongod(folder)  # another process that finds it running
        assert second.start() == uri
        assert second.pid == first.pid
        first.stop()
        assert second.pid is None
        assert second.start() == uri  # the port was chosen once
        assert store.tasks.get(task_id).job == "a"
    finally:
        store.close()
    second.stop()
    assert second.pid is None


def test_two_that_start_on_one_folder_at_once_share_one_server(folder: Path) -> None:
    program = "import sys; from pathlib import Path; from slotsched.embedded import Mongod; "
    program += "m = Mongod(Path(sys.argv[1])); print(m.start(), m.pid)"
    starters = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {starter.communicate(timeout=60)[0] for starter in starters}
    assert [starter.returncode for starter in starters] == [0, 0]
    assert len(answers) == 1


def test_after_a_crash_it_starts_again_on_what_is_left(folder: Path, server: Mongod) -> None:
    uri = server.start()
    server.kill()
    assert server.pid is None
    assert (folder / "data" / "mongod.lock").read_text() != ""
    assert server.start() == uri


def test_a_stranger_with_the_recorded_pid_is_not_taken_for_it(folder: Path, server: Mongod) -> None:
    server.start()
    record = json.loads((folder / "process.json").read_text())
    pid = server.pid
    (folder / "process.json").write_text(json.dumps(record | {"pid": os.getpid()}))
    assert server.pid is None
    server.stop()  # ends nobody
    assert psutil.pid_exists(os.getpid())
    (folder / "process.json").write_text(json.dumps(record | {"boot_id": "another"}))
    assert server.pid is None
    (folder / "process.json").write_text(json.dumps(record))
    assert server.pid == pid


def test_a_port_that_somebody_took_is_left_to_them_and_the_data_stays(folder: Path, server: Mongod) -> None:
    uri = server.start()
    store = connect(uri)
    task_id = store.tasks.enqueue(TaskRequest(job="a")).id
    store.close()
    server.stop()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", server.port))
        moved = server.start()
    assert moved != uri
    store = connect(moved)
    try:
        assert store.tasks.get(task_id).job == "a"
    finally:
        store.close()


def test_a_tied_server_dies_with_a_killed_starter(folder: Path) -> None:
    program = "import sys, time; from pathlib import Path; from slotsched.embedded import Mongod; "
    program += "m = Mongod(Path(sys.argv[1]), tied=True); m.start(); print(m.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        server = psutil.Process(pid)
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Mongod(folder).pid is None


def test_it_listens_on_loopback_only_and_stays_small(folder: Path, server: Mongod) -> None:
    server.start()
    assert server.pid is not None
    process = psutil.Process(server.pid)
    listening = {one.laddr.ip for one in process.net_connections() if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert process.memory_info().rss < 400 << 20


# --- the binary ------------------------------------------------------------------------------------
def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_variable_comes_before_the_path(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    named = script(tmp_path / "named", "echo db version v7.0.1")
    script(tmp_path / "bin" / "mongod", "echo db version v8.0.0")
    environ = {"PATH": str(tmp_path / "bin")}
    assert find_mongod(tmp_path / "lib", environ).version == "8.0.0"
    found = find_mongod(tmp_path / "lib", environ | {"SLOTSCHED_MONGOD": str(named)})
    assert (found.path, found.version) == (named, "7.0.1")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbeddedUnavailable, match="SLOTSCHED_MONGOD=/nowhere"):
        find_mongod(tmp_path, {"SLOTSCHED_MONGOD": "/nowhere"})
    broken = script(tmp_path / "broken", "echo 'bad magic' >&2; exit 3")
    with pytest.raises(EmbeddedUnavailable, match="bad magic"):
        find_mongod(tmp_path, {"SLOTSCHED_MONGOD": str(broken)})
    monkeypatch.setattr(embedded, "_wheel_folder", lambda _package: None)
    with pytest.raises(EmbeddedUnavailable, match=r"slotsched\[embedded\]"):
        find_mongod(tmp_path, {"PATH": str(tmp_path)})
    needy = script(tmp_path / "needy", "echo 'libcurl.so.4: cannot open shared object file' >&2; exit 127")
    with pytest.raises(EmbeddedUnavailable, match="apt install libcurl4"):
        find_mongod(tmp_path, {"SLOTSCHED_MONGOD": str(needy)})


def test_a_missing_libcurl_is_borrowed_from_pycurl(tmp_path: Path) -> None:
    needy = script(
        tmp_path / "needy",
        "IFS=:; for folder in $LD_LIBRARY_PATH; do\n"
        'test -e "$folder/libcurl.so.4" && echo db version v6.0.5 && exit 0; done\n'
        "echo 'error while loading shared libraries: libcurl.so.4: cannot open' >&2; exit 127",
    )
    found = find_mongod(tmp_path / "lib", {"SLOTSCHED_MONGOD": str(needy)})
    assert found.version == "6.0.5"
    assert (tmp_path / "lib" / "libcurl.so.4").resolve().name.startswith("libcurl-")


def test_the_wheels_mongod_runs_on_pycurls_libcurl(tmp_path: Path) -> None:
    environ = {"PATH": "/nowhere"}
    binary = find_mongod(tmp_path / "lib", environ)
    borrowed = embedded._bundled_libcurl(tmp_path / "lib")
    assert borrowed is not None
    listed = subprocess.run(
        ["ldd", binary.path], env={**os.environ, **borrowed}, capture_output=True, text=True, check=True
    )
    assert str(tmp_path / "lib" / "libcurl.so.4") in listed.stdout
    assert "not found" not in listed.stdout


def test_a_server_that_ends_at_once_is_told_with_its_words(folder: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=r"mongod ended with code .*noSuchParameter.*mongod\.log"):
        Mongod(folder, parameters={"noSuchParameter": "1"}).start()
    assert Mongod(folder).pid is None


def test_a_folder_that_another_server_uses_is_told(folder: Path, server: Mongod, tmp_path: Path) -> None:
    server.start()
    (tmp_path / "data").symlink_to(folder / "data")
    with pytest.raises(EmbeddedUnavailable, match="another mongod uses"):
        Mongod(tmp_path).start()
