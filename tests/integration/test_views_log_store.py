"""Following one attempt's log through the real store into a real log store."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path

import pytest

from slotsched.archive import Archive, log_key, open_archive
from slotsched.model import InstanceRef, LogRef, Outcome, Reason, TaskRequest
from slotsched.store import Store
from slotsched.views.log import Reading, read_log


@pytest.mark.timeout(60)
def test_a_follower_sees_every_line_once_from_the_tail_and_then_the_log_store(store: Store, tmp_path: Path) -> None:
    task_id = store.tasks.enqueue(TaskRequest(job="j")).id
    lines = [f'{{"level":30,"time":1,"msg":"{number}"}}\n'.encode() for number in range(30)]
    whole = b"".join(lines)
    archive = open_archive(str(tmp_path / "logs"))
    seen: list[bytes] = []
    enough = threading.Event()

    def follow() -> None:
        def archive_of(_ref: LogRef) -> Archive:
            return archive

        for line in read_log(store, archive_of, task_id, Reading(follow=True)):
            seen.append(line)
            if len(seen) == 20:
                enough.set()

    follower = threading.Thread(target=follow)
    follower.start()
    [task] = store.queue.claim([task_id], "token", InstanceRef(id="i", name="big-1"))
    for start, end in ((0, 7), (7, 15), (15, 20)):
        offset = len(b"".join(lines[:start]))
        store.tails.ship(task_id, 1, offset, b"".join(lines[start:end]))
    assert enough.wait(20)
    key = log_key(task_id, 1, dt.datetime(2026, 3, 4, tzinfo=dt.UTC))
    ref = LogRef(store=archive.url, key=key, bytes=len(whole))
    store.queue.finish(task_id, "token", Outcome(reason=Reason.EXIT, exit_code=0), log=ref)
    source = tmp_path / "log.ndjson"
    source.write_bytes(whole)
    archive.put(key, source)
    done = LogRef(store=archive.url, key=key, bytes=len(whole), uploaded=True)
    store.queue.log_uploaded(task_id, task.fence, done)
    follower.join(20)
    assert not follower.is_alive()
    assert seen == lines
