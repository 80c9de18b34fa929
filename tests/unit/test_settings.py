"""Where settings come from, which source wins, and what is said when one is wrong."""

import json
from pathlib import Path

import pytest

from slotsched.errors import InvalidSettings
from slotsched.settings import load


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "work").mkdir()
    return {"HOME": str(tmp_path / "home")}


def test_flags_win_over_variables_over_files_over_defaults(home: dict[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "slotsched.toml").write_text('slots = 3\nname = "file"\ndatabase = "file"\n')
    environ = {**home, "SLOTSCHED_NAME": "variable", "SLOTSCHED_DATABASE": "variable"}
    loaded = load({"database": "flag", "lease": None}, environ, work)
    assert (loaded.settings.slots, loaded.settings.name, loaded.settings.database) == (3, "variable", "flag")
    assert loaded.origins["slots"] == str(work / "slotsched.toml")
    assert loaded.origins["name"] == "SLOTSCHED_NAME"
    assert loaded.origins["database"] == "--database"
    assert loaded.origins["lease"] == "default"


def test_the_nearer_file_wins(home: dict[str, str], tmp_path: Path) -> None:
    xdg = tmp_path / "xdg" / "slotsched"
    xdg.mkdir(parents=True)
    (xdg / "slotsched.toml").write_text('slots = 5\nname = "xdg"\n')
    (tmp_path / "work" / "slotsched.toml").write_text("slots = 6\n")
    loaded = load({}, {**home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}, tmp_path / "work")
    assert (loaded.settings.slots, loaded.settings.name) == (6, "xdg")


def test_a_relative_path_in_a_file_is_relative_to_that_file(home: dict[str, str], tmp_path: Path) -> None:
    xdg = tmp_path / "xdg" / "slotsched"
    xdg.mkdir(parents=True)
    (xdg / "slotsched.toml").write_text('jobs_dir = "jobs"\nlog_store = "logs"\n')
    loaded = load({}, {**home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}, tmp_path / "work")
    assert loaded.settings.jobs_dir == xdg / "jobs"
    assert loaded.settings.log_store == str(xdg / "logs")


def test_a_secret_can_come_from_a_file(home: dict[str, str], tmp_path: Path) -> None:
    secret = tmp_path / "uri"
    secret.write_text("mongodb://user:secret@db\n")
    loaded = load({}, {**home, "SLOTSCHED_MONGODB_URI_FILE": str(secret)}, tmp_path / "work")
    assert loaded.settings.mongodb_uri == "mongodb://user:secret@db"


def test_a_mistyped_variable_is_a_warning_with_a_suggestion(home: dict[str, str], tmp_path: Path) -> None:
    loaded = load({}, {**home, "SLOTSCHED_SLOT": "4", "SLOTSCHED_TASK_ID": "x"}, tmp_path / "work")
    assert loaded.warnings == ("SLOTSCHED_SLOT is no setting, did you mean SLOTSCHED_SLOTS?",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"slots": "0"}, "--slots: '0' is not a whole number of at least 1, nor auto"),
        ({"slots": "2.5"}, "not a whole number"),
        ({"lease": "0.1s"}, "less than the 1 s"),
        ({"keep": "0"}, "--keep: '0' would delete what has just ended; it must be at least 60 s"),
        ({"keep": "59s"}, "would delete what has just ended"),
        ({"keep": "800000d"}, "--keep: '800000d' is more than 36600 days"),
        ({"s3_checksums": "never"}, "none of when_supported, when_required"),
        ({"resources": "gpu"}, "not a list of name=units"),
        ({"resources": "gpu=-1"}, "'-1' is not a whole number of at least 1"),
        ({"resources": "g|u=1"}, "'g|u' is not a name (letters, digits, _ and -)"),
        ({"log_level": "loud"}, "none of trace"),
        ({"mongodb_uri": ""}, "not a non-empty text"),
        ({"jobs_dir": "~nosuchuser/x"}, "--jobs-dir: '~nosuchuser/x': nobody knows the home folder that ~nosuchuser"),
        ({"log_store": "~nosuchuser/x"}, "--log-store: '~nosuchuser/x': nobody knows the home folder"),
        ({"log_store": "file://~nosuchuser/x"}, "--log-store: '~nosuchuser/x': nobody knows the home folder"),
    ],
)
def test_a_bad_value_names_its_source(
    home: dict[str, str], tmp_path: Path, flags: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(flags, home, tmp_path / "work")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"slots = inf", "slots: inf is not a whole number of at least 1, nor auto"),
        (b"slots = nan", "slots: nan is not a whole number"),
        (b"slots = 1" + b"0" * 400, "slots: 10000"),
        (b"resources = { gpu = inf }", "resources: inf is not a whole number"),
        (b'jobs_dir = "~nosuchuser/x"', "jobs_dir: '~nosuchuser/x': nobody knows the home folder"),
        (b'log_store = "~nosuchuser/x"', "log_store: '~nosuchuser/x': nobody knows the home folder"),
        (b'name = "caf\xe9"', "not UTF-8: invalid continuation byte at byte 12"),
        (b"tags = " + b"[" * 100_000, "nested too deeply"),
        (b"slots = ", "Invalid value"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_in_one_line(
    home: dict[str, str], tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "work" / "slotsched.toml"
    file.write_bytes(content + b"\n")
    with pytest.raises(InvalidSettings) as caught:
        load({}, home, tmp_path / "work")
    said = str(caught.value)
    assert said.startswith(f"{file}: {message}")
    assert len(said.replace(str(file), "").splitlines()[0]) == len(said.replace(str(file), "")) < 200


def test_a_home_that_nobody_knows_is_said(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_user: int) -> None:
        raise KeyError("a user without a name, as in containers")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(InvalidSettings, match="--state-dir: '~/x': nobody knows the home folder that ~ stands for"):
        load({"state_dir": "~/x"}, {}, tmp_path / "work")


def test_a_home_is_one_wherever_it_is_named(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    file = tmp_path / "work" / "slotsched.toml"
    file.write_text('jobs_dir = "~/jobs"\nlog_store = "~/logs"\n')
    settings = load({"state_dir": "~/state"}, home, tmp_path / "work").settings
    assert (settings.jobs_dir, settings.state_dir) == (Path("/home/ann/jobs"), Path("/home/ann/state"))
    assert settings.log_store == "/home/ann/logs"
    for url in ("s3://bucket/~x", "/logs", "logs"):
        assert load({"log_store": url}, home, tmp_path / "work").settings.log_store == url


def test_an_unknown_key_in_a_file_is_an_error_with_a_suggestion(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "work" / "slotsched.toml").write_text("slot = 3\n")
    with pytest.raises(InvalidSettings, match='unknown setting "slot", did you mean "slots"'):
        load({}, home, tmp_path / "work")


def test_parsed_values_have_their_units(home: dict[str, str], tmp_path: Path) -> None:
    flags = {"memory": "2G", "lease": "1m", "resources": "gpu=2,license=1", "tags": "ssd, x86", "slots": "auto"}
    settings = load(flags, home, tmp_path / "work").settings
    assert (settings.memory, settings.lease, settings.slots) == (2 << 30, 60.0, None)
    assert settings.resources == {"gpu": 2, "license": 1}
    assert settings.tags == ("ssd", "x86")


def test_without_a_uri_the_store_of_a_running_up_is_meant(home: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    found = {"mongodb_uri": "mongodb://127.0.0.1:9999", "log_store": "/logs", "jobs_dir": "/jobs"}
    (state / "up.json").write_text(json.dumps(found))
    loaded = load({"state_dir": str(state)}, home, tmp_path / "work")
    assert loaded.settings.mongodb_uri == "mongodb://127.0.0.1:9999"
    assert loaded.origins["mongodb_uri"] == "slotsched up"
    named = load({"state_dir": str(state), "mongodb_uri": "mongodb://db"}, home, tmp_path / "work")
    assert named.settings.mongodb_uri == "mongodb://db"
