"""A reply is stored once, and a process may have any number of gaps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Bring the store to this schema; what earlier rows say stays as it is."""
    op.add_column("events", sa.Column("reply_id", sa.Text(), nullable=True))
    op.create_index(
        "ix_events_reply",
        "events",
        ["device", "reply_id"],
        unique=True,
        sqlite_where=sa.text("reply_id IS NOT NULL"),
    )
    for name in ("floor", "spilled"):
        column = sa.Column(name, sa.Integer(), server_default="0", nullable=False)
        op.add_column("high_water", column)
    op.create_table(
        "stored_runs",
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("first", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("device", "boot_id", "first"),
        sqlite_with_rowid=False,
    )
