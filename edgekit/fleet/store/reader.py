"""Access to a fleet's store for reading: SQLite and the raw telemetry beside it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edgekit.fleet.store.schema import raw_files

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from sqlalchemy import Engine

MEMORY = "512MB"


class Reader:
    """Reads a fleet's store; from any thread.

    Args:
        engine: Of :func:`~edgekit.fleet.store.open_store`.
        raw: Folder of the raw telemetry.
    """

    def __init__(self, engine: Engine, raw: Path) -> None:
        self.engine = engine
        self.raw = raw
        self._lock = threading.Lock()
        self._duck: DuckDBPyConnection | None = None

    def files(self, since_s: float = 0.0, until_s: float = float("inf")) -> list[str]:
        """Return the Parquet files that hold what was received in a time."""
        r = raw_files.c
        query = sa.select(r.name).where(
            r.gone_s.is_(None), r.last_s >= since_s, r.first_s < until_s
        )
        with self.engine.connect() as connection:
            names = connection.scalars(query.order_by(r.first_s, r.name)).all()
        return [str(self.raw / name) for name in names]

    def raw_rows(self, sql: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """Run a query of ours over Parquet files.

        Args:
            sql: With ``?`` for each value.
            values: The values.
        """
        import duckdb

        with self._lock:
            if self._duck is None:
                # What does not fit would go into a folder below the one that this was started in.
                self._duck = duckdb.connect(
                    ":memory:",
                    config={"memory_limit": MEMORY, "threads": "1", "temp_directory": ""},
                )
            return self._duck.execute(sql, values).fetchall()
