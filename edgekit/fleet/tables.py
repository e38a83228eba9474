"""Tables of orders, alerts and silences."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("serial", sa.Integer, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False, index=True),
    sa.Column("expires_s", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False, default=False),
)

rollout_devices = sa.Table(
    "rollout_devices",
    metadata,
    sa.Column("order_id", sa.Text, sa.ForeignKey("rollouts.order_id"), primary_key=True),
    sa.Column("device", sa.Text, primary_key=True),
    sa.Column("phase", sa.Text, nullable=False, index=True),
    sa.Column("since_s", sa.Float, nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("before", sa.Text),
    sa.Column("wave", sa.Integer, nullable=False, default=0),
    sa.Index("ix_rollout_devices_device", "device"),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("todo", sa.Text, nullable=False),
    sa.Column("opened_s", sa.Float, nullable=False, index=True),
    sa.Column("closed_s", sa.Float, index=True),
    sa.Column("why", sa.Text, nullable=False, default=""),
    sa.Column("told_s", sa.Float),
    sa.Column("silenced", sa.Boolean, nullable=False, default=False),
)

silences = sa.Table(
    "silences",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("labels", sa.JSON, nullable=False),
    sa.Column("until_s", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)
