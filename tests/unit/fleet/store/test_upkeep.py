"""Upkeep changes how telemetry is kept, never what it says."""

from __future__ import annotations

import logging
import shutil

import duckdb
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from edgekit.fleet.ingest.collect import Pending
from edgekit.fleet.ingest.ledger import Ledger
from edgekit.fleet.store import open_store, queries
from edgekit.fleet.store.parquet import (
    RawFile,
    connect,
    new_name,
    write_lines,
    write_select,
)
from edgekit.fleet.store.retention import DAY_S, Ages
from edgekit.fleet.store.schema import raw_files
from edgekit.fleet.store.upkeep import (
    GRACE_S,
    MERGE_FILES,
    SPARE_BYTES,
    Upkeep,
    to_drop,
    to_merge,
)

NOW_S = 1_795_720_800.0


class Bench:
    def __init__(self, folder) -> None:
        self.engine = open_store(folder / "fleet.db")
        self.raw = folder / "raw"
        self.raw.mkdir()
        self.reader = queries.Reader(self.engine, self.raw)
        self.now_s = NOW_S
        self._duck = connect()
        self._ledger = Ledger(self.engine)

    def upkeep(self, days: float = 30.0, most: int = 1 << 40) -> Upkeep:
        return Upkeep(self.engine, self.raw, Ages(days), most, lambda: self.now_s)

    def add(self, count: int, at_s: float = NOW_S) -> None:
        for i in range(count):
            received_s = at_s + i
            line = (
                f'{{"device":"cam-{i % 3}","boot_id":"b","seq":{i},"received_s":{received_s},'
                f'"time_s":1.5,"kind":"sample","temp_c":{i}.5,"content":{{"vitals":{{"fan":{i}}}}}}}'
            )
            name = new_name(received_s)
            size = write_lines(self._duck, self.raw, name, [line.encode()])
            self._ledger.commit(Pending(), RawFile(name, 1, size, received_s, received_s))

    def fill(self, count: int, rows: int, width: int) -> None:
        """Write files of many devices, with a content of so many bytes a row."""
        for file in range(count):
            received_s = NOW_S + file
            said = f"'{{\"a\":\"' || repeat(md5(i || '-{file}'), {width // 32}) || '\"}}'"
            select = (
                f"SELECT 'cam-' || i * 7919 % 10000 AS device, 'b' AS boot_id, {file * rows} + i"  # noqa: S608 - numbers of ours
                f" AS seq, {received_s} + i / 1e6 AS received_s, 1.5::DOUBLE AS time_s, 'sample'"
                " AS kind, NULL::VARCHAR AS name, 40.0::DOUBLE AS temp_c, 0.5::DOUBLE AS cpu_share,"
                f" 1.0::DOUBLE AS rss_bytes, ({said})::JSON AS content"
                f" FROM range({rows}) t(i)"
            )
            name = new_name(received_s)
            size = write_select(self._duck, self.raw / name, select)
            self._ledger.commit(Pending(), RawFile(name, rows, size, received_s, received_s + 1))

    def digest(self) -> tuple:
        """Return how many rows there are, and a sum over all that they say."""
        sql = "SELECT count(*), bit_xor(hash(t)) FROM read_parquet(?) t"
        return duckdb.execute(sql, [self.reader.files()]).fetchone()

    def rows(self) -> list[tuple]:
        sql = "SELECT * FROM read_parquet(?) ORDER BY received_s"
        return duckdb.execute(sql, [self.reader.files()]).fetchall()

    def close(self) -> None:
        self._ledger.close()
        self._duck.close()
        self.engine.dispose()


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


def test_many_files_become_one_of_the_same_rows(bench):
    bench.add(MERGE_FILES)
    before = bench.rows()
    bench.upkeep().tick()
    assert len(bench.reader.files()) == 1
    assert bench.rows() == before
    assert len(before) == MERGE_FILES
    # Who has listed the old ones may still read them.
    assert len(list(bench.raw.rglob("*.parquet"))) == MERGE_FILES + 1
    bench.now_s += GRACE_S + 1
    bench.upkeep().tick()
    assert len(list(bench.raw.rglob("*.parquet"))) == 1
    assert bench.rows() == before


def test_many_devices_are_merged_within_the_memory(bench):
    bench.fill(150, rows=1000, width=700)
    before = bench.digest()
    assert before[0] == 150_000
    bench.upkeep().tick()
    (file,) = bench.reader.files()
    assert bench.digest() == before
    order = "SELECT device, received_s, seq FROM read_parquet(?)"
    found = duckdb.execute(order, [file]).fetchall()
    assert found == sorted(found)
    assert list(bench.raw.glob(".*")) == [], "something is left of the sorting"


def test_rows_too_wide_for_the_memory_are_merged_a_few_at_once(bench, caplog):
    caplog.set_level(logging.INFO, logger="edgekit")
    bench.fill(MERGE_FILES, rows=200, width=64_000)
    before = bench.digest()
    upkeep = bench.upkeep()
    upkeep.tick()
    assert "too much to merge at once" in caplog.text, "they were not wide enough"
    assert 1 < len(bench.reader.files()) < MERGE_FILES
    assert bench.digest() == before
    # The others are not held up by it.
    caplog.clear()
    upkeep.tick()
    assert caplog.text == ""


def test_nothing_is_merged_on_a_disk_without_room(bench, monkeypatch):
    bench.add(MERGE_FILES)
    real = shutil.disk_usage(bench.raw)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=SPARE_BYTES))
    bench.upkeep().tick()
    assert len(bench.reader.files()) == MERGE_FILES
    monkeypatch.undo()
    bench.upkeep().tick()
    assert len(bench.reader.files()) == 1


def test_series_read_columns_and_everything_else(bench):
    bench.add(4)
    hot = queries.series(bench.reader, "cam-0", "temp_c", NOW_S, NOW_S + 100)
    assert hot == [(NOW_S, 0.5), (NOW_S + 3, 3.5)]
    assert queries.series(bench.reader, "cam-0", "fan", NOW_S + 1, NOW_S + 100) == [
        (NOW_S + 3, 3.0)
    ]
    assert queries.series(bench.reader, "cam-0", "none", NOW_S, NOW_S + 100) == []


def test_what_is_too_old_goes(bench):
    bench.add(3)
    bench.now_s = NOW_S + 1.5 + 2 * DAY_S
    bench.upkeep(days=2.0).tick()
    assert len(bench.reader.files()) == 1


def test_what_is_too_much_goes_oldest_first(bench):
    bench.add(3)
    with bench.engine.connect() as connection:
        sizes = list(connection.scalars(sa.select(raw_files.c.bytes)))
    bench.upkeep(most=sum(sizes) - 1).tick()
    assert [row[2] for row in bench.rows()] == [1, 2]


files = st.lists(
    st.builds(
        RawFile, st.uuids().map(str), st.integers(1, 600_000), st.integers(1, 40 << 20),
        st.floats(0, 5 * DAY_S), st.just(0.0), st.integers(0, 2),
    ),
    max_size=60,
).map(lambda found: sorted(found, key=lambda file: file.first_s))  # fmt: skip


@given(files)
def test_a_merged_file_is_bounded_and_of_one_day(found):
    chosen = to_merge(found)
    assert len(chosen) != 1
    assert not any(file.is_full() for file in chosen)
    assert len({file.first_s // DAY_S for file in chosen}) <= 1
    assert sum(file.rows for file in chosen) <= 1_000_000
    assert sum(file.bytes for file in chosen) <= 64 << 20


@given(files)
def test_merging_ends_with_few_files(found):
    left = list(found)
    while chosen := to_merge(left):
        left = [file for file in left if file not in chosen]
        rows, size = sum(f.rows for f in chosen), sum(f.bytes for f in chosen)
        level = max(f.level for f in chosen) + 1
        left.append(RawFile(str(len(left)), rows, size, chosen[0].first_s, 0.0, level))
        left.sort(key=lambda file: file.first_s)
    assert sum(file.rows for file in left) == sum(file.rows for file in found)
    levels = {file.level for file in left}
    today = max((file.first_s // DAY_S for file in left), default=0.0)
    small = [file for file in left if not file.is_full() and file.first_s // DAY_S == today]
    assert len(small) <= MERGE_FILES * len(levels)


@given(files)
def test_merging_ends_where_nothing_fits_into_the_memory(found):
    most_rows, tries = 1_000_000, 0
    while chosen := to_merge(found, most_rows=most_rows):
        rows = sum(file.rows for file in chosen)
        assert rows <= most_rows
        most_rows, tries = rows // 2, tries + 1
    assert tries <= 20


@given(files, st.integers(0, 1 << 30))
def test_what_is_left_is_not_too_much(found, most):
    dropped = to_drop(found, 0.0, 1.0, most)
    left = [file for file in found if file not in dropped]
    assert sum(file.bytes for file in left) <= most
