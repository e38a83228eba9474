"""Telemetry into one file for other tools: Parquet or CSV, whole or not at all."""

from __future__ import annotations

import secrets
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.fleet.sql import Source
from edgekit.wire.errors import ConfigError, MissingToolError, UsageError

FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER"}


@dataclass(frozen=True)
class Wanted:
    """What is to be exported.

    Attributes:
        device: Of one device alone.
        since_s: Received from then on, Unix seconds; None for all.
        until_s: Received before; None for all.
    """

    device: str | None = None
    since_s: float | None = None
    until_s: float | None = None


def export(source: Source, path: Path, wanted: Wanted) -> int:
    """Write telemetry into a file that is not there yet.

    Args:
        source: Where the data lies.
        path: Ends in ``.parquet`` or ``.csv``.
        wanted: Of what.

    Returns:
        The number of rows.

    Raises:
        UsageError: Another ending, the file is there, or there is no telemetry.
        ConfigError: It cannot be written.
        MissingToolError: DuckDB is not installed.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"no format for {path.name}", hint="FILE.parquet or FILE.csv")
    if path.exists():
        raise UsageError("the file is there already", where=str(path))
    if not source.files:
        raise UsageError("there is no telemetry yet", hint="`edgekit fleet watch` shows devices")
    try:
        import duckdb
    except ImportError as error:
        raise MissingToolError(
            "DuckDB is not installed", hint="pip install 'edgekit[fleet]'"
        ) from error
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    names = [str(file) for file in source.files]
    where, values = _conditions(wanted)
    try:
        # It streams, and never needs to spill: not into the folder that this was started in.
        made = duckdb.connect(":memory:", config={"memory_limit": "512MB", "temp_directory": ""})
        with closing(made) as connection:
            connection.from_parquet(names, union_by_name=True).create_view("telemetry")
            target = str(part).replace("'", "''")
            sql = f"COPY (SELECT * FROM telemetry{where}) TO '{target}' ({FORMATS[path.suffix]})"  # noqa: S608 - the values are parameters
            done = connection.execute(sql, values).fetchone()
        part.rename(path)
    except (duckdb.Error, OSError) as error:
        first, *_ = str(error).splitlines() or [""]
        raise ConfigError(f"cannot be written: {first}", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return int(done[0]) if done else 0


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    pairs = [
        ("device = ?", wanted.device),
        ("received_s >= ?", wanted.since_s),
        ("received_s < ?", wanted.until_s),
    ]
    given = [(text, value) for text, value in pairs if value is not None]
    if not given:
        return "", []
    return " WHERE " + " AND ".join(text for text, _ in given), [value for _, value in given]
