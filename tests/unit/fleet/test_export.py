"""Telemetry leaves whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path

import duckdb
import pytest

from edgekit.fleet.export import Wanted, export
from edgekit.fleet.sql import Source
from edgekit.wire.errors import ConfigError, UsageError


@pytest.fixture
def source(tmp_path) -> Source:
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in range(2):
        duckdb.sql(
            f"SELECT 'cam-' || (i % 2) AS device, i + {day * 100}.0 AS received_s, i AS seq"  # noqa: S608 - a test's own
            " FROM range(100) t(i)"
        ).write_parquet(str(raw / f"{day}.parquet"))
    return Source(tmp_path / "fleet.db", raw, sorted(raw.glob("*.parquet")))


def test_everything_goes_into_a_csv_and_a_part_into_parquet(source, tmp_path):
    assert export(source, tmp_path / "all.csv", Wanted()) == 200
    with (tmp_path / "all.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 200
    part = tmp_path / "it's.parquet"
    assert export(source, part, Wanted("cam-1", 150.0, 160.0)) == 5
    found = duckdb.read_parquet(str(part)).fetchall()
    assert {row[0] for row in found} == {"cam-1"}
    assert all(150 <= row[1] < 160 for row in found)


def test_a_name_that_would_be_sql_is_a_name(source, tmp_path):
    assert export(source, tmp_path / "x.csv", Wanted("' OR 1=1 --")) == 0


def test_nothing_is_overwritten_or_left_half_done(source, tmp_path):
    (tmp_path / "x.csv").write_text("mine")
    with pytest.raises(UsageError, match="already"):
        export(source, tmp_path / "x.csv", Wanted())
    with pytest.raises(UsageError, match="no format"):
        export(source, tmp_path / "x.xlsx", Wanted())
    with pytest.raises(UsageError, match="no telemetry"):
        export(Source(source.database, source.raw, []), tmp_path / "y.csv", Wanted())
    with pytest.raises(ConfigError, match="cannot be written"):
        export(source, tmp_path / "none" / "y.csv", Wanted())
    broken = Path(source.files[0])
    broken.write_bytes(b"PAR1")
    with pytest.raises(ConfigError):
        export(source, tmp_path / "z.csv", Wanted())
    assert not list(tmp_path.glob(".*.part"))
