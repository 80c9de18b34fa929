"""Scripts that were never forked, or never became what they should: what the ending says about why."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import process_lab
import pytest
from process_lab import Lab, opened

from slotsched.process import Launcher
from slotsched.process.script import failure

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def lab(tmp_path):
    with opened(tmp_path) as lab:
        yield lab


@pytest.mark.parametrize(("open_files", "refused"), [(12, errno.EMFILE), (100, None)])
def test_what_the_machine_refuses_before_the_script_is_forked_is_told_with_its_errno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_files: int, refused: int | None
) -> None:
    """Not the task's fault: its claim can be released, and the machine rests."""
    monkeypatch.setattr(process_lab, "Launcher", partial(Launcher, open_files=open_files))
    with opened(tmp_path, "subreaper") as lab:
        ending, _ = lab.run("true")
    assert ending.errno == refused
    if refused:
        assert (ending.cause, ending.started, ending.exit_code) == ("not_started", None, None)


def test_a_program_that_cannot_be_started_is_told_with_its_errno(lab: Lab) -> None:
    ending, _ = lab.run("/no/such/program")
    assert (ending.cause, ending.errno) == ("not_started", errno.ENOENT)


@pytest.mark.parametrize("letter", ["x", "ü", "\N{GRINNING FACE}"])
def test_a_program_with_a_long_path_in_any_script_is_not_started_and_says_why(lab: Lab, letter: str) -> None:
    part = letter * (120 // len(letter.encode()))
    ending, _ = lab.run(*[f"/{'/'.join([part] * 30)}/job.sh"])
    assert ending.cause == "not_started"
    assert ending.message is not None
    assert ending.message.startswith(f"cannot start /{letter}")
    assert ending.message.endswith("/job.sh: there is no such file")
    ending, _ = lab.run("true", cwd=f"/{'/'.join([part] * 30)}/there")
    assert ending.message is not None
    assert ending.message.endswith("/there: No such file or directory")


def test_a_report_that_was_not_told_to_the_end_is_a_failure_all_the_same() -> None:
    for report in (b'["cannot sta', b"{}", b"7", b"[]", b"\xff"):
        found = failure(report)
        assert found is not None
        assert found.errno is None
        assert found.message.startswith("cannot start")
    assert failure(b"") is None
