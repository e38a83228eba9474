"""A backup comes back as the same fleet, and a changed one is refused."""

from __future__ import annotations

import json

import pytest

from edgekit.fleet.home import FleetHome
from edgekit.fleet.ingest.collect import Pending
from edgekit.fleet.ingest.ledger import Ledger
from edgekit.fleet.settings import Settings, load_settings, write_settings
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.backup import MANIFEST, backup, restore
from edgekit.fleet.store.parquet import RawFile
from edgekit.fleet.store.writes import add_device
from edgekit.wire.errors import ConfigError, TrustError

NOW_S = 1_795_720_800.0


@pytest.fixture
def home(tmp_path):
    made = FleetHome.create(tmp_path / "fleet")
    write_settings(made, Settings(name="north"))
    (made.keys / "orders.pem").write_text("key", encoding="ascii")
    engine = open_store(made.database)
    add_device(engine, "cam-1", {"site": "a"}, NOW_S)
    ledger = Ledger(engine)
    for name in ("d/a.parquet", "d/orphan.parquet"):
        (made.raw / "d").mkdir(exist_ok=True)
        (made.raw / name).write_bytes(b"rows")
    ledger.commit(Pending(), RawFile("d/a.parquet", 1, 4, NOW_S, NOW_S))
    ledger.close()
    yield made
    engine.dispose()


def test_a_backup_comes_back(home, tmp_path):
    backup(home, tmp_path / "copy")
    again = restore(tmp_path / "copy", tmp_path / "again")
    assert load_settings(again).name == "north"
    assert (again.keys / "orders.pem").read_text(encoding="ascii") == "key"
    engine = open_store(again.database)
    reader = queries.Reader(engine, again.raw)
    (row,) = queries.devices(reader).rows
    assert row.labels == {"site": "a"}
    assert reader.files() == [str(again.raw / "d" / "a.parquet")]
    assert [p.name for p in again.raw.rglob("*.parquet")] == ["a.parquet"]
    engine.dispose()
    assert not list(home.raw.parent.glob(".backup-*"))
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", ["altered", "missing", "more", "cut"])
def test_a_changed_backup_is_refused(home, tmp_path, change):
    copy = tmp_path / "copy"
    backup(home, copy)
    if change == "altered":
        (copy / "store" / "raw" / "d" / "a.parquet").write_bytes(b"sows")
    elif change == "missing":
        (copy / "keys" / "orders.pem").unlink()
    elif change == "more":
        (copy / "keys" / "more.pem").write_text("x", encoding="ascii")
    else:
        (copy / MANIFEST).unlink()
    with pytest.raises(TrustError):
        restore(copy, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_backup_that_leads_out_is_refused(home, tmp_path):
    backup(home, tmp_path / "copy")
    manifest = tmp_path / "copy" / MANIFEST
    document = json.loads(manifest.read_text(encoding="utf-8"))
    document["files"]["../evil"] = "0"
    manifest.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(TrustError, match="leads out"):
        restore(tmp_path / "copy", tmp_path / "again")


def test_nothing_is_overwritten(home, tmp_path):
    backup(home, tmp_path / "copy")
    with pytest.raises(ConfigError):
        backup(home, tmp_path / "copy")
    with pytest.raises(ConfigError):
        restore(tmp_path / "copy", home.path)
