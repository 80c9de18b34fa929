"""cgroup files as the kernel lays them out; a machine with a delegated memory controller is not always at hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from slotsched.process import DeadlineFile, Spec, cgroups, read_ending, start_facts, sweep_tree, write_spec
from slotsched.process.files import boot_id
from slotsched.process.rundir import take_start_right
from slotsched.process.tree import LimitedTree, Tree


@pytest.fixture
def group(tmp_path):
    folder = tmp_path / "group"
    folder.mkdir()
    for name in ("cgroup.procs", "cgroup.kill", "memory.max", "memory.oom.group", "memory.swap.max"):
        (folder / name).touch()
    (folder / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    return folder


def test_the_kernel_keeps_the_memory_limit_where_it_can(group):
    tree = LimitedTree(Tree(), group, 5000)
    tree.enter()
    assert (group / "memory.max").read_text() == "5000"
    assert (group / "memory.oom.group").read_text() == "1"
    assert (group / "cgroup.procs").read_text() == str(os.getpid())
    assert not tree.out_of_memory()
    (group / "memory.events").write_text("low 0\noom 3\noom_kill 1\n")
    assert tree.out_of_memory()


def test_a_group_without_the_controller_is_no_limit(tmp_path):
    with pytest.raises(FileNotFoundError):
        LimitedTree(Tree(), tmp_path / "group", 5000)
    assert not (tmp_path / "group").exists()
    assert not cgroups.out_of_memory(tmp_path)


def test_the_controller_has_to_be_handed_down_by_our_group_or_the_one_above(tmp_path, monkeypatch):
    own = tmp_path / "service" / "main"
    own.mkdir(parents=True)
    monkeypatch.setattr(cgroups, "base", lambda: own)
    assert cgroups.memory_parent() is None
    (own.parent / "cgroup.subtree_control").write_text("cpu memory\n")
    assert cgroups.memory_parent() == own.parent
    (own / "cgroup.subtree_control").write_text("memory\n")
    assert cgroups.memory_parent() == own


def test_members_and_kill_reach_groups_a_script_made_below(group):
    (group / "below").mkdir()
    (group / "cgroup.procs").write_text("1\n2\n")
    (group / "below" / "cgroup.procs").write_text("3\n")
    assert sorted(cgroups.members(group)) == [1, 2, 3]
    cgroups.kill(group)
    assert (group / "cgroup.kill").read_text() == "1"
    cgroups.kill(group / "gone")


@pytest.mark.parametrize("key", ["cgroup", "memory_cgroup"])
def test_the_sweep_removes_the_groups_that_a_killed_supervisor_left(tmp_path, key):
    group = tmp_path / "group"
    (group / "below").mkdir(parents=True)
    take_start_right(tmp_path, {"by": "supervisor", "boot_id": boot_id(), "containment": "pidns", key: str(group)})
    assert sweep_tree(tmp_path) is True
    assert not group.exists()


SUPERVISED = """
import sys
from pathlib import Path
from slotsched.process import cgroups, read_spec, supervisor
run_dir = Path(sys.argv[1])
cgroups.memory_parent = lambda: run_dir / "groups"
supervisor.run(run_dir, read_spec(run_dir), "subreaper")
"""


@pytest.mark.parametrize(("memory", "noted"), [(100 << 20, True), (None, False)])
def test_a_supervisor_notes_the_group_that_limits_its_memory_before_it_makes_it(tmp_path, memory, noted):
    deadline = DeadlineFile.create(tmp_path / "deadline", 60.0)
    deadline.extend(time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    spec = Spec(
        argv=["true"],
        env={"PATH": "/usr/bin:/bin"},
        max_time=10,
        grace=1,
        deadline_file=str(deadline.path),
        memory=memory,
    )
    write_spec(tmp_path, spec)
    subprocess.run([sys.executable, "-c", SUPERVISED, tmp_path], check=True, timeout=30)
    deadline.close()
    ending = read_ending(tmp_path)
    assert ending is not None
    assert (ending.cause, ending.exit_code) == ("exit", 0)
    group = start_facts(tmp_path).get("memory_cgroup")
    assert group == (str(tmp_path / "groups" / f"slotsched-{tmp_path.name}") if noted else None)
