"""Puts simulated devices into a fleet's registry, with passwords that only this process knows."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.fleet.broker.accounts import (
    hash_password,
    locked,
    new_password,
    read_passwords,
    with_roles,
    write_passwords,
)
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ports import read_pid, read_ports
from edgekit.fleet.store import open_store
from edgekit.wire.errors import TrustError
from edgekit.wire.signing import PublicKey, load_private_key

SITES = ("roof", "gate", "hall", "yard", "dock")
# What a newcomer should see: a few things are wrong.
DEMO_FAULTS = ("offline=0.04", "slow=0.06", "hot=0.06", "bad-model=0.04", "clock-skew=0.02")


def register(home: FleetHome, names: Sequence[str], now_s: float) -> dict[str, str]:
    """Register devices, or give those that are there new passwords.

    Args:
        home: The fleet.
        names: Of the devices.
        now_s: Unix time in seconds.

    Returns:
        Password by name.

    Raises:
        ConfigError: A file of the fleet cannot be read or written.
    """
    import sqlalchemy as sa
    from sqlalchemy.dialects.sqlite import insert

    from edgekit.fleet.store.schema import devices

    passwords = {name: new_password() for name in names}
    home.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = open_store(home.database)
    try:
        rows = [
            {
                "name": name,
                "labels": {"site": SITES[n % len(SITES)], "simulated": "yes"},
                "added_s": now_s,
                "removed_s": None,
            }
            for n, name in enumerate(names)
        ]
        statement = insert(devices)
        again = statement.on_conflict_do_update(
            index_elements=["name"], set_={"removed_s": sa.null()}
        )
        with engine.begin() as connection:
            connection.execute(again, rows)
    finally:
        engine.dispose()
    with locked(home):
        hashes = read_passwords(home)
        hashes |= {name: hash_password(password) for name, password in passwords.items()}
        write_passwords(home, with_roles(home, hashes))
    return passwords


def order_keys(home: FleetHome) -> tuple[PublicKey, ...]:
    """Return the keys whose orders the devices of this fleet take; none before it has one."""
    try:
        return (load_private_key(home.keys / "orders.pem").public,)
    except TrustError:
        return ()


def is_ready(home: FleetHome) -> bool:
    """Tell whether the fleet of a folder runs and says where it listens."""
    return read_pid(home, "up") is not None and bool(read_ports(home))
