"""The migrations make what the tables say."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgekit.fleet import store
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.schema import metadata
from edgekit.fleet.store.writes import add_device
from edgekit.wire.errors import ConfigError


def test_migrations_and_tables_agree(tmp_path):
    engine = open_store(tmp_path / "new" / "fleet.db")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()
    open_store(tmp_path / "new" / "fleet.db").dispose()
    assert (tmp_path / "new" / "fleet.db").stat().st_mode & 0o077 == 0


def test_a_later_store_is_refused(tmp_path):
    engine = open_store(tmp_path / "fleet.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(ConfigError, match="later edgekit"):
        open_store(tmp_path / "fleet.db")


def versions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(store._MIGRATIONS))
    return [found.revision for found in ScriptDirectory.from_config(config).walk_revisions()]


@pytest.mark.parametrize("version", versions())
def test_a_store_of_each_older_schema_is_brought_up_with_all_it_holds(
    tmp_path, monkeypatch, version
):
    upgrade = command.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", lambda config, _head: upgrade(config, version))
        patch.setattr(store, "HEAD", version)
        engine = open_store(tmp_path / "fleet.db")
        add_device(engine, "cam-1", {"site": "roof"}, 1.0)
        engine.dispose()
    with closing(sqlite3.connect(tmp_path / "fleet.db")) as database, database:
        reply = ("cam-1", 1.0, 1.0, "reply", '{"id":"a"}')
        database.executemany(
            'INSERT INTO events (device, received_s, time_s, name, "values") VALUES (?,?,?,?,?)',
            [reply, reply],
        )
        database.execute(
            "INSERT INTO high_water (device, boot_id, ranges, have, top, received_s)"
            " VALUES ('cam-1', 'b', '[[0,5]]', 6, 5, 1.0)"
        )
    engine = open_store(tmp_path / "fleet.db")
    reader = queries.Reader(engine, tmp_path / "raw")
    assert len(queries.events(reader)) == 2
    detail = queries.device(reader, "cam-1")
    assert (detail.row.labels, detail.gaps[0].have) == ({"site": "roof"}, 6)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
