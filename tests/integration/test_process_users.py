"""Attempts of other users, and a scheduler that is not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from process_lab import opened

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED HERE: needs root")


@needs_root
def test_a_job_runs_as_its_user(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/") and str(folder).startswith("/tmp/pytest"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with opened(tmp_path) as lab:
        script = (
            'id -un; id -gn; id -Gn | tr " " "\\n" | grep -c root; touch mine "$TMPDIR/too" ../io/result.json; '
            "echo again > /dev/stdout; echo error > /dev/stderr; cat ../spec.json; kill -0 $PPID"
        )
        ending, attempt = lab.run("sh", "-c", script, user="nobody", env={"LANG": "C"})
        assert attempt.text().splitlines() == ["nobody", "nogroup", "0", "again"]
        assert "error" in attempt.text("stderr")
        assert attempt.text("stderr").count("ermi") >= 2  # neither the spec nor the supervisor is its own
        assert (attempt.run_dir / "io" / "result.json").stat().st_uid == 65534
        assert ending.exit_code == 1


@needs_root
def test_what_a_script_mounted_in_its_private_folder_is_not_removed_with_it(lab, tmp_path):
    treasure = tmp_path / "treasure with blanks ü"
    treasure.mkdir()
    (treasure / "kept").touch()
    ending, attempt = lab.run("sh", "-c", f"mkdir 'b ü'; mount --bind '{treasure}' 'b ü'; ls 'b ü'")
    assert attempt.text() == "kept\n", attempt.text("stderr")
    assert (treasure / "kept").exists()
    assert not (attempt.run_dir / "work").exists()
    assert ending.exit_code == 0


@needs_root
def test_an_unprivileged_scheduler_contains_its_attempts_too():
    """The whole package, copied to where everybody can read, run by the system's Python as `nobody`."""
    python = "/usr/bin/python3"
    if not shutil.which("setpriv") or not Path(python).exists():
        pytest.skip("NOT TESTED HERE: needs setpriv and a Python that everybody can run")
    here = Path(tempfile.mkdtemp(prefix="slotsched-nobody-"))
    try:
        here.chmod(0o755)
        tests = Path(__file__).resolve().parents[1]
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tests.parent / "slotsched", here / "slotsched", ignore=ignore)
        for name in ("process_lab.py", "process_unprivileged.py"):
            shutil.copy(tests / name, here)
        subprocess.run(["chmod", "-R", "a+rX", here], check=True)
        (here / "state").mkdir()
        os.chown(here / "state", 65534, 65534)
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--inh-caps=-all"]
        answer = subprocess.run(
            [*as_nobody, python, "-B", here / "process_unprivileged.py", here / "state"],
            capture_output=True,
            timeout=50,
            check=False,
            cwd=here,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(here)},
        )
        assert answer.returncode == 0, answer.stderr.decode()
        seen = json.loads(answer.stdout)
    finally:
        shutil.rmtree(here)
    assert seen["containment"] == ["userns", True]
    assert seen["exit"] == ["exit", 3]
    assert seen["private folder left"] is False
    assert seen["uid"] == "65534\n"
    assert seen["escaped after exit"] == seen["escaped after kill"] == seen["escaped the sweep"] == 0
    assert seen["killed supervisor: left after 1 s"] == 0
    assert seen["timeout"] == ["timeout", 9]
    assert seen["confused"] == ["exit", 5]
    assert "only a scheduler that runs as root" in seen["other user"]
    assert seen["without a user namespace"] == "exit"
