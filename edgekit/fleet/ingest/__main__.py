"""``python -m edgekit.fleet.ingest HOME``: stores what devices say, until it is told to stop."""

from __future__ import annotations

import fcntl
import gc
import logging
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

from edgekit.fleet.broker import credentials
from edgekit.fleet.home import FleetHome
from edgekit.fleet.ingest.inbox import Inbox
from edgekit.fleet.ingest.link import Link
from edgekit.fleet.ingest.worker import Worker
from edgekit.fleet.publisher import BrokerAddress
from edgekit.fleet.settings import Settings, load_settings
from edgekit.fleet.store import open_store
from edgekit.fleet.store.retention import Ages
from edgekit.fleet.store.upkeep import Upkeep
from edgekit.wire.errors import ConfigError, EdgekitError

log = logging.getLogger(__name__)


def run(folder: Path, stop: threading.Event) -> None:
    """Store what devices say.

    Args:
        folder: Of the fleet.
        stop: Ends it.

    Raises:
        ConfigError: The folder is no fleet, or another ingest works on it.
    """
    home = FleetHome.open(folder)
    settings = load_settings(home)
    with ExitStack() as stack:
        home.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = stack.enter_context((home.database.parent / "ingest.lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError("another ingest works on this store", where=str(folder)) from error
        engine = open_store(home.database)
        stack.callback(engine.dispose)
        username, password = credentials(home, "ingest")
        address = BrokerAddress(settings.broker_host, settings.broker_port, username, password)
        inbox = Inbox()
        link = Link(address, settings.name, inbox)
        worker = Worker(
            engine, home.raw, settings.name, inbox, link.tell, None, lambda: link.trouble
        )
        upkeep = Upkeep(engine, home.raw, ages_of(settings), settings.retention_bytes)
        stack.enter_context(upkeep.running())
        link.start()
        # Closed before the link stops: its thread may wait for a place.
        stack.callback(link.stop)
        stack.callback(inbox.close)
        worker.run(stop)


def ages_of(settings: Settings) -> Ages:
    """Return how long what is kept."""
    return Ages(
        settings.retention_days,
        settings.retention_alert_days,
        settings.retention_order_days,
        settings.retention_audit_days,
    )


def main(argv: list[str]) -> int:
    """Run until SIGTERM or Ctrl-C; return the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    # Batches are trees without cycles: looking for cycles in them costs a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(Path(argv[0]), stop)
    except EdgekitError as error:
        log.error("%s %s", error, error.hint or "")  # noqa: TRY400 - it says all
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
