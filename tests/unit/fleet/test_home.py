"""The fleet's folder: made once, its owner's alone, and never taken for another."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.fleet import home as module
from edgekit.fleet.home import FleetHome, write_private
from edgekit.fleet.store import open_store
from edgekit.wire.errors import ConfigError

FOLDERS = ("keys", "broker", "store", "store/raw", "bundles", "run")


@pytest.fixture(autouse=True)
def lax() -> Iterator[None]:
    """What is made here is others' too, unless its maker takes care."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_its_owners_alone(tmp_path):
    home = FleetHome.create(tmp_path / "far" / "fleet")
    assert mode(home.path) == 0o700
    assert {name: mode(home.path / name) for name in FOLDERS} == dict.fromkeys(FOLDERS, 0o700)
    assert sorted(path.name for path in home.path.iterdir()) == [
        "broker", "bundles", "keys", "run", "store",
    ]  # fmt: skip


def test_a_folder_that_is_there_is_used_and_what_lies_in_it_closed(tmp_path):
    path = tmp_path / "fleet"
    for name in ("", *FOLDERS):
        (path / name).mkdir(exist_ok=True)
    (path / "bundles" / "a.ekb").write_bytes(b"kept")
    home = FleetHome.create(path)
    open_store(home.database).dispose()
    assert {name: mode(path / name) for name in FOLDERS} == dict.fromkeys(FOLDERS, 0o700)
    assert mode(path) == 0o777, "it may hold other things: /tmp, a folder of the user"
    assert (home.bundles / "a.ekb").read_bytes() == b"kept"
    write_private(home.settings_file, b"")
    for found in home.path.rglob("*"):
        above = [found, *found.relative_to(path).parents]
        assert any(not mode(path / part) & 0o077 for part in above[:-1]), found
    assert FleetHome.create(path) == FleetHome.open(path) == home


@pytest.mark.parametrize("at", ["fleet", "fleet/keys", "fleet/store", "."])
def test_a_folder_that_cannot_be_made(tmp_path, at):
    (tmp_path / "fleet").mkdir()
    if at == ".":
        path = tmp_path / "file" / "fleet"
        (tmp_path / "file").write_text("")
    else:
        path = tmp_path / "fleet"
        if at == "fleet":
            path.rmdir()
        (tmp_path / at).write_text("")
    with pytest.raises(ConfigError, match="the fleet's folder cannot be made") as raised:
        FleetHome.create(path)
    assert raised.value.where == str(path)
    assert "--home" in str(raised.value.hint)


@pytest.mark.parametrize("what", ["nothing", "empty", "other", "file", "folder"])
def test_what_is_no_fleet_is_not_opened(tmp_path, what):
    path = tmp_path / "fleet"
    if what == "file":
        path.write_text("name = 'fleet'")
    elif what != "nothing":
        path.mkdir()
    if what == "other":
        (path / "edgekit.toml").write_text("")
    if what == "folder":
        (path / "fleet.toml").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="no fleet lives in this folder") as raised:
        FleetHome.open(path)
    assert raised.value.where == str(path)
    assert "edgekit fleet up" in str(raised.value.hint)
    assert sorted(tmp_path.rglob("*")) == before, "looking makes nothing"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.none() | st.binary(max_size=50), data=st.binary(max_size=5000))
def test_a_private_file_is_whole_and_its_owners_alone(tmp_path, before, data):
    path = tmp_path / "secret"
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
        path.chmod(0o666)
    write_private(path, data)
    assert path.read_bytes() == data
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_goes_where_no_link_leads(tmp_path):
    (tmp_path / "others").write_text("theirs")
    (tmp_path / "secret").symlink_to(tmp_path / "others")
    write_private(tmp_path / "secret", b"mine")
    assert (tmp_path / "others").read_text() == "theirs"
    assert not (tmp_path / "secret").is_symlink()


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    write_private(path, b"old")

    def fails(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", fails)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device") as raised:
        write_private(path, b"new")
    assert raised.value.where == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="No such file or directory"):
        write_private(tmp_path / "none" / "secret", b"new")
