"""The registry: all or none of what is asked, every change kept, one password a device."""

from __future__ import annotations

import csv
import io
import json
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgekit.agent.config import load_config
from edgekit.fleet import registry as module
from edgekit.fleet.broker.accounts import is_password, read_passwords
from edgekit.fleet.broker.authority import certify
from edgekit.fleet.broker.retained import forget_removed
from edgekit.fleet.home import FleetHome
from edgekit.fleet.registry import (
    MAX_CSV_BYTES,
    MAX_LABELS,
    NewDevice,
    Registry,
    check_labels,
    parse_csv,
    read_csv,
)
from edgekit.fleet.settings import Settings
from edgekit.fleet.store import open_store
from edgekit.fleet.store.schema import audit, devices
from edgekit.wire.errors import ConfigError, EdgekitError, TrustError, UsageError
from edgekit.wire.signing import generate_key

ROLES = {".alerts", ".ingest", ".web"}
KEY = generate_key("orders").public
NAMES = st.from_regex(r"[a-z0-9_][a-z0-9._-]{0,20}", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=20)
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)


@dataclass
class Fleet:
    """A fleet's folder with its registry."""

    path: Path
    options: Settings = field(default_factory=lambda: Settings(name="north"))
    reloads: list[dict[str, str]] = field(default_factory=list)
    forgotten: list[Sequence[str]] = field(default_factory=list)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self.home = FleetHome.create(self.path / "fleet")
        self.out = self.path / "devices"
        self.engine = open_store(self.home.database)

    @property
    def registry(self) -> Registry:
        """What is tested; the broker sees the accounts as they are when it is told of them."""
        return Registry(
            self.home,
            self.options,
            self.engine,
            [KEY],
            lambda: self.reloads.append(self.hashes()),
            self.forgotten.append,
            lambda: self.now_s,
        )

    def hashes(self) -> dict[str, str]:
        """Those of devices."""
        found = read_passwords(self.home)
        return {name: value for name, value in found.items() if name not in ROLES}

    def labels(self) -> dict[str, dict[str, str]]:
        """By device."""
        return {one.name: dict(one.labels) for one in self.registry.registered()}

    def audited(self) -> list[tuple[str, str, str, str, float]]:
        """All rows of the audit log."""
        query = sa.select(audit).order_by(audit.c.id)
        with self.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [(r["user"], r["action"], r["subject"], r["detail"], r["at_s"]) for r in rows]

    def everything(self) -> tuple[object, ...]:
        """All that a command might change."""
        files = sorted(str(path) for path in self.path.rglob("*") if ".db" not in path.name)
        files = [name for name in files if not name.endswith(("passwords.lock", ".password"))]
        files = [name for name in files if name != str(self.out)]
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(devices).order_by(devices.c.name)).all()
        return self.hashes(), [tuple(row) for row in rows], self.audited(), files


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.engine.dispose()


def new(name: str, **labels: str) -> NewDevice:
    return NewDevice(name, "rpi5", labels)


def test_a_device_gets_what_lets_it_in_and_nobody_else_can_read_it(fleet):
    (config,) = fleet.registry.add([new("cam-1", site="roof")], fleet.out)
    read = load_config(config)
    assert (read.fleet, read.device, read.target) == ("north", "cam-1", "rpi5")
    assert config == fleet.out / "cam-1" / "agent.json"
    password = (config.parent / "broker.password").read_text()
    assert is_password(password, fleet.hashes()["cam-1"])
    assert password not in (fleet.home.broker / "passwords").read_text()
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in config.parent.iterdir()} == {0o600}
    assert fleet.labels() == {"cam-1": {"site": "roof"}}
    assert fleet.registry.registered()[0].added_s == 1000.0
    assert fleet.audited() == [("cli", "device.add", "cam-1", "", 1000.0)]
    assert fleet.reloads == [fleet.hashes()], "the broker is told once the accounts are written"
    assert set(read_passwords(fleet.home)) == {"cam-1", *ROLES}


def test_each_device_has_a_password_of_its_own(fleet):
    made = fleet.registry.add([new(f"cam-{n}") for n in range(20)], fleet.out)
    assert len({(path.parent / "broker.password").read_text() for path in made}) == 20
    assert len(fleet.reloads) == 1
    assert [row[2] for row in fleet.audited()] == [f"cam-{n}" for n in range(20)]


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (new("old"), UsageError, "a device is named old already"),
        (new("good"), UsageError, "a device is named good already"),
        (new("there"), UsageError, "folder is there already"),
        (new("../up"), TrustError, "is no device for a topic"),
        (new(".web"), TrustError, "is no device for a topic"),
        (new("a/#"), TrustError, "is no device for a topic"),
        (new(""), TrustError, "is no device for a topic"),
        (new("bad", **{"a b": "x"}), UsageError, "'a b' is no key of a label"),
        (new("bad", site="a\nb"), UsageError, "the value of site is no label"),
    ],
)
def test_one_that_cannot_be_added_leaves_all_as_it_was(fleet, bad, error, message):
    fleet.registry.add([new("old")], fleet.out)
    (fleet.out / "there").mkdir()
    fleet.reloads.clear()
    before = fleet.everything()
    with pytest.raises(error, match=message):
        fleet.registry.add([new("good"), bad], fleet.out)
    assert fleet.everything() == before
    assert not fleet.reloads


def test_a_folder_that_cannot_be_made_leaves_all_as_it_was(fleet):
    fleet.out.mkdir()
    (fleet.out / "cam-2").symlink_to(fleet.path / "nowhere")
    before = fleet.everything()
    with pytest.raises(ConfigError, match="folder cannot be made"):
        fleet.registry.add([new("cam-1"), new("cam-2")], fleet.out)
    assert fleet.everything() == before


def test_what_somebody_else_made_meanwhile_is_not_deleted(fleet, monkeypatch):
    theirs = fleet.out / "cam-1" / "theirs"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("kept")
    monkeypatch.setattr(Registry, "_check", lambda *_: None)
    with pytest.raises(ConfigError, match="folder cannot be made"):
        fleet.registry.add([new("cam-1")], fleet.out)
    assert theirs.read_text() == "kept"


def test_passwords_that_cannot_be_written_leave_all_as_it_was(fleet, monkeypatch):
    fleet.registry.add([new("old")], fleet.out)
    before = fleet.everything()

    def fails(*_: object) -> None:
        raise ConfigError("cannot be written: No space left on device")

    monkeypatch.setattr(module, "write_passwords", fails)
    with pytest.raises(ConfigError, match="No space left"):
        fleet.registry.add([new("cam-1"), new("cam-2")], fleet.out)
    assert fleet.everything() == before


def test_a_store_that_does_not_commit_leaves_all_as_it_was(fleet):
    fleet.registry.add([new("old")], fleet.out)
    before, told = fleet.everything(), len(fleet.reloads)

    def fails(_: object) -> None:
        raise OSError("disk full")

    sa.event.listen(fleet.engine, "commit", fails)
    with pytest.raises(OSError, match="disk full"):
        fleet.registry.add([new("cam-1")], fleet.out)
    sa.event.remove(fleet.engine, "commit", fails)
    assert fleet.everything() == before
    assert len(fleet.reloads) == told
    fleet.registry.add([new("cam-1")], fleet.out)


def test_labels_are_set_and_taken_away(fleet):
    fleet.registry.add([new("cam-1", site="roof", kind="camera"), new("cam-2", a="b")], fleet.out)
    fleet.now_s = 2000.0
    assert fleet.registry.label("cam-1", {"site": "yard", "hall": "3"}, ["kind"]) == {
        "site": "yard",
        "hall": "3",
    }
    assert fleet.labels() == {"cam-1": {"site": "yard", "hall": "3"}, "cam-2": {"a": "b"}}
    assert fleet.audited()[-1] == ("cli", "device.label", "cam-1", "site=yard hall=3", 2000.0)
    for name, given_ in (("cam-9", {"a": "b"}), ("cam-1", {"a b": "c"}), ("cam-1", {"a": ""})):
        before = fleet.everything()
        with pytest.raises(UsageError):
            fleet.registry.label(name, given_)
        assert fleet.everything() == before


def test_a_device_that_is_removed_has_no_account(fleet):
    fleet.registry.add([new("cam-1", site="roof"), new("cam-2")], fleet.out)
    first = fleet.hashes()["cam-1"]
    fleet.now_s = 2000.0
    fleet.registry.remove(["cam-1", "cam-1"])
    assert set(fleet.hashes()) == set(fleet.labels()) == {"cam-2"}
    assert fleet.reloads[-1] == fleet.hashes()
    assert fleet.audited()[2:] == [("cli", "device.remove", "cam-1", "", 2000.0)]
    before = fleet.everything()
    with pytest.raises(UsageError, match="no device is named 'cam-1'"):
        fleet.registry.remove(["cam-2", "cam-1"])
    assert fleet.everything() == before
    with pytest.raises(UsageError, match="no device is named"):
        fleet.registry.label("cam-1", {"a": "b"})
    with pytest.raises(UsageError, match="folder is there already"):
        fleet.registry.add([new("cam-1")], fleet.out)
    fleet.registry.add([new("cam-1", site="yard")], fleet.path / "others")
    assert fleet.labels()["cam-1"] == {"site": "yard"}
    assert fleet.hashes()["cam-1"] != first, "the old password stays worthless"


def test_the_broker_hangs_up_even_where_the_store_fails(fleet):
    fleet.registry.add([new("cam-1")], fleet.out)

    def fails(_: object) -> None:
        raise OSError("disk full")

    sa.event.listen(fleet.engine, "commit", fails)
    with pytest.raises(OSError, match="disk full"):
        fleet.registry.remove(["cam-1"])
    sa.event.remove(fleet.engine, "commit", fails)
    assert fleet.reloads[-1] == {}
    assert set(fleet.labels()) == {"cam-1"}
    fleet.registry.remove(["cam-1"])
    assert fleet.labels() == {}


def test_two_who_add_at_once_lose_nothing(fleet):
    names = [[f"{who}-{n}" for n in range(5)] for who in "abcd"]
    threads = [
        threading.Thread(
            target=lambda own=own: [fleet.registry.add([new(n)], fleet.out) for n in own]
        )
        for own in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(fleet.hashes()) == set(fleet.labels()) == {n for own in names for n in own}


def test_beyond_loopback_a_device_speaks_tls(fleet):
    fleet.options = Settings(name="north", broker_listen="10.1.2.3", broker_tls_port=8884)
    before = fleet.everything()
    with pytest.raises(ConfigError, match="no authority yet") as raised:
        fleet.registry.add([new("cam-1")], fleet.out)
    assert "edgekit fleet up" in str(raised.value.hint)
    assert fleet.everything() == before
    certify(fleet.home.broker, ["10.1.2.3"], datetime.now(UTC))
    (config,) = fleet.registry.add([new("cam-1")], fleet.out)
    broker = json.loads(config.read_text())["broker"]
    assert (broker["host"], broker["port"]) == ("10.1.2.3", 8884)
    copied = (config.parent / broker["tls"]["ca_file"]).read_bytes()
    assert copied == (fleet.home.broker / "ca.pem").read_bytes()
    assert sorted(path.name for path in config.parent.iterdir()) == [
        "agent.json", "broker.password", "ca.pem",
    ]  # fmt: skip
    load_config(config)


def test_too_many_labels():
    labels = {f"k{n}": "v" for n in range(MAX_LABELS)}
    assert check_labels(labels) == labels
    with pytest.raises(UsageError, match="at most 64 labels"):
        check_labels({**labels, "one": "more"})


# ---- CSV


def test_a_file_is_read_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "devices.csv"
    text = '\ufeffname,target,site,note\r\ncam-1,rpi4, roof ,\r\n,,,\r\n\r\ncam-2,,"a,""b""",x\r\n'
    path.write_bytes(text.encode())
    assert read_csv(path, "rpi5") == [
        NewDevice("cam-1", "rpi4", {"site": "roof"}),
        NewDevice("cam-2", "rpi5", {"site": 'a,"b"', "note": "x"}),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cam-1", r"line 2: 1 cells in place of 3"),
        ("cam-1,rpi5,roof,x", r"line 2: 4 cells in place of 3"),
        ("ok,rpi5,a\ncam/1,rpi5,a", r"line 3: 'cam/1' is no device"),
        ("../../etc,rpi5,a", r"line 2: '../../etc' is no device"),
        (".web,rpi5,a", r"line 2: '.web' is no device"),
        (",rpi5,a", r"line 2: '' is no device"),
        ("cam\x00,rpi5,a", r"line 2: 'cam\\x00' is no device"),
        ("x" * 65 + ",rpi5,a", r"line 2: 'x{65}' is no device"),
        ("cam-1,,a", r"line 2: no target"),
        ("cam-1,rpi5,a\x1b[31m", r"line 2: the value of site is no label"),
        ("cam-1,rpi5," + "v" * 129, r"line 2: the value of site is no label"),
        ('cam-1,rpi5,"a\nb"\n', r"line 3: the value of site is no label"),
        ("ok,rpi5,a\nok,rpi5,b", r"line 3: ok stands here twice"),
        ('ok,rpi5,a\ncam-1,rpi5,"a', r"line 3: unexpected end of data"),
        ('ok,rpi5,a\ncam-1,rpi5,"a"b', r"line 3: ',' expected after '\"'"),
        ("ok,rpi5,a\ncam-1,rpi5," + "v" * 200_000, r"line 3: field larger than field limit"),
        ("a b,x,y\nok,rpi5,z\nc d,x,y", r"line 2: .*; line 4: "),
        ("a b,x,y\n" * 13, r"line 11: .*; and 3 more"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_imported(fleet, rows, message):
    path = fleet.path / "devices.csv"
    path.write_bytes(f"name,target,site\n{rows}".encode())
    before = fleet.everything()
    with pytest.raises(UsageError, match=message) as raised:
        fleet.registry.add(read_csv(path, ""), fleet.out)
    assert raised.value.hint == "nothing was imported"
    assert raised.value.where == str(path)
    assert fleet.everything() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name the columns"),
        ("device,site\ncam-1,roof\n", "first line must name the columns"),
        ("name,site,site\ncam-1,a,b\n", "first line must name the columns"),
        ("name,target\n", "no device stands in the file"),
        ('"name', "line 1: unexpected end of data"),
        ("name,a b\ncam-1,x\n", "line 2: 'a b' is no key of a label"),
    ],
)
def test_a_file_that_is_none(text, message):
    with pytest.raises(UsageError, match=message) as raised:
        parse_csv(text, "rpi5", "devices.csv")
    assert str(raised.value.where).startswith("devices.csv")


def test_a_file_that_cannot_be_read(tmp_path):
    path = tmp_path / "devices.csv"
    with pytest.raises(UsageError, match="cannot read it: no such file"):
        read_csv(path, "rpi5")
    path.write_bytes(b"name\n\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_csv(path, "rpi5")
    # The limit cuts a letter of two bytes in half.
    path.write_bytes(b"name\n" + "é".encode() * (MAX_CSV_BYTES // 2))
    with pytest.raises(UsageError, match="too large"):
        read_csv(path, "rpi5")


@given(st.dictionaries(NAMES, st.tuples(NAMES, LABELS), min_size=1, max_size=6))
def test_what_is_written_as_csv_is_read_back(rows):
    keys = sorted({key for _, labels in rows.values() for key in labels} - {"name", "target"})
    text = as_csv(
        [
            ["name", "target", *keys],
            *(
                [name, target, *(labels.get(key, "") for key in keys)]
                for name, (target, labels) in rows.items()
            ),
        ]
    )
    assert parse_csv(text, "", "f") == [
        NewDevice(name, target, {key: labels[key] for key in keys if key in labels})
        for name, (target, labels) in rows.items()
    ]


@given(st.text() | st.text(st.sampled_from('name,target"\r\n \x00a.-#/é')).map("name,a\n{}".format))
def test_any_text_is_devices_or_an_error_that_says_where(text):
    found, where = [], ""
    try:
        found = parse_csv(text, "rpi5", "devices.csv")
    except UsageError as error:
        where = str(error.where)
    assert bool(found) != where.startswith("devices.csv")
    for one in found:
        assert one == NewDevice(one.name, one.target, check_labels(one.labels))
        assert "/" not in one.name
        assert not one.name.startswith(".")


@given(
    st.lists(NAMES, max_size=8, unique=True),
    st.sampled_from(["a b", "../x", "#", "+", "Up", "x" * 65, "$share", "a\u202e"]),
    st.data(),
)
def test_the_bad_row_alone_is_named(names, bad, data):
    at = data.draw(st.integers(0, len(names)))
    text = as_csv([["name"], *([name] for name in [*names[:at], bad, *names[at:]])])
    with pytest.raises(UsageError) as raised:
        parse_csv(text, "rpi5", "f")
    assert raised.value.message.startswith(f"line {at + 2}: ")
    assert raised.value.message.count("line ") == 1


def as_csv(rows: list[list[str]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue()


# ---- any order of commands


class Commands(RuleBasedStateMachine):
    """Names, hashes, labels and the audit log agree after any commands, refused ones too."""

    folder: Path

    @initialize()
    def start(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.fleet = Fleet(self.folder)
        self.known: dict[str, dict[str, str]] = {}
        self.log: list[tuple[str, str]] = []
        self.batches = 0

    @rule(asked=st.lists(st.tuples(st.sampled_from("abcde"), LABELS), min_size=1, max_size=3))
    def add(self, asked: list[tuple[str, dict[str, str]]]) -> None:
        self.batches += 1
        names = [name for name, _ in asked]
        out = self.fleet.out / str(self.batches)
        wrong = len(set(names)) < len(names) or not self.known.keys().isdisjoint(names)
        try:
            self.fleet.registry.add([NewDevice(name, "rpi5", own) for name, own in asked], out)
        except EdgekitError:
            assert wrong
            assert not out.exists() or not list(out.iterdir())
            return
        assert not wrong
        self.known |= dict(asked)
        self.log += [("device.add", name) for name in names]

    @rule(name=st.sampled_from("abcde"), given=LABELS, gone=st.lists(KEYS, max_size=2))
    def label(self, name: str, given: dict[str, str], gone: list[str]) -> None:
        try:
            self.fleet.registry.label(name, given, gone)
        except UsageError:
            assert name not in self.known
            return
        both = self.known[name] | given
        self.known[name] = {key: value for key, value in both.items() if key not in gone}
        self.log.append(("device.label", name))

    @precondition(lambda self: self.known)
    @rule(names=st.lists(st.sampled_from("abcde"), min_size=1, max_size=2, unique=True))
    def remove(self, names: list[str]) -> None:
        try:
            self.fleet.registry.remove(names)
        except UsageError:
            assert not set(names) <= self.known.keys()
            return
        self.known = {name: own for name, own in self.known.items() if name not in names}
        self.log += [("device.remove", name) for name in names]

    @invariant()
    def agrees(self) -> None:
        assert self.fleet.labels() == self.known
        assert self.fleet.hashes().keys() == self.known.keys()
        assert [(action, subject) for _, action, subject, _, _ in self.fleet.audited()] == self.log

    def teardown(self) -> None:
        self.fleet.engine.dispose()


def test_any_order_of_commands(tmp_path):
    machine = type("InFolder", (Commands,), {"folder": tmp_path / "any"})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run = settings(
        max_examples=10, stateful_step_count=12, deadline=None, suppress_health_check=checks
    )
    run_state_machine_as_test(machine, settings=run)


def test_the_broker_forgets_who_is_removed_also_while_it_did_not_run(fleet):
    fleet.registry.add([new("cam-1"), new("cam-2"), new("cam-3")], fleet.out)
    fleet.registry.remove(["cam-1", "cam-2", "cam-1"])
    assert fleet.forgotten == [["cam-1", "cam-2"]]
    fleet.registry.add([new("cam-2")], fleet.path / "again")
    forget_removed(fleet.home, fleet.engine, fleet.forgotten.append)
    assert fleet.forgotten[1:] == [["cam-1"]], "the one that came back is heard"
