"""All tables of a fleet's store. Orders, alerts and silences are described in their own module."""

from __future__ import annotations

import sqlalchemy as sa

from edgekit.fleet.tables import alerts, metadata, rollout_devices, rollouts, silences

__all__ = [
    "alerts", "audit", "devices", "events", "high_water", "ingest_state", "last_state", "metadata",
    "raw_files", "rollout_devices", "rollouts", "rollups", "sessions", "silences", "stored_runs",
    "tokens", "users",
]  # fmt: skip

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("added_s", sa.Float, nullable=False),
    sa.Column("removed_s", sa.Float),
)

# What a device said last. Texts hold JSON as it was checked.
last_state = sa.Table(
    "last_state",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("last_seen_s", sa.Float),
    sa.Column("online", sa.Boolean, index=True),
    sa.Column("state", sa.Text),
    sa.Column("hello", sa.Text),
    sa.Column("reported", sa.Text),
    sa.Column("sample", sa.Text),
    sa.Column("sample_s", sa.Float),
    sa.Column("version", sa.Text),
    sa.Column("target", sa.Text),
    sa.Column("phase", sa.Text),
    sa.Column("temp_c", sa.Float),
    sa.Column("cpu_share", sa.Float),
)

# Which numbers of a device's process are committed: what makes a repeated message harmless.
high_water = sa.Table(
    "high_water",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("boot_id", sa.Text, primary_key=True),
    sa.Column("ranges", sa.Text, nullable=False),
    sa.Column("have", sa.Integer, nullable=False),
    sa.Column("top", sa.Integer, nullable=False),
    sa.Column("issued", sa.Integer, nullable=False, server_default="0"),
    sa.Column("dropped", sa.Integer, nullable=False, server_default="0"),
    sa.Column("received_s", sa.Float, nullable=False, index=True),
    # Numbers below the floor stand in `stored_runs`, so many of them.
    sa.Column("floor", sa.Integer, nullable=False, server_default="0"),
    sa.Column("spilled", sa.Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

# The lower runs of a process that has too many to be held in memory.
stored_runs = sa.Table(
    "stored_runs",
    metadata,
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("boot_id", sa.Text, primary_key=True),
    sa.Column("first", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("last", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

# The Parquet files that count; `level` is how often they were merged. Those with `gone_s` are
# merged into another, or too old: deleted soon.
raw_files = sa.Table(
    "raw_files",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("bytes", sa.Integer, nullable=False),
    sa.Column("first_s", sa.Float, nullable=False),
    sa.Column("last_s", sa.Float, nullable=False, index=True),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("gone_s", sa.Float, index=True),
)

# Sums of 5 minutes. No model: the device's vitals. No device: the sum over all of them.
rollups = sa.Table(
    "rollups",
    metadata,
    sa.Column("window_s", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("errors", sa.Integer, nullable=False),
    sa.Column("rejected", sa.Integer, nullable=False),
    sa.Column("latency", sa.Text, nullable=False),
    sa.Column("vitals", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("received_s", sa.Float, nullable=False, index=True),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("values", sa.Text, nullable=False),
    # Of a reply: the broker may deliver it twice.
    sa.Column("reply_id", sa.Text),
    sa.Index("ix_events_device", "device", "id"),
    sa.Index(
        "ix_events_reply",
        "device",
        "reply_id",
        unique=True,
        sqlite_where=sa.text("reply_id IS NOT NULL"),
    ),
)

# One row for each ingest: that it lives, why it waits, what it has counted.
ingest_state = sa.Table(
    "ingest_state",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("alive_s", sa.Float, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("counts", sa.Text, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False, index=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float),
    sa.Column("used_s", sa.Float),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("user", sa.Text, nullable=False, index=True),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False, index=True),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at_s", sa.Float, nullable=False, index=True),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
