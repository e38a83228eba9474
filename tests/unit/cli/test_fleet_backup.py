"""``edgekit fleet backup`` and ``restore``, as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekit.cli.main import run
from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import Settings, write_settings
from edgekit.fleet.store import open_store
from edgekit.fleet.store.backup import MANIFEST, backup
from edgekit.fleet.store.writes import add_device

ORDERS_KEY = "orders.pem"


@pytest.fixture
def home(tmp_path):
    made = FleetHome.create(tmp_path / "fleet")
    write_settings(made, Settings(name="north"))
    (made.keys / ORDERS_KEY).write_text("secret", encoding="ascii")
    engine = open_store(made.database)
    add_device(engine, "cam-1", {"site": "a"}, 1.0)
    engine.dispose()
    return made


@pytest.fixture
def edgekit(capsys):
    def go(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["fleet", *(str(argument) for argument in arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return go


def test_a_fleet_goes_there_and_back(home, edgekit, tmp_path):
    copy, again = tmp_path / "copy", tmp_path / "again"
    code, said, _ = edgekit("backup", copy, "--home", home.path)
    assert code == 0
    assert f"edgekit fleet restore {copy}" in said
    code, said, _ = edgekit("restore", copy, "--home", again)
    assert code == 0
    assert "fleet north, 1 device\n" in said
    assert f"edgekit fleet up --home {again}" in said
    assert (again / "keys" / ORDERS_KEY).read_text(encoding="ascii") == "secret"
    assert (again / "keys" / ORDERS_KEY).stat().st_mode & 0o077 == 0
    # What was restored is a whole fleet, which can be backed up itself.
    assert edgekit("backup", tmp_path / "third", "--home", again)[0] == 0


def test_each_prints_one_document_or_one_path(home, edgekit, tmp_path):
    code, said, _ = edgekit("backup", tmp_path / "copy", "--home", home.path, "--json")
    document = json.loads(said)
    assert (code, document["schema"]) == (0, "edgekit.fleet-backup-made/1")
    there = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert document["files"] == len(there) - 1  # the list itself
    assert document["size_bytes"] == sum(path.stat().st_size for path in there)
    code, said, _ = edgekit("restore", tmp_path / "copy", "--home", tmp_path / "again", "--json")
    assert code == 0
    assert json.loads(said) == {
        "schema": "edgekit.fleet-restored/1",
        "home": str(tmp_path / "again"),
        "name": "north",
        "devices": 1,
    }
    quiet = edgekit("backup", tmp_path / "quiet", "--home", home.path, "--quiet")
    assert quiet == (0, f"{tmp_path / 'quiet'}\n", "")


def test_nothing_is_written_over(home, edgekit, tmp_path):
    (tmp_path / "copy").mkdir()
    code, _, said = edgekit("backup", tmp_path / "copy", "--home", home.path)
    assert code == 3
    assert "hint: name a new one" in said
    assert list((tmp_path / "copy").iterdir()) == []
    shutil.rmtree(tmp_path / "copy")
    assert edgekit("backup", tmp_path / "copy", "--home", home.path)[0] == 0
    code, _, said = edgekit("restore", tmp_path / "copy", "--home", home.path)
    assert code == 3
    assert "hint: --home names a new one" in said


def test_a_folder_that_is_no_fleet_is_told(edgekit, tmp_path):
    code, _, said = edgekit("backup", tmp_path / "copy", "--home", tmp_path)
    assert code == 3
    assert "hint: " in said
    assert not (tmp_path / "copy").exists()


def test_what_is_no_backup_or_was_changed_is_refused(home, edgekit, tmp_path):
    code, _, said = edgekit("restore", tmp_path, "--home", tmp_path / "again")
    assert code == 7
    assert "hint: `edgekit fleet backup` makes one" in said
    edgekit("backup", tmp_path / "copy", "--home", home.path)
    (tmp_path / "copy" / "keys" / ORDERS_KEY).write_text("forged", encoding="ascii")
    code, said, _ = edgekit("restore", tmp_path / "copy", "--home", tmp_path / "again", "--json")
    assert code == 7
    assert json.loads(said)["where"].endswith(ORDERS_KEY)
    assert not (tmp_path / "again").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_backup_that_fails_leaves_nothing(home, edgekit, tmp_path):
    (home.keys / "elsewhere.pem").symlink_to("/etc/hostname")
    code, _, said = edgekit("backup", tmp_path / "copy", "--home", home.path)
    assert code == 7
    assert "elsewhere.pem" in said
    assert not (tmp_path / "copy").exists()
    assert not list(home.raw.parent.glob(".backup-*"))


def test_progress_counts_every_byte(home, tmp_path):
    (home.bundles / "a.ekb").write_bytes(b"x" * 3_000_000)
    heard: list[tuple[int, int]] = []
    backup(home, tmp_path / "copy", lambda done, total: heard.append((done, total)))
    done = [count for count, _ in heard]
    assert done == sorted(done)
    copied = [path for path in Path(tmp_path / "copy").rglob("*") if path.is_file()]
    own = {MANIFEST, "fleet.db"}
    assert heard[-1][0] == sum(path.stat().st_size for path in copied if path.name not in own)
    assert heard[-1][0] == heard[-1][1]
