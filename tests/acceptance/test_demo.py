"""`slotsched demo`: the first thing a new user runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DEMO = [sys.executable, "-m", "slotsched", "demo"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user without any configuration, whose temporary folder is the test's."""
    (tmp_path / "tmp").mkdir()
    return {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "PATH": os.environ["PATH"]}


def leftovers(environment: dict[str, str]) -> list[object]:
    """What a demo left: its folder, or processes that use it."""
    folder = environment["TMPDIR"]
    processes = [p for p in psutil.process_iter(["cmdline"]) if any(folder in word for word in p.info["cmdline"] or ())]
    return [*Path(folder).glob("slotsched-demo-*"), *processes]


def test_the_demo_runs_real_tasks_on_two_instances_and_leaves_nothing(environment: dict[str, str]) -> None:
    done = subprocess.run(DEMO, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^([A-J])  (\w+) +(\d) +(completed|canceled) +(big|small)", done.stdout, re.MULTILINE)
    assert len(rows) == 10, done.stdout
    assert {job for _, job, *_ in rows} == {"hello", "access_log", "resize", "backup", "export_collection"}
    assert {instance for _, job, _, _, instance in rows if job == "resize"} == {"big"}, "4 slots fit big only"
    assert {instance for *_, instance in rows} == {"big", "small"}
    assert "hello world" in done.stdout, "the end says where a log is and shows its first lines"
    assert leftovers(environment) == []


def test_ctrl_c_ends_the_demo_and_everything_it_started(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        DEMO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "running on" in line:
                os.killpg(demo.pid, signal.SIGINT)
                break
        demo.stdout.read()
        assert demo.wait(60) == 130
    assert leftovers(environment) == []


def test_keep_leaves_the_folder_for_a_look(environment: dict[str, str]) -> None:
    done = subprocess.run([*DEMO, "--keep"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = Path(environment["TMPDIR"]).glob("slotsched-demo-*")
    assert f"rm -r {folder}" in done.stdout
    assert len(list((folder / "logs").rglob("*.ndjson.gz"))) == 10
    assert not [p for p in leftovers(environment) if isinstance(p, psutil.Process)]
