"""Tokens of the web face and browsers' sessions: who gets in, until when, and that nonsense opens nothing (F24)."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from typing import Any

import pytest
from bson import Int64, ObjectId
from bson.raw_bson import RawBSONDocument
from fleet import until

from slotsched import errors
from slotsched.model import Token
from slotsched.store import Store
from slotsched.store.indexes import INDEXES
from slotsched.store.tokens import PREFIX, SESSION_SECONDS

SECRET = "slot_ours"
LAST_YEAR = dt.timedelta(days=365)


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@pytest.fixture
def tokens(mongo_client: Any, database: Any) -> Any:
    """The collection, behind the store's back."""
    return mongo_client[database.name].tokens


def verified(store: Store, secret: str) -> Token:
    found = store.tokens.verify(secret)
    assert found is not None
    return found


def opened(store: Store, name: str = "ann", **how: Any) -> tuple[str, str]:
    """A new token's secret and that of a session with it."""
    secret = store.tokens.add(name, **how)
    return secret, store.tokens.open_session(verified(store, secret))


def expire(store: Store, tokens: Any, name: str) -> None:
    assert tokens.update_one({"_id": name}, {"$set": {"expires_at": store.now()}}).modified_count == 1


# --- tokens -----------------------------------------------------------------------------------------
def test_a_tokens_secret_names_whom_it_stands_for_and_what_they_may(store: Store) -> None:
    began = store.now() - dt.timedelta(seconds=1)
    ann, bob = store.tokens.add("ann"), store.tokens.add("bob@host.example", read_only=True, lifetime=3600.0)
    found = [verified(store, secret) for secret in (ann, bob)]
    assert [(one.name, one.read_only) for one in found] == [("ann", False), ("bob@host.example", True)]
    assert all(began <= one.created_at <= store.now() + dt.timedelta(seconds=1) for one in found)
    assert found[0].expires_at is None
    assert found[1].expires_at == found[1].created_at + dt.timedelta(hours=1)
    assert store.tokens.find() == found


def test_a_secret_is_long_random_and_known_by_its_beginning(store: Store) -> None:
    made = {store.tokens.add(f"t{number}") for number in range(5)}
    assert len(made) == 5
    assert all(re.fullmatch(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}", secret) for secret in made)


def test_only_hashes_of_secrets_are_stored(store: Store, tokens: Any) -> None:
    secret, session = opened(store)
    documents = list(tokens.find())
    assert {document["hash"] for document in documents} == {hashed(secret), hashed(session)}
    for told in (secret, secret.removeprefix(PREFIX), session):
        assert told not in repr(documents)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "ann",
        PREFIX,
        "x" * 200,
        "x" * 201,
        "x" * (17 << 20),
        "\udc80\ud800",
        "a\0b",
        '{"$gt": ""}',
        "\N{GRINNING FACE}" * 50,
    ],
    ids=["none", "a name", "its beginning", "long", "too long", "17 MB", "surrogates", "NUL", "an operator", "emoji"],
)
def test_a_wrong_secret_opens_nothing(store: Store, wrong: str) -> None:
    secret, session = opened(store)
    for given in (wrong, secret + wrong[:10] if wrong else secret[:-1], secret.upper(), session):
        assert store.tokens.verify(given) is None
    for given in (wrong, session + wrong[:10] if wrong else session[:-1], secret):
        assert store.tokens.session(given) is None
    store.tokens.close_session(wrong)
    assert store.tokens.session(session) == verified(store, secret)


def test_a_stored_hash_is_no_secret(store: Store, tokens: Any) -> None:
    opened(store)
    for document in tokens.find():
        assert store.tokens.verify(document["hash"]) is None
        assert store.tokens.session(document["hash"]) is None


@pytest.mark.parametrize("name", ["a", "0", "Z", "ann.b_c@d-e", "a" * 64])
def test_a_name_is_letters_digits_and_four_signs(store: Store, name: str) -> None:
    assert verified(store, store.tokens.add(name)).name == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "ann\n", "-ann", "$ann", "a b", "a/b", ".ann", "a" * 65, "é", "a\0", "\udc80", "٣", "a\x1b[31m"],
)
def test_what_is_no_name_is_refused_with_what_is_one(store: Store, tokens: Any, name: str) -> None:
    with pytest.raises(errors.UsageError, match="1 to 64 letters, digits"):
        store.tokens.add(name)
    assert tokens.count_documents({}) == 0


def test_a_taken_name_is_refused_and_its_first_secret_stays_good(store: Store) -> None:
    secret = store.tokens.add("ann", read_only=True)
    with pytest.raises(errors.Refused, match="remove it first: slotsched token rm ann"):
        store.tokens.add("ann")
    assert verified(store, secret).read_only
    assert len(store.tokens.find()) == 1


@pytest.mark.parametrize("lifetime", [1e10, 1e300, math.inf, math.nan])
def test_a_lifetime_beyond_all_dates_is_refused(store: Store, tokens: Any, lifetime: float) -> None:
    with pytest.raises(errors.UsageError, match="31 years"):
        store.tokens.add("ann", lifetime=lifetime)
    assert tokens.count_documents({}) == 0


def test_tokens_are_listed_by_name_and_sessions_are_not(store: Store) -> None:
    for name in ("zoe", "ann", "Bob", "0"):
        opened(store, name)
    assert [token.name for token in store.tokens.find()] == ["0", "Bob", "ann", "zoe"]


def test_there_is_no_token_until_the_first_and_after_the_last(store: Store) -> None:
    assert not store.tokens.any()
    opened(store)
    assert store.tokens.any()
    store.tokens.remove("ann")
    assert not store.tokens.any()


def test_removing_what_is_not_there_is_told(store: Store) -> None:
    _, session = opened(store)
    for name in ("bob", "", "\0", hashed(session)):
        with pytest.raises(errors.NotFound, match="slotsched token ls"):
            store.tokens.remove(name)
    assert store.tokens.session(session) is not None, "a session is no token"


def test_the_first_token_makes_its_indexes_where_nobody_did(database: Any, mongo_client: Any) -> None:
    from slotsched.store import connect

    fresh = connect(database.uri, database.name, timeout=10.0)
    try:
        fresh.tokens.add("ann")
    finally:
        fresh.close()
    there = mongo_client[database.name].tokens.index_information()
    assert {index.document["name"] for index in INDEXES["tokens"]} <= set(there)


# --- their end --------------------------------------------------------------------------------------
def test_a_token_ends_by_the_servers_clock(store: Store, tokens: Any) -> None:
    """Not by this machine's, as if the server's were two hours further."""
    secret = store.tokens.add("ann", lifetime=3600.0)
    lasting, session = opened(store, "bob")
    measured_at, offset = store._connection._offset or (0.0, 0.0)
    store._connection._offset = (measured_at, offset + 7200.0)
    assert store.tokens.verify(secret) is None
    assert store.tokens.session(session) == verified(store, lasting)
    store._connection._offset = (measured_at, offset + SESSION_SECONDS + 1.0)
    assert store.tokens.session(session) is None
    store._connection._offset = (measured_at, offset)
    assert store.tokens.verify(secret) is not None


def test_a_tokens_end_is_the_end_of_its_sessions(store: Store, tokens: Any) -> None:
    secret, session = opened(store, lifetime=3600.0)
    assert store.tokens.session(session) == verified(store, secret)
    expire(store, tokens, "ann")
    assert (store.tokens.verify(secret), store.tokens.session(session)) == (None, None)


def test_an_expired_token_keeps_the_door_shut_and_its_name_taken(store: Store, tokens: Any) -> None:
    store.tokens.add("ann", lifetime=0.0)
    [shown] = store.tokens.find()
    assert shown.expires_at is not None
    assert shown.expires_at <= store.now()
    assert store.tokens.any()
    with pytest.raises(errors.Refused, match="there is a token"):
        store.tokens.add("ann")


def test_the_server_removes_sessions_that_are_over_and_no_token(store: Store, tokens: Any) -> None:
    _, over = opened(store, "ann", lifetime=3600.0)
    _, good = opened(store, "bob")
    long_ago = store.now() - LAST_YEAR
    tokens.update_many({"_id": {"$in": ["ann", hashed(over)]}}, {"$set": {"expires_at": long_ago}})
    until(lambda: tokens.find_one({"_id": hashed(over)}) is None, what="the session to go")
    assert {document["_id"] for document in tokens.find()} == {"ann", "bob", hashed(good)}
    assert store.tokens.any()


# --- sessions ---------------------------------------------------------------------------------------
def test_a_session_stands_for_its_token_for_some_hours(store: Store, tokens: Any) -> None:
    secret, session = opened(store, read_only=True)
    assert store.tokens.session(session) == verified(store, secret)
    document = tokens.find_one({"_id": hashed(session)})
    assert document["expires_at"] - document["created_at"] == dt.timedelta(seconds=SESSION_SECONDS)


def test_a_session_ends_by_itself(store: Store, tokens: Any) -> None:
    """Before the server has removed it, too: it looks once a minute."""
    secret, session = opened(store)
    [ttl] = [index for index in INDEXES["tokens"] if index.document["name"] == "ttl"]
    tokens.drop_index(ttl.document["name"])
    expire(store, tokens, hashed(session))
    assert store.tokens.session(session) is None
    assert store.tokens.verify(secret) is not None


def test_closing_a_session_ends_that_one_only(store: Store) -> None:
    secret, mine = opened(store)
    yours = store.tokens.open_session(verified(store, secret))
    for _ in range(2):
        store.tokens.close_session(mine)
        assert store.tokens.session(mine) is None
    store.tokens.close_session(secret)  # that of a token closes nothing
    assert store.tokens.session(yours) == verified(store, secret)


def test_a_removed_tokens_sessions_are_refused_and_gone_and_the_others_stay(store: Store, tokens: Any) -> None:
    secret, session = opened(store, "ann")
    other, others = opened(store, "bob")
    store.tokens.remove("ann")
    assert (store.tokens.verify(secret), store.tokens.session(session)) == (None, None)
    assert {document["_id"] for document in tokens.find()} == {"bob", hashed(others)}
    assert store.tokens.session(others) == verified(store, other)


def test_a_removed_tokens_session_is_refused_while_its_document_is_there(store: Store, tokens: Any) -> None:
    """Also one that was opened while the token was being removed."""
    secret, session = opened(store)
    token = verified(store, secret)
    assert tokens.delete_one({"_id": "ann"}).deleted_count == 1
    late = store.tokens.open_session(token)
    assert (store.tokens.session(session), store.tokens.session(late)) == (None, None)
    assert tokens.count_documents({}) == 2
    assert not store.tokens.any(), "sessions are no tokens"


def test_a_new_token_of_the_same_name_does_not_revive_the_old_ones_sessions(store: Store, tokens: Any) -> None:
    secret, session = opened(store)
    token = verified(store, secret)
    tokens.delete_one({"_id": "ann"})  # a removal whose second half did not come
    fresh, good = opened(store)
    late = store.tokens.open_session(token)
    assert [store.tokens.session(one) for one in (session, late)] == [None, None]
    assert store.tokens.session(good) == verified(store, fresh)
    store.tokens.remove("ann")
    assert tokens.count_documents({}) == 0


def test_a_removal_that_was_cut_short_is_finished_by_asking_again(store: Store, tokens: Any) -> None:
    _, session = opened(store)
    tokens.delete_one({"_id": "ann"})
    with pytest.raises(errors.NotFound):
        store.tokens.remove("ann")
    assert tokens.find_one({"_id": hashed(session)}) is None


# --- documents that make no sense -------------------------------------------------------------------
VALUES: dict[str, Any] = {
    "null": None,
    "a number": 7,
    "NaN": math.nan,
    "a large number": Int64(2**62),
    "1e300": 1e300,
    "a text": "soon",
    "an object": {"$gt": ""},
    "a list": [],
    "bytes": b"\xff\0",
    "an id": ObjectId(),
    "2 MB": "x" * (2 << 20),
}
TOKEN_FIELDS = ("hash", "read_only", "created_at", "expires_at", "parent")
SESSION_FIELDS = ("hash", "parent", "parent_at", "expires_at")
MISSING = object()


def damaged(document: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    return {name: content for name, content in (document | {field: value}).items() if content is not MISSING}


@pytest.mark.parametrize("field", TOKEN_FIELDS)
def test_a_token_at_fault_opens_nothing_and_can_be_removed(store: Store, tokens: Any, field: str) -> None:
    sound = {"_id": "odd", "hash": hashed(SECRET), "read_only": False, "created_at": store.now()}
    tokens.insert_one(sound)
    assert verified(store, SECRET).name == "odd", "the template is sound"
    secret, session = opened(store)
    cases = dict(VALUES)
    if field not in ("expires_at", "parent"):
        cases["missing"] = MISSING
    if field == "hash":
        cases["a list of it"] = [hashed(SECRET), hashed("other")]
    for what, value in cases.items():
        tokens.delete_one({"_id": "odd"})
        tokens.insert_one(damaged(sound, field, value))
        assert store.tokens.verify(SECRET) is None, what
        assert store.tokens.session(SECRET) is None, what
        _everybody_else_goes_on(store, secret, session)
        if field == "parent":
            continue  # with one it is no token
        shown = {token.name: token for token in store.tokens.find()}
        assert set(shown) == {"ann", "odd"}, what
        store.tokens.remove("odd")
        assert [token.name for token in store.tokens.find()] == ["ann"], what


@pytest.mark.parametrize("field", ["read_only", "created_at", "expires_at"])
def test_a_token_that_cannot_be_read_is_listed_as_expired_and_keeps_the_door_shut(
    store: Store, tokens: Any, field: str
) -> None:
    tokens.insert_one(
        {"_id": "odd", "hash": hashed(SECRET), "read_only": False, "created_at": store.now(), field: None}
    )
    [shown] = store.tokens.find()
    assert (shown.name, shown.read_only) == ("odd", True)
    assert shown.expires_at is not None
    assert shown.expires_at < store.now()
    assert store.tokens.any()


@pytest.mark.parametrize("field", SESSION_FIELDS)
def test_a_session_at_fault_opens_nothing(store: Store, tokens: Any, field: str) -> None:
    secret, session = opened(store)
    _, odd = opened(store, "bob")
    sound = tokens.find_one({"_id": hashed(odd)})
    cases = VALUES | {"missing": MISSING}
    if field == "hash":
        cases["a list of it"] = [hashed(odd), hashed("other")]
    if field == "parent":
        cases["a list of it"] = ["bob"]
    for what, value in cases.items():
        tokens.delete_one({"_id": sound["_id"]})
        tokens.insert_one(damaged(sound, field, value))
        assert store.tokens.session(odd) is None, what
        assert store.tokens.verify(odd) is None, what
        _everybody_else_goes_on(store, secret, session)
    assert "bob" in [token.name for token in store.tokens.find()]


@pytest.mark.parametrize("name", [7, 1.5, True, ObjectId(), {"a": 1}, dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "a b\n"])
def test_a_token_by_another_name_than_ours_opens_nothing_and_can_be_removed(
    store: Store, tokens: Any, name: Any
) -> None:
    tokens.insert_one({"_id": name, "hash": hashed(SECRET), "read_only": "no", "created_at": store.now()})
    secret, session = opened(store)
    assert store.tokens.verify(SECRET) is None
    [strange] = [token.name for token in store.tokens.find() if token.name != "ann"]
    store.tokens.remove(strange)
    assert [token.name for token in store.tokens.find()] == ["ann"]
    _everybody_else_goes_on(store, secret, session)


def test_a_removal_means_the_token_of_that_very_name_first(store: Store, tokens: Any) -> None:
    tokens.insert_one({"_id": 7})
    secret = store.tokens.add("7")
    store.tokens.remove("7")
    assert store.tokens.verify(secret) is None
    assert [document["_id"] for document in tokens.find()] == [7]


def test_texts_that_are_no_unicode_and_dates_beyond_the_calendar_stop_nothing(store: Store, tokens: Any) -> None:
    """As another driver may write them."""
    secret, session = opened(store)
    far = b"\x09expires_at\0" + (2**62).to_bytes(8, "little")
    fields = b"\x02_id\0\x04\0\0\0o\xffd\0" + b"\x02hash\0\x41\0\0\0" + hashed(SECRET).encode() + b"\0" + far
    body = fields + b"\x08read_only\0\0" + b"\x09created_at\0" + (2**62).to_bytes(8, "little") + b"\0"
    document = (len(body) + 4).to_bytes(4, "little") + body
    tokens.insert_one(RawBSONDocument(document))
    assert store.tokens.verify(SECRET) is None
    assert [token.name for token in store.tokens.find()] == ["ann", "o�d"]
    _everybody_else_goes_on(store, secret, session)


def test_documents_without_anything_do_not_keep_the_indexes_from_being_made(
    database: Any, mongo_client: Any, tokens: Any
) -> None:
    """Whoever wrote them came before slotsched did."""
    from slotsched.store import connect

    tokens.insert_many([{}, {}, {"hash": None}, {"parent": None}, {"hash": [], "expires_at": "never", "parent": 5}])
    fresh = connect(database.uri, database.name, timeout=10.0)
    try:
        fresh.init()
        secret, session = opened(fresh)
        _everybody_else_goes_on(fresh, secret, session)
    finally:
        fresh.close()


def _everybody_else_goes_on(store: Store, secret: str, session: str) -> None:
    assert store.tokens.session(session) == verified(store, secret)
    assert store.tokens.any()
    store.tokens.add("other")
    store.tokens.remove("other")
