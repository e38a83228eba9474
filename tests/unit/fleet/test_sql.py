"""Queries read the store, and nothing else."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import duckdb
import pytest

from edgekit.fleet.sql import SECRET_TABLES, Source, run_query, table_names
from edgekit.wire.errors import UsageError


@pytest.fixture
def source(tmp_path) -> Source:
    raw = tmp_path / "raw"
    raw.mkdir()
    file = raw / "day.parquet"
    duckdb.sql(
        "SELECT 'cam-' || (i % 3) AS device, i AS seq, i * 1.5 AS temp_c FROM range(100) t(i)"
    ).write_parquet(str(file), compression="zstd")
    database = tmp_path / "fleet.db"
    with sqlite3.connect(database) as store:
        store.execute("CREATE TABLE devices (name VARCHAR(64), labels JSON, added FLOAT, k BLOB)")
        store.execute("INSERT INTO devices VALUES ('cam-1', '{\"a\": 1}', 2.5, x'00')")
        store.execute("CREATE TABLE tokens (hash TEXT)")
        store.execute("INSERT INTO tokens VALUES ('top secret')")
    store.close()
    return Source(database, raw, [file])


def test_a_query_joins_telemetry_and_the_store(source):
    answer = run_query(
        source,
        "SELECT d.name, count(*) AS n, max(temp_c) FROM telemetry t JOIN devices d"
        " ON t.device = d.name GROUP BY ALL",
    )
    assert answer.columns[:2] == ("name", "n")
    assert answer.rows == (("cam-1", 33, 145.5),)
    assert not answer.truncated


def test_binary_columns_and_secret_tables_are_not_there(source):
    assert run_query(source, "SELECT * FROM devices").columns == ("name", "labels", "added")
    assert table_names(source.database) == ("devices",)
    for name in SECRET_TABLES:
        with pytest.raises(UsageError, match="does not exist"):
            run_query(source, f"SELECT * FROM {name}")  # noqa: S608 - that is what is tested


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('{raw}/../fleet.db')",
        "SELECT * FROM sqlite_scan('{raw}/../fleet.db', 'tokens')",
        "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
        "SELECT getenv('HOME')",
        "SELECT * FROM source",
        "COPY (SELECT 1) TO '{raw}/x.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{raw}/x.csv'",
        "ATTACH '{raw}/../fleet.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "SELECT 1; SELECT 2",
        "DROP VIEW telemetry",
        "",
        "SELEKT 1",
        "SELECT * FROM nothing",
        "SELECT '" + "x" * 30_000 + "'",
    ],
)
def test_nothing_else_can_be_read_or_written(source, sql):
    with pytest.raises(UsageError) as caught:
        run_query(source, sql.replace("{raw}", str(source.raw)))
    assert caught.value.exit_code == 2
    assert [path.name for path in source.raw.iterdir()] == ["day.parquet"]


def test_rows_and_time_are_bounded(source):
    answer = run_query(source, "SELECT * FROM telemetry ORDER BY seq", rows=10)
    assert (len(answer.rows), answer.truncated) == (10, True)
    begin = time.monotonic()
    with pytest.raises(UsageError, match="stopped"):
        run_query(
            source,
            "SELECT count(*) FROM range(100000000) a, range(100000000) b WHERE a.range < b.range",
            timeout_s=0.2,
        )
    assert time.monotonic() - begin < 30


def test_values_have_a_form_in_json(source):
    answer = run_query(
        source,
        "SELECT 'nan'::DOUBLE, TIMESTAMP '2026-01-02 03:04:05', [1, 2], {'a': 1.5}, '\\xAA'::BLOB,"
        " NULL, true, 1.25::DECIMAL(5,2)",
    )
    assert answer.rows == (
        (None, "2026-01-02 03:04:05", [1, 2], {"a": 1.5}, "aa", None, True, 1.25),
    )


def test_a_fleet_without_telemetry_says_what_there_is(source):
    with pytest.raises(UsageError) as caught:
        run_query(Source(source.database, Path("/none"), []), "SELECT * FROM telemetry")
    assert "devices" in (caught.value.hint or "")
