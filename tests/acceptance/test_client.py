"""The client for programs: the same checks and the same answers as the command line."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from cli_user import CLI_JOBS

from slotsched import Client, errors
from slotsched.model import Status

NEVER = {"in_": "1h"}


@pytest.fixture(scope="module")
def client(make_fleet) -> Iterator[Client]:
    """A client of a fleet with one instance of 8 slots."""
    with make_fleet(jobs=CLI_JOBS) as fleet:
        fleet.start("big-1", slots=8)
        given = {name: value for name, value in fleet.settings.items() if name != "mongodb_uri"}
        with Client(fleet.settings["mongodb_uri"], **{**given, "jobs_dir": CLI_JOBS}) as client:
            yield client


def test_a_program_enqueues_waits_and_reads_the_result_and_the_log(client: Client) -> None:
    handle = client.enqueue("resize", {"folder": CLI_JOBS, "width": 3}, tags=["t"], owner="a program")
    task = handle.wait(timeout=30)
    assert (task.status, task.result, task.owner, task.tags) == (Status.COMPLETED, {"width": 3}, "a program", ("t",))
    assert task.args["folder"] == str(CLI_JOBS)
    assert f"pictures of {CLI_JOBS}" in [line["msg"] for line in handle.logs()]
    assert str(handle) == task.id == client.resolve(task.id[-8:])


def test_following_a_log_ends_with_the_attempt(client: Client) -> None:
    handle = client.enqueue("slow", {"steps": 3})
    assert [line["msg"] for line in handle.logs(follow=True)] == ["step 0", "step 1", "step 2"]


def test_watching_yields_every_change_until_the_end(client: Client) -> None:
    handles = [client.enqueue("backup", {"code": code}) for code in (0, 3, 100)]
    last = {task.id: task.status for task in client.watch(handles, timeout=30)}
    assert [last[handle.id] for handle in handles] == [Status.COMPLETED, Status.FAILED, Status.CANCELED]


def test_waiting_has_a_limit_and_several_tasks_keep_their_order(client: Client) -> None:
    first, second = client.enqueue("backup", {"code": 3}), client.enqueue("backup")
    assert [task.id for task in client.wait([second, first], timeout=30)] == [second.id, first.id]
    late = client.enqueue("backup", **NEVER)
    with pytest.raises(errors.WaitTimeout, match="has not ended in time; it goes on"):
        late.wait(timeout=0.2)
    assert late.cancel().status is Status.CANCELED


def test_a_removed_task_ends_the_waiting_for_it(client: Client) -> None:
    handle = client.enqueue("backup", **NEVER)
    handle.cancel()
    client.remove(handle)
    with pytest.raises(errors.NotFound, match="gone"):
        client.wait([handle.id], timeout=5)


def test_everything_malformed_is_refused_before_anything_is_stored(client: Client) -> None:
    before = client.store.upkeep.stats()["tasks"]["documents"]
    refused = [
        (errors.NotFound, lambda: client.enqueue("resise")),
        (errors.InvalidArguments, lambda: client.enqueue("resize", {"widht": 3})),
        (errors.InvalidArguments, lambda: client.enqueue("resize", {"folder": "/p", "width": "big"})),
        (errors.InvalidArguments, lambda: client.enqueue("resize", {"folder": "/p", "width": 2**63})),
        (errors.InvalidArguments, lambda: client.enqueue("resize", {"folder": "a\0b"})),
        (errors.InvalidArguments, lambda: client.enqueue("resize", {"folder": "\ud800"})),
        (errors.UsageError, lambda: client.enqueue("backup", slots=0)),
        (errors.UsageError, lambda: client.enqueue("backup", at=dt.datetime(2026, 1, 1))),  # noqa: DTZ001
        (errors.InvalidBatch, lambda: client.enqueue_many([{"job": "backup"}, {"job": "resise"}])),
        (errors.InvalidBatch, lambda: client.enqueue_many([{"jobs": "backup"}])),
    ]
    for error, act in refused:
        with pytest.raises(error):
            act()
    assert client.store.upkeep.stats()["tasks"]["documents"] == before


def test_a_batch_names_every_bad_request(client: Client) -> None:
    with pytest.raises(errors.InvalidBatch) as refused:
        client.enqueue_many([{"job": "backup"}, {"job": "backup", "slot": 1}, {"job": "backup", "args": {"code": "x"}}])
    assert [position for position, _ in refused.value.problems] == [2, 3]


def test_a_batch_looks_once_for_a_job_that_is_not_there(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    newest = client.store.catalogs.newest
    monkeypatch.setattr(client.store.catalogs, "newest", lambda name: asked.append(name) or newest(name))
    with pytest.raises(errors.InvalidBatch) as refused:
        client.enqueue_many([{"job": "nowhere"}] * 1000 + [{"job": "backup", "in": "1h", "in_": "2h"}])
    assert len(refused.value.problems) == 1001
    assert asked == ["nowhere"]


def test_many_are_stored_in_batches(client: Client) -> None:
    seen: list[int] = []
    handles = client.enqueue_many(({"job": "backup", "in": "1h", "priority": n} for n in range(2500)), seen.append)
    assert len({handle.id for handle in handles}) == 2500
    assert seen[-1] == 2500
    assert len(seen) > 1


def test_a_key_gives_the_first_task_again_and_refuses_other_arguments(client: Client) -> None:
    first = client.enqueue("backup", {"code": 0}, key="k", **NEVER)
    again = client.enqueue("backup", {"code": 0}, key="k", **NEVER)
    assert (again.id, first.existed, again.existed) == (first.id, False, True)
    with pytest.raises(errors.KeyConflict):
        client.enqueue("backup", {"code": 1}, key="k", **NEVER)


def test_an_ended_task_is_retried_not_canceled(client: Client) -> None:
    handle = client.enqueue("backup", {"code": 3})
    handle.wait(timeout=30)
    with pytest.raises(errors.Refused, match="already failed"):
        handle.cancel()
    again = client.retry(handle)
    assert again.get().retry_of == handle.id


def test_why_says_what_keeps_a_task(client: Client) -> None:
    handle = client.enqueue("huge", slots=99)
    assert client.why(handle) == "no instance that is up has 99 slots (largest: big-1, 8)"
    handle.cancel()


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(errors.InvalidSettings, match='unknown setting "databse", did you mean "database"'):
        Client("mongodb://127.0.0.1:9", databse="x")
