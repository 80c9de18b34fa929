"""Work that fits and is due starts within one wake-up: an event of the change stream, or without one a poll."""

from __future__ import annotations

import sys
from pathlib import Path

import fleet as fleet_module
import pytest
from figures import Figures
from fleet import Fleet, boottime
from fleet_fixtures import POLL_SECONDS
from reservation_lab import Span, Story, judge

START_SECONDS = 1.5  # from a claim to the script's first line, on a busy machine
LANES = 4

# What an instance sees whose server refuses change streams.
WITHOUT_STREAM = """
from slotsched.errors import StoreUnreachable
from slotsched.scheduler.watching import Watcher

def refused(self):
    raise StoreUnreachable("no change streams here")

Watcher.follow = refused

from slotsched.cli import main

main()
"""


@pytest.mark.parametrize("stream", ["with", "without"])
def test_a_task_of_a_new_lane_starts_within_one_wake_up(
    stream: str, fleet: Fleet, figure: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that has read all lanes there are, and then one more appears, several times."""
    if stream == "without":
        script = tmp_path / "without_stream.py"
        script.write_text(WITHOUT_STREAM)
        monkeypatch.setattr(fleet_module, "SLOTSCHED", [sys.executable, str(script)])
    one = fleet.start("one", slots=LANES + 1, log_level="debug")
    fleet.ended(*fleet.enqueue_many([{"job": "tick"}]))
    waits = []
    for slots in range(2, LANES + 2):
        (handle,) = fleet.client.enqueue_many([{"job": "tick", "slots": slots}])
        enqueued = boottime()
        waits.append(fleet.witness.wait_for("start", handle.id).at - enqueued)
        fleet.ended(handle.id)
    if stream == "without":
        assert "polling only" in one.output.read_text()
    print(f"{stream}: {', '.join(f'{wait:.2f}' for wait in waits)} s")
    what = f"task of a new lane started, {stream} a change stream"
    figure("slots", what, max(waits), at_most=(0 if stream == "with" else POLL_SECONDS) + START_SECONDS)


def test_no_instance_stands_idle_longer_than_one_wake_up_while_work_that_fits_is_due(
    fleet: Fleet, figure: Figures
) -> None:
    park = {"big": 4, "middle": 2, "small": 1}
    up = {}
    for name, slots in park.items():
        fleet.start(name, slots=slots)
        up[name] = [Span(boottime(), float("inf"))]
    line = {"job": "tick", "args": {"seconds": 0.5}}
    ids = [handle.id for handle in fleet.client.enqueue_many([line] * 70)]
    enqueued = boottime()
    fleet.ended(*ids, seconds=60)
    marks = fleet.witness.marks()
    waited = Span(enqueued, max(mark.at for mark in marks if mark.event == "start"))
    idle = judge(Story(slots=park, fed=waited, marks=marks, up=up)).held_back
    figure("slots", "slot free while a task that fits was due", idle, at_most=POLL_SECONDS + START_SECONDS)
