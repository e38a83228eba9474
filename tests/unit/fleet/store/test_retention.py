"""What is too old goes, a few rows at once; what is young, open or the last of its kind stays."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edgekit.fleet.store import open_store, retention
from edgekit.fleet.store.retention import DAY_S, Ages, Pruner
from edgekit.fleet.store.schema import (
    alerts,
    audit,
    events,
    high_water,
    rollout_devices,
    rollouts,
    rollups,
    sessions,
    silences,
    stored_runs,
)

NOW_S = 1_795_720_800.0
OLD_S, YOUNG_S = NOW_S - 401 * DAY_S, NOW_S - 399 * DAY_S


@pytest.fixture
def engine(tmp_path):
    made = open_store(tmp_path / "fleet.db")
    yield made
    made.dispose()


def put(engine, table, *rows) -> None:
    plain = {sa.Text: "", sa.Float: 0.0, sa.Integer: 0, sa.Boolean: False, sa.JSON: {}}
    full = {
        column.name: plain[type(column.type)]
        for column in table.columns
        if not column.nullable and not (column.name == "id" and column.primary_key)
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(table), [full | row for row in rows])


def kept(engine, column) -> list:
    with engine.connect() as connection:
        return sorted(connection.scalars(sa.select(column)))


def test_closed_alerts_and_ended_silences_go_and_open_ones_stay(engine):
    closed = {"opened_s": OLD_S - 1}
    put(
        engine, alerts,
        {"device": "old", **closed, "closed_s": OLD_S},
        {"device": "young", **closed, "closed_s": YOUNG_S},
        {"device": "open", **closed, "closed_s": None},
    )  # fmt: skip
    put(
        engine, silences,
        {"reason": "old", "until_s": OLD_S},
        {"reason": "for ever", "until_s": None},
        {"reason": "young", "until_s": YOUNG_S},
    )  # fmt: skip
    Pruner(engine, Ages()).prune(NOW_S)
    assert kept(engine, alerts.c.device) == ["open", "young"]
    assert kept(engine, silences.c.reason) == ["for ever", "young"]


def test_the_audit_log_and_sessions_go_by_age_and_the_newest_row_stays(engine):
    put(engine, audit, {"subject": "a", "at_s": OLD_S}, {"subject": "b", "at_s": OLD_S})
    put(
        engine, sessions,
        {"hash": "over", "expires_s": NOW_S - 1},
        {"hash": "lasts", "expires_s": NOW_S + 1},
    )  # fmt: skip
    Pruner(engine, Ages()).prune(NOW_S)
    assert kept(engine, audit.c.subject) == ["b"]
    assert kept(engine, sessions.c.hash) == ["lasts"]
    put(engine, audit, {"subject": "c", "at_s": NOW_S - 2 * DAY_S})
    Pruner(engine, Ages(audit_days=1.0)).prune(NOW_S)
    assert kept(engine, audit.c.subject) == ["c"]


def test_orders_that_are_over_go_with_their_devices(engine):
    expires = {"expires_s": int(OLD_S) + 60}
    put(
        engine, rollouts,
        {"order_id": "over", "model": "m", "created_s": OLD_S, **expires},
        {"order_id": "under way", "model": "m", "created_s": OLD_S, **expires},
        {"order_id": "last", "model": "m", "created_s": OLD_S + 1, **expires},
        {"order_id": "last of n", "model": "n", "created_s": OLD_S, **expires},
    )  # fmt: skip
    put(
        engine, rollout_devices,
        {"order_id": "over", "device": "a", "phase": "confirmed"},
        {"order_id": "over", "device": "b", "phase": "expired"},
        {"order_id": "under way", "device": "a", "phase": "waiting"},
        {"order_id": "last", "device": "a", "phase": "confirmed"},
    )  # fmt: skip
    Pruner(engine, Ages()).prune(NOW_S)
    assert kept(engine, rollouts.c.order_id) == ["last", "last of n", "under way"]
    assert kept(engine, rollout_devices.c.order_id) == ["last", "under way"]


def test_a_silent_process_goes_with_its_runs(engine):
    for name, received_s in (("gone", OLD_S), ("here", YOUNG_S)):
        key = {"device": name, "boot_id": "b"}
        put(engine, high_water, {**key, "ranges": "[]", "received_s": received_s})
        put(engine, stored_runs, *({**key, "first": n} for n in (0, 2, 4)))
    Pruner(engine, Ages()).prune(NOW_S)
    assert kept(engine, high_water.c.device) == ["here"]
    assert kept(engine, stored_runs.c.device) == ["here"] * 3


def test_sums_of_devices_go_and_those_of_the_fleet_stay_longer(engine):
    windows = [int(NOW_S - days * DAY_S) for days in (401, 31, 29)]
    put(engine, rollups, *({"window_s": w, "device": d} for w in windows for d in ("", "a", "b")))
    pruner = Pruner(engine, Ages())
    for _ in range(2):
        pruner.prune(NOW_S)
        assert kept(engine, rollups.c.window_s) == [windows[1], *[windows[2]] * 3]
    # What comes in with a clock that was set back goes with the next day.
    put(engine, rollups, {"window_s": windows[1], "device": "late"})
    pruner.prune(NOW_S + DAY_S)
    assert "late" not in kept(engine, rollups.c.device)


def test_many_rows_go_in_small_transactions_and_over_several_looks(engine, monkeypatch):
    monkeypatch.setattr(retention, "BATCH_ROWS", 10)
    monkeypatch.setattr(retention, "MOST_BATCHES", 3)
    put(engine, audit, *({"at_s": OLD_S} for _ in range(45)))
    put(engine, events, *({"received_s": OLD_S} for _ in range(5)))
    sizes: list[int] = []

    def count(_connection, cursor, *_rest) -> None:
        sizes.append(cursor.rowcount)

    sa.event.listen(engine, "after_cursor_execute", count)
    pruner = Pruner(engine, Ages())
    left = []
    for _ in range(3):
        pruner.prune(NOW_S)
        left.append(len(kept(engine, audit.c.id)))
    assert left == [15, 1, 1]
    assert max(sizes) == 10
    assert kept(engine, events.c.id) == [5]


@pytest.mark.parametrize("table", [events, alerts, audit, rollups, high_water, sessions, rollouts])
def test_looking_for_what_is_too_old_reads_no_whole_table(engine, table):
    """Upkeep looks three times a minute: with nothing to do it must cost next to nothing."""
    conditions = [c for t, c in retention._too_old(Ages(), NOW_S) if t is table]
    if table is rollups:
        conditions = [rollups.c.window_s < OLD_S]
    for condition in conditions:
        query = sa.select(*table.primary_key.columns).where(condition)
        text = str(query.compile(engine, compile_kwargs={"literal_binds": True}))
        with engine.connect() as connection:
            plan = [row[3] for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + text)]
        assert not [line for line in plan if line == f"SCAN {table.name}"], plan
