"""``python -m edgekit.fleet.alerts HOME``: watches a fleet until it is told to stop."""

from __future__ import annotations

import logging
import random
import signal
import sys
import threading
import time
from pathlib import Path

from edgekit.fleet.alerts.main import ALERTS_S, ORDERS_S, REMOVED_S, Duty, loop
from edgekit.fleet.alerts.send import send
from edgekit.fleet.alerts.sender import WAITS_S, Retries, Sender
from edgekit.fleet.alerts.watch import Watch
from edgekit.fleet.broker.retained import forget, forget_removed
from edgekit.fleet.opened import Opened
from edgekit.wire.errors import EdgekitError


def run(folder: Path, stop: threading.Event) -> None:
    """Watch a fleet, and follow its orders.

    Args:
        folder: Of the fleet.
        stop: Ends it.

    Raises:
        ConfigError: The folder is no fleet.
        TrustError: The key of the orders cannot be read.
    """
    with Opened(folder) as opened:
        address, office = opened.address("alerts"), opened.office()
        retries = Retries(WAITS_S, random.SystemRandom().random)
        watch = Watch(
            opened.home.alerts_file,
            opened.settings.name,
            opened.alerts,
            lambda channels, on_done: Sender(
                channels, lambda channel, notice: send(channel, notice, address), retries, on_done
            ),
        )

        def clear(_now_s: float) -> None:
            fleet = opened.settings.name
            forget_removed(opened.home, opened.engine, lambda names: forget(address, fleet, names))

        duties = [
            Duty("orders", office.tick, ORDERS_S),
            Duty("alerts", watch.tick, ALERTS_S),
            Duty("removed devices", clear, REMOVED_S),
        ]
        try:
            loop(duties, stop, time.time, time.monotonic)
        finally:
            watch.stop()


def main(argv: list[str]) -> int:
    """Run until SIGTERM or Ctrl-C; return the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(Path(argv[0]), stop)
    except EdgekitError as error:
        logging.getLogger(__name__).error("%s %s", error, error.hint or "")  # noqa: TRY400 - it says all
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
