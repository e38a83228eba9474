"""One device that makes numbers up takes the alerts of no other away."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from edgekit.fleet.alerts.store import StoreFacts
from edgekit.fleet.home import FleetHome
from edgekit.fleet.store import open_store
from edgekit.fleet.store.reader import Reader
from edgekit.fleet.store.schema import high_water
from edgekit.fleet.store.writes import add_device
from edgekit.wire.strict import MAX_INTEGER

NOW_S = 1_795_720_800.0


@pytest.fixture
def known(tmp_path):
    home = FleetHome.create(tmp_path / "fleet")
    engine = open_store(home.database)
    yield StoreFacts(home, Reader(engine, home.raw))
    engine.dispose()


def test_claims_that_outgrow_64_bits_are_still_a_number(known):
    engine = known._reader.engine
    for name in ("liar", "honest"):
        add_device(engine, name, {}, NOW_S)
    row = {"ranges": "[[0,1]]", "have": 2, "top": 1, "dropped": 0, "received_s": NOW_S}
    claims = [
        {**row, "device": "liar", "boot_id": f"{number:016x}", "issued": MAX_INTEGER}
        for number in range(2000)
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(high_water), claims)
        connection.execute(
            sa.insert(high_water), {**row, "device": "honest", "boot_id": "0" * 16, "issued": 5}
        )
    missing = {device.name: device.missing for device in known.devices((), NOW_S)}
    assert missing["honest"] == 3
    assert missing["liar"] > MAX_INTEGER
