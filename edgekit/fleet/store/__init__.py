"""The fleet's store: SQLite for what is asked one by one, Parquet for raw telemetry."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.fleet.home import room_hint
from edgekit.wire.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["HEAD", "open_store"]

HEAD = "0002"
_MIGRATIONS = Path(__file__).parent / "migrations"
_PRAGMAS = (
    "PRAGMA busy_timeout = 20000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


def open_store(database: Path) -> Engine:
    """Open the store, made or brought to the present schema where that is needed.

    Args:
        database: The SQLite file; its folder is made.

    Raises:
        ConfigError: It cannot be opened, or a later edgekit has written it.
    """
    import sqlalchemy as sa

    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = sa.create_engine(f"sqlite:///{database}")
        sa.event.listen(engine, "connect", _on_connect)
        with database.with_suffix(".lock").open("a") as lock:
            # Ingest, web and alerts start together.
            fcntl.flock(lock, fcntl.LOCK_EX)
            _migrate(engine, database)
        database.chmod(0o600)
    except (OSError, sa.exc.DatabaseError) as error:
        raise ConfigError(
            f"the store cannot be opened: {getattr(error, 'orig', error)}",
            hint=room_hint(database.parent),
            where=str(database),
        ) from error
    return engine


def _on_connect(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _migrate(engine: Engine, database: Path) -> None:
    import sqlalchemy as sa

    with engine.connect() as connection:
        version = None
        if sa.inspect(connection).has_table("alembic_version"):
            version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if version == HEAD:
        return
    if version is not None and str(version) > HEAD:
        raise ConfigError(
            "a later edgekit has written this store", hint="update edgekit", where=str(database)
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
