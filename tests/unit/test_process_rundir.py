"""The files of a run directory, and who may read what into them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from slotsched.process import (
    Ending,
    Spec,
    Supervised,
    abandoned_ending,
    forbid_start,
    read_ending,
    read_spec,
    write_spec,
)
from slotsched.process.files import read_object
from slotsched.process.rundir import lock_holder, read_order, start_facts, take_start_right
from slotsched.process.status import StatusFile

SPEC = Spec(argv=["true"], env={"A": "ü"}, max_time=1.5, grace=1, deadline_file="/d", memory=5)
ENDING = Ending(
    cause="exit",
    exit_code=3,
    signal=None,
    message=None,
    cpu_seconds=0.1,
    peak_memory=1,
    started=1.5,
    ended=2.5,
    boot_id="b",
    log_bytes=7,
    log_truncated=False,
)


def test_a_spec_reads_back_as_it_was_written_and_is_nobody_elses_to_read(tmp_path):
    write_spec(tmp_path, SPEC)
    assert read_spec(tmp_path) == SPEC
    assert (tmp_path / "spec.json").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["spec.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"argv": ["x"]}', "\udcff"])
def test_what_is_no_spec_is_a_value_error(tmp_path, content):
    (tmp_path / "spec.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError):
        read_spec(tmp_path)


def test_keys_of_a_newer_program_are_ignored(tmp_path):
    write_spec(tmp_path, SPEC)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "newer": 1}))
    assert read_spec(tmp_path) == SPEC


def test_an_ending_appears_whole_or_not_at_all(tmp_path):
    file = StatusFile(tmp_path)
    assert read_ending(tmp_path) is None
    file.write(ENDING)
    assert read_ending(tmp_path) == ENDING
    assert [each.name for each in tmp_path.iterdir()] == ["status.json"]
    for broken in ("{}", "[1]", "nonsense", '{"cause": "exit"}'):
        (tmp_path / "status.json").write_text(broken)
        assert read_ending(tmp_path) is None


def test_the_start_right_is_given_once(tmp_path):
    assert take_start_right(tmp_path, {"by": "supervisor", "started": 1.0})
    assert not take_start_right(tmp_path, {"by": "scheduler"})
    assert not forbid_start(tmp_path)
    assert start_facts(tmp_path) == {"by": "supervisor", "started": 1.0}


def test_an_order_that_makes_no_sense_is_none(tmp_path):
    path = tmp_path / "order.json"
    assert read_order(tmp_path) is None
    for nonsense in ('{"cause": "whim", "grace": 1}', '{"cause": "canceled", "grace": "soon"}', "[]", ""):
        path.write_text(nonsense)
        assert read_order(tmp_path) is None
    with pytest.raises(ValueError, match="whim"):
        Supervised(0, -1).order(tmp_path, "whim")


def test_without_a_lock_file_nobody_holds_it(tmp_path):
    assert lock_holder(tmp_path) is None
    (tmp_path / "lock").touch()
    assert lock_holder(tmp_path) is None


def test_an_abandoned_attempt_is_lost_and_its_log_ends_with_a_whole_line(tmp_path):
    take_start_right(tmp_path, {"by": "supervisor", "started": 1.5})
    (tmp_path / "log.ndjson").write_bytes(b'{"a":1}\n{"b"')
    ending = abandoned_ending(tmp_path)
    assert (ending.cause, ending.started, ending.log_bytes) == ("lost", 1.5, 8)
    assert not ending.log_truncated


def test_an_abandoned_log_with_a_hole_is_said_to_be_truncated(tmp_path):
    log = tmp_path / "log.ndjson"
    log.write_bytes(b'{"a":1}\n')
    os.truncate(log, 1 << 30)
    with log.open("ab") as file:
        file.write(b'{"b":2}\n')
    ending = abandoned_ending(tmp_path)
    assert (ending.log_bytes, ending.log_truncated) == (16, True)


def test_nested_nonsense_is_no_object(tmp_path):
    path = tmp_path / "deep"
    path.write_text("[" * 100_000)
    assert read_object(path) is None


def test_a_script_side_import_does_not_load_the_supervisor():
    program = """
import sys
import slotsched.process
loaded = sorted(name for name in sys.modules if name.startswith('slotsched'))
assert loaded == ['slotsched', 'slotsched.process'], loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
