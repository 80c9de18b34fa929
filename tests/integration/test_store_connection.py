"""Reaching the store, and what is said when it cannot be reached or used."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson import ObjectId

from slotsched import errors
from slotsched.embedded import Mongod, find_mongod
from slotsched.model import TaskRequest
from slotsched.store import Store, TaskFilter, connect
from slotsched.store.connection import describe, tls_options
from slotsched.views.tasks import page


@pytest.fixture
def closing() -> Iterator[Any]:
    """Connects; what it made is closed at the end."""
    made: list[Store] = []

    def make(uri: str, **options: Any) -> Store:
        made.append(connect(uri, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_check_tells_what_the_server_is(store: Store) -> None:
    info = store.check()
    assert info.version.startswith(("5.", "6.", "7.", "8."))
    assert (info.set_name, info.change_streams) == ("slotsched", True)
    assert 0 < info.latency < 1


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
def test_the_stores_time_is_the_same_in_every_zone(store: Store, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        now = store.now()
        task = store.tasks.get(store.tasks.enqueue(TaskRequest(job="a", due_in=600.0)).id)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert abs(now.timestamp() - time.time()) < 30
    assert abs(task.due_at.timestamp() - time.time() - 600) < 30


def test_a_refused_connection_is_told_with_what_to_do(closing: Any) -> None:
    port = unused_port()
    store = closing(f"mongodb://127.0.0.1:{port}/?replicaSet=rs0", timeout=0.5)
    began = time.monotonic()
    for call in (store.check, store.now, store.init, lambda: store.tasks.find(TaskFilter()), store.rescue.owners):
        with pytest.raises(errors.StoreUnreachable) as said:
            call()
        assert str(said.value) == (
            f"cannot reach mongodb://127.0.0.1:{port} (refused) after 0.5 s. Start one with: slotsched up"
        )
    assert time.monotonic() - began < 10


def test_a_server_that_says_nothing_is_told_after_the_timeout(closing: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = closing(f"mongodb://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        began = time.monotonic()
        with pytest.raises(errors.StoreUnreachable, match=r"\(no answer\) after 0.5 s"):
            store.check()
        assert time.monotonic() - began < 3


def test_an_unknown_host_is_told(closing: Any) -> None:
    store = closing("mongodb://no-such-host.invalid", timeout=1.0)
    with pytest.raises(errors.StoreUnreachable, match=r"no-such-host.invalid \(unknown host\).*mongodb_uri"):
        store.check()


@pytest.mark.filterwarnings("ignore:Unknown option:UserWarning")
@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://ann:s3cr3t%2F@127.0.0.1:1/?authSource=admin",
        "mongodb://ann:s3cr3t/@127.0.0.1:1/x",
        "mongodb://ann:s3cr3t@127.0.0.1:x",
        "mongodb://ann:s3cr3t@127.0.0.1:1/?nonsense=1&retryWrites=false",
        "mongodb://:s3cr3t@127.0.0.1:1",
    ],
)
def test_a_password_is_in_no_message(closing: Any, uri: str) -> None:
    with pytest.raises(errors.StoreError) as said:
        closing(uri, timeout=0.3).check()
    assert "s3cr3t" not in str(said.value)
    assert "s3cr3t" not in describe(uri).uri


@pytest.mark.filterwarnings("ignore::UserWarning")  # the driver's own about an unknown option
@pytest.mark.parametrize(
    "uri", ["postgres://x", "127.0.0.1:27017", "", "mongodb://", "mongodb://a:b:c", "mongodb://h/?w=x&w"]
)
def test_what_is_no_uri_is_refused_at_once(uri: str) -> None:
    with pytest.raises(errors.StoreUnsuitable):
        connect(uri)


def test_a_uri_cannot_switch_retries_off(mongod: Mongod) -> None:
    with pytest.raises(errors.StoreUnsuitable, match="retryWrites=false"):
        connect(mongod.uri + "&retryWrites=false")


def test_an_option_that_the_driver_does_not_know_is_refused() -> None:
    with pytest.raises(errors.StoreUnsuitable, match=r"Unknown option.*replicaset"):
        connect("mongodb://127.0.0.1:1/?replicaset2=x")


def test_a_uri_cannot_weaken_the_concerns(mongod: Mongod, database: Any, mongo_client: Any) -> None:
    weak = connect(
        mongod.uri + "&w=0&journal=false&readConcernLevel=available&readPreference=secondaryPreferred", database.name
    )
    try:
        weak.init()
        observed = mongo_client[database.name]
        observed.command("profile", 2)
        task_id = weak.tasks.enqueue(TaskRequest(job="a")).id
        weak.tasks.get(task_id)
        observed.command("profile", 0)
        entries = list(observed["system.profile"].find({"ns": f"{database.name}.tasks"}))
    finally:
        weak.close()
    [insert] = [entry for entry in entries if entry["op"] == "insert"]
    [find] = [entry for entry in entries if entry["op"] == "query"]
    assert insert["command"]["writeConcern"] == {"w": "majority", "j": True}
    assert find["command"]["readConcern"]["level"] == "majority"


def test_a_standalone_server_is_refused_with_how_to_make_it_a_set(mongod: Mongod, tmp_path: Path, closing: Any) -> None:
    binary, port = find_mongod(tmp_path / "lib"), unused_port()
    (tmp_path / "db").mkdir()
    server = subprocess.Popen(
        [binary.path, "--dbpath", tmp_path / "db", "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket",
         "--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **binary.environment},
    )  # fmt: skip
    try:
        store = closing(f"mongodb://127.0.0.1:{port}", timeout=20.0)
        calls: tuple[Callable[[], object], ...] = (
            store.check,
            lambda: store.tasks.enqueue(TaskRequest(job="a")),
            lambda: page(store, TaskFilter(), 1),
            store.watch().__enter__,
        )
        for call in calls:
            with pytest.raises(errors.StoreUnsuitable, match=r"--replSet rs0.*rs\.initiate\(\)"):
                call()
    finally:
        server.kill()
        server.wait(20)


def test_a_server_without_its_user_refuses_the_credentials(mongod: Mongod, closing: Any) -> None:
    uri = mongod.uri.replace("mongodb://", "mongodb://ann:s3cr3t@")
    with pytest.raises(errors.StoreUnsuitable, match="refused the credentials") as said:
        closing(uri).check()
    assert "s3cr3t" not in str(said.value)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (91, errors.StoreUnreachable),  # shutting down
        (10107, errors.StoreUnreachable),  # not primary
        (14031, errors.StoreUnreachable),  # out of disk
        (50, errors.StoreUnreachable),  # took too long
        (13, errors.StoreUnsuitable),  # not allowed
        (121, errors.InvalidDocument),  # refused by a validator
        (9, errors.InvalidDocument),  # does not parse
    ],
)
def test_each_kind_of_refusal_leaves_as_its_own_error(
    mongo_client: Any, mongod: Mongod, database: Any, closing: Any, code: int, kind: type[Exception]
) -> None:
    store = closing(mongod.uri, database=database.name, timeout=2.0)
    store.now()
    task_id = str(ObjectId())
    data = {"failCommands": ["findAndModify"], "errorCode": code, "namespace": f"{database.name}.tasks"}
    mongo_client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
    try:
        with pytest.raises(kind):
            store.queue.release(task_id, "token")
    finally:
        mongo_client.admin.command("configureFailPoint", "failCommand", mode="off")


def test_tls_files_are_joined_in_a_private_file_that_goes_once_it_is_read(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("CERTIFICATE\n")
    key.write_text("KEY\n")
    options, joined = tls_options("ca.pem", str(certificate), str(key))
    assert joined is not None
    try:
        assert joined.read_text() == "CERTIFICATE\nKEY\n"
        assert stat.S_IMODE(joined.stat().st_mode) == 0o600
        assert options == {"tls": True, "tlsCAFile": "ca.pem", "tlsCertificateKeyFile": str(joined)}
    finally:
        joined.unlink()
    assert tls_options(None, None, None) == ({}, None)
    assert tls_options(None, str(certificate), None)[0]["tlsCertificateKeyFile"] == str(certificate)


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidSettings, match="tls_cert"):
        connect("mongodb://127.0.0.1", tls_key="key.pem")
    with pytest.raises(errors.InvalidSettings, match=r"cannot read .*missing.pem"):
        connect("mongodb://127.0.0.1", tls_cert=str(tmp_path / "missing.pem"), tls_key="key.pem")
    with pytest.raises(errors.StoreUnsuitable):
        connect("mongodb://127.0.0.1", tls_ca=str(tmp_path / "missing.pem"))


def make_certificates(folder: Path) -> None:
    """A certificate authority and a server's and a client's certificate, by openssl."""

    def run(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)

    run(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=ca",
        "-days",
        "2",
    )
    for name in ("server", "client"):
        run(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}/O=x",
        )
        (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "ext")  # fmt: skip
    (folder / "server-both.pem").write_text((folder / "server.pem").read_text() + (folder / "server.key").read_text())


def test_a_server_that_wants_tls_and_a_certificate_is_reached_by_settings(
    mongod: Mongod, tmp_path: Path, closing: Any
) -> None:
    make_certificates(tmp_path)
    (tmp_path / "db").mkdir()
    binary, port = find_mongod(tmp_path / "lib"), unused_port()
    server = subprocess.Popen(
        [binary.path, "--dbpath", tmp_path / "db", "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket",
         "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "16", "--replSet", "rs0", "--tlsMode", "requireTLS",
         "--tlsCertificateKeyFile", tmp_path / "server-both.pem", "--tlsCAFile", tmp_path / "ca.pem",
         "--setParameter", "diagnosticDataCollectionEnabled=false"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **binary.environment},
    )  # fmt: skip
    files = {"tls_ca": tmp_path / "ca.pem", "tls_cert": tmp_path / "client.pem", "tls_key": tmp_path / "client.key"}
    try:
        (tmp_path / "client-both.pem").write_text(files["tls_cert"].read_text() + files["tls_key"].read_text())
        with pymongo.MongoClient(
            "127.0.0.1", port, tls=True, tlsCAFile=str(files["tls_ca"]), directConnection=True,
            tlsCertificateKeyFile=str(tmp_path / "client-both.pem"), serverSelectionTimeoutMS=20_000,
        ) as admin:  # fmt: skip
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            admin.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        before = set(Path("/tmp").glob("slotsched-tls-*"))
        store = closing(
            f"mongodb://127.0.0.1:{port}", timeout=15.0, **{name: str(path) for name, path in files.items()}
        )
        assert set(Path("/tmp").glob("slotsched-tls-*")) <= before
        assert store.check().set_name == "rs0"
        plain = closing(f"mongodb://127.0.0.1:{port}", timeout=1.0)
        with pytest.raises(errors.StoreUnreachable):
            plain.check()
        stranger = closing(f"mongodb://127.0.0.1:{port}/?tls=true", timeout=1.0)
        with pytest.raises(errors.StoreUnreachable, match="tls_ca"):
            stranger.check()
    finally:
        server.kill()
        server.wait(20)
