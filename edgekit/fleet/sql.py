"""SQL over what a fleet has stored: read-only, bounded, and away from every other file.

A DuckDB in memory sees the raw telemetry (Parquet) as ``telemetry`` and, of the SQLite store, the
tables that hold no secret. Then it is locked: no other file, no network, no extension, no setting.
A query is one ``SELECT``; it ends at its time and row limits.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.wire.errors import ConfigError, MissingToolError, UsageError

if TYPE_CHECKING:
    import duckdb

TELEMETRY = "telemetry"
# Who may log in, and what they did, is for the dashboard's administrators.
SECRET_TABLES = frozenset({"users", "tokens", "sessions", "audit", "alembic_version"})
MAX_SQL = 20_000
MAX_TABLE_ROWS = 1_000_000
MAX_ROWS = 100_000
MAX_SECONDS = 600.0
MEMORY_MB = 512
_SQL_TYPES = {"INTEGER": "BIGINT", "BIGINT": "BIGINT", "FLOAT": "DOUBLE", "REAL": "DOUBLE"}
_SQL_TYPES |= {"BOOLEAN": "BIGINT", "NUMERIC": "DOUBLE"}


@dataclass(frozen=True)
class Source:
    """Where the data lies.

    Attributes:
        database: The SQLite store.
        raw: Folder of the raw telemetry.
        files: The Parquet files in it that count.
    """

    database: Path
    raw: Path
    files: Sequence[Path]


@dataclass(frozen=True)
class Answer:
    """What a query came to.

    Attributes:
        columns: Names.
        rows: Values that JSON has a form for.
        truncated: There were more rows than asked for.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool


def run_query(source: Source, sql: str, *, rows: int = 1000, timeout_s: float = 30.0) -> Answer:
    """Run one query.

    Args:
        source: Where the data lies.
        sql: One ``SELECT`` in DuckDB's dialect.
        rows: Most rows of the answer.
        timeout_s: After which it is stopped.

    Raises:
        UsageError: Not one SELECT, malformed, refused, or over its time.
        MissingToolError: DuckDB is not installed.
    """
    duckdb = _duckdb()
    if len(sql) > MAX_SQL:
        raise UsageError(f"the query is over {MAX_SQL} characters")
    _check_statement(duckdb, sql)
    with closing(_connect(duckdb, source, sql)) as connection, _stopping(connection, timeout_s):
        try:
            found = connection.execute(sql)
            columns = tuple(str(column[0]) for column in found.description or ())
            taken = found.fetchmany(min(rows, MAX_ROWS) + 1)
        except duckdb.InterruptException as error:
            raise UsageError(
                f"the query took over {timeout_s:g} s and was stopped",
                hint="ask for less time or fewer devices, or give --timeout",
            ) from error
        except duckdb.Error as error:
            first, *_ = str(error).splitlines() or [""]
            raise UsageError(first, hint=_tables_hint(source)) from error
    most = min(rows, MAX_ROWS)
    plain = tuple(tuple(_plain(value) for value in row) for row in taken[:most])
    return Answer(columns, plain, len(taken) > most)


def table_names(database: Path) -> tuple[str, ...]:
    """Return the tables that a query sees beside :data:`TELEMETRY`.

    Raises:
        ConfigError: The store cannot be read.
    """
    with _sqlite(database) as store:
        found = store.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        names = [str(name) for (name,) in found]
    return tuple(n for n in names if n not in SECRET_TABLES and not n.startswith("sqlite_"))


def _duckdb() -> Any:  # noqa: ANN401 - a module
    try:
        import duckdb
    except ImportError as error:
        raise MissingToolError(
            "DuckDB is not installed", hint="pip install 'edgekit[fleet]'"
        ) from error
    return duckdb


def _check_statement(duckdb: Any, sql: str) -> None:  # noqa: ANN401 - a module
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        first, *_ = str(error).splitlines() or [""]
        raise UsageError(first) from error
    # EXPLAIN is out, too: with ANALYZE it does what it explains.
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UsageError("a query is one SELECT", hint="`edgekit fleet export` writes files")


def _connect(module: Any, source: Source, sql: str) -> duckdb.DuckDBPyConnection:  # noqa: ANN401 - a module
    connection: duckdb.DuckDBPyConnection = module.connect(
        ":memory:",
        config={
            "python_enable_replacements": "false",
            "memory_limit": f"{MEMORY_MB}MB",
            "threads": "1",
            "temp_directory": "",  # nobody's query fills the disk
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        },
    )
    if source.files:
        names = [str(path) for path in source.files]
        connection.from_parquet(names, union_by_name=True).create_view(TELEMETRY)
    words = set(re.findall(r"[a-z_]+", sql.lower()))
    for name in table_names(source.database):
        if name in words:
            _copy_table(connection, source.database, name)
    connection.execute(f"SET allowed_directories = [{_quoted(str(source.raw) + '/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _copy_table(connection: duckdb.DuckDBPyConnection, database: Path, name: str) -> None:
    """Copy one table of the store; binary columns are left out."""
    with _sqlite(database) as store, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        columns = {
            str(column): _SQL_TYPES.get(str(kind).upper().partition("(")[0], "VARCHAR")
            for _, column, kind, *_ in store.execute(f'PRAGMA table_info("{name}")')
            if str(kind).upper() not in {"BLOB", "BINARY", "VARBINARY"}
        }
        listed = ", ".join(f'"{column}"' for column in columns)
        found = store.execute(f'SELECT {listed} FROM "{name}" LIMIT {MAX_TABLE_ROWS}')  # noqa: S608 - names of our own schema
        for row in found:
            file.write(json.dumps(dict(zip(columns, map(_text, row), strict=True))) + "\n")
        file.flush()
        shape = ", ".join(f"{_quoted(column)}: {_quoted(kind)}" for column, kind in columns.items())
        connection.execute(
            f'CREATE TABLE "{name}" AS SELECT * FROM read_json({_quoted(file.name)}, '  # noqa: S608 - likewise
            f"format = 'newline_delimited', columns = {{{shape}}}, maximum_object_size = 16777216)"
        )


@contextmanager
def _sqlite(database: Path) -> Iterator[sqlite3.Connection]:
    try:
        store = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise ConfigError(f"the store cannot be read: {error}", where=str(database)) from error
    with closing(store):
        try:
            yield store
        except sqlite3.Error as error:
            raise ConfigError(f"the store cannot be read: {error}", where=str(database)) from error


@contextmanager
def _stopping(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> Iterator[None]:
    timer = threading.Timer(min(timeout_s, MAX_SECONDS), connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tables_hint(source: Source) -> str:
    names = ", ".join([TELEMETRY] * bool(source.files) + list(table_names(source.database)))
    return f"tables: {names}; DESCRIBE TABLE shows columns"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _text(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else value


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a query returns
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
