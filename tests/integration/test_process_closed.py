"""What a script of the scheduler's own user, who is not root, can do to its run directory and to signals for it."""

from __future__ import annotations

import shutil

import pytest
from nobody import ordinary_user, run_as_nobody

pytestmark = pytest.mark.timeout(60)

CLOSED = """
import json, os, sys
from pathlib import Path
from process_lab import Lab, wait_until
from slotsched.process import find_supervisor, forbid_start, read_ending, sweep_tree, abandoned_ending
lab = Lab(Path(sys.argv[1]))
close = "chmod 0 ../lock ../start ../spec.json ../log.ndjson ../.status.json; chmod 0 .."
def closed(attempt): return not attempt.run_dir.stat().st_mode & 0o777
seen = {}
try:
    attempt = lab.sh(close + "; exit 3")
    attempt.wait_gone()
    seen["exit"] = read_ending(attempt.run_dir).exit_code
    seen["log"] = oct((attempt.run_dir / "log.ndjson").stat().st_mode & 0o777)

    attempt = lab.sh(close + "; sleep 20")
    wait_until(lambda: closed(attempt))
    seen["forbidden"] = forbid_start(attempt.run_dir)
    attempt.run_dir.chmod(0)
    attempt.order("canceled", 0, by="ann")
    attempt.wait_gone()
    ending = read_ending(attempt.run_dir)
    seen["canceled"] = [ending.cause, ending.message]

    attempt = lab.sh("echo hello; " + close + "; sleep 20")
    wait_until(lambda: closed(attempt))
    supervised = find_supervisor(attempt.run_dir)
    attempt.run_dir.chmod(0)
    supervised.kill()
    supervised.close()
    attempt.wait_gone()
    assert read_ending(attempt.run_dir) is None
    assert sweep_tree(attempt.run_dir)
    ending = abandoned_ending(attempt.run_dir)
    seen["killed"] = [ending.cause, ending.log_bytes > 0]
finally:
    lab.close()
print(json.dumps(seen))
"""


def test_a_run_directory_that_its_script_closed_is_opened_again() -> None:
    with ordinary_user() as here:
        seen = run_as_nobody(here, CLOSED)
    assert seen == {
        "exit": 3,
        "log": "0o600",
        "forbidden": False,
        "canceled": ["canceled", "canceled by ann"],
        "killed": ["lost", True],
    }


READ_ONLY = """
import json, sys
from pathlib import Path
from slotsched.process import workdir
work = Path(sys.argv[1]) / "run" / "work"
for name in ("closed", "read only", "no entry"):
    (work / name / "deeper").mkdir(parents=True)
    (work / name / "file").touch()
(work / "closed").chmod(0)
(work / "read only" / "deeper").chmod(0o500)
(work / "read only").chmod(0o500)
(work / "no entry").chmod(0o600)
work.chmod(0o500)
work.parent.chmod(0)
print(json.dumps([workdir.remove(work), work.exists()]))
"""


def test_folders_that_a_script_closed_or_wrote_protected_are_removed() -> None:
    """As a Go module cache is."""
    with ordinary_user() as here:
        assert run_as_nobody(here, READ_ONLY) == [True, False]


SUDO = """
import json, sys
from pathlib import Path
from process_lab import Lab
lab = Lab(Path(sys.argv[1]), "subreaper")
try:
    attempt = lab.sh("exec " + sys.argv[2] + " --reuid=0 --regid=0 --clear-groups sleep 2", max_time=0.5, grace=0.5)
    ending = attempt.wait(20)
    print(json.dumps([ending.cause, ending.exit_code, ending.ended - ending.started > 1.5]))
finally:
    lab.close()
"""


def test_a_script_that_became_root_has_timed_out_though_it_cannot_be_signalled() -> None:
    """As by sudo: nothing can be done about it, but why it was to end stays true, and its slots stay taken."""
    with ordinary_user() as here:
        sudo = here / "sudo"
        shutil.copy(shutil.which("setpriv") or "", sudo)
        sudo.chmod(0o4755)
        assert run_as_nobody(here, SUDO, str(sudo)) == ["timeout", 0, True]
