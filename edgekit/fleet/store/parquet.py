"""Raw telemetry as Parquet files: there whole and durable, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COLUMNS = {
    "device": "VARCHAR",
    "boot_id": "VARCHAR",
    "seq": "BIGINT",
    "received_s": "DOUBLE",
    "time_s": "DOUBLE",
    "kind": "VARCHAR",
    "name": "VARCHAR",
    "temp_c": "DOUBLE",
    "cpu_share": "DOUBLE",
    "rss_bytes": "DOUBLE",
    "content": "JSON",
}
MEMORY = "160MB"
_MAX_LINE = 16 << 20
# The writer holds a whole group of rows in memory.
_GROUP_ROWS = 10_240
MAX_MERGED_ROWS = 1_000_000
MAX_MERGED_BYTES = 64 << 20


@dataclass(frozen=True)
class RawFile:
    """A file of raw telemetry that counts; ``level`` is how often its rows were merged."""

    name: str
    rows: int
    bytes: int
    first_s: float
    last_s: float
    level: int = 0

    def is_full(self, most_rows: int = MAX_MERGED_ROWS) -> bool:
        """Tell whether it is large enough to stay as it is."""
        return self.rows > most_rows // 2 or self.bytes > MAX_MERGED_BYTES // 2


def connect(spill: Path | None = None) -> DuckDBPyConnection:
    """Return a DuckDB of our own: small, one thread.

    Args:
        spill: Folder for what does not fit into its memory; of this connection alone. None keeps
            it off the disk.
    """
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": MEMORY,
            "threads": "1",
            "preserve_insertion_order": "false",
            "temp_directory": "" if spill is None else str(spill),
        },
    )


def new_name(first_s: float) -> str:
    """Return the name of a new file, below the folder of raw telemetry."""
    day = datetime.fromtimestamp(first_s, UTC).strftime("%Y-%m-%d")
    return f"{day}/{int(first_s * 1000)}-{secrets.token_hex(4)}.parquet"


def write_lines(duck: DuckDBPyConnection, raw: Path, name: str, lines: Sequence[bytes]) -> int:
    """Write rows into a new file and return its size in bytes.

    Args:
        duck: Does it.
        raw: Folder of raw telemetry.
        name: Of the file in it.
        lines: Rows as JSON.

    Raises:
        OSError: It cannot be written.
        duckdb.Error: Likewise.
    """
    spool = raw / ".spool.ndjson"
    spool.write_bytes(b"\n".join(lines))
    shape = ", ".join(f"{column}: '{kind}'" for column, kind in COLUMNS.items())
    select = (
        f"SELECT * FROM read_json({quoted(spool)}, format = 'newline_delimited',"  # noqa: S608 - paths of our own
        f" columns = {{{shape}}}, maximum_object_size = {_MAX_LINE})"
    )
    try:
        return write_select(duck, raw / name, select)
    finally:
        spool.unlink(missing_ok=True)


def write_select(duck: DuckDBPyConnection, path: Path, select: str) -> int:
    """Write what a query gives into a new file and return its size in bytes.

    Raises:
        OSError: It cannot be written.
        duckdb.Error: Likewise.
    """
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(path.parent.parent)
    part = path.with_name(f".{path.name}.part")
    try:
        how = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_GROUP_ROWS}"
        duck.execute(f"COPY ({select}) TO {quoted(part)} ({how})")
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path.stat().st_size


def remove_orphans(raw: Path, known: set[str]) -> int:
    """Delete the files that no transaction named, and return how many.

    Args:
        raw: Folder of raw telemetry.
        known: Names of the files that count.
    """
    orphans = [
        path
        for path in raw.glob("*/*")
        if path.suffix in {".parquet", ".part"} and str(path.relative_to(raw)) not in known
    ]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)


def sync_folder(folder: Path) -> None:
    """Make what a folder lists durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def quoted(path: Path) -> str:
    """Return a path as a text of SQL."""
    return "'" + str(path).replace("'", "''") + "'"
