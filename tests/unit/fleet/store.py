"""A store for tests."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

from edgekit.fleet.tables import metadata


def make_engine(folder: Path) -> Engine:
    engine = sa.create_engine(f"sqlite:///{folder / 'fleet.db'}")
    metadata.create_all(engine)
    return engine
