"""The migrations make what the tables say."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from edgekit.fleet.store import open_store
from edgekit.fleet.store.schema import metadata
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
