"""The bundles of a fleet over HTTP, alone: ``python -m edgekit.fleet.bundle_server HOME``.

What devices fetch from where the dashboard is not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.fleet.bundles import BundleApp
from edgekit.fleet.home import FleetHome
from edgekit.fleet.settings import load_settings
from edgekit.wire.errors import EdgekitError

_MAX_CONNECTIONS = 1000
_GRACE_S = 3


def main(folder: Path) -> int:
    """Serve until SIGTERM.

    Returns:
        The exit code.
    """
    import uvicorn

    try:
        home = FleetHome.open(folder)
        settings = load_settings(home)
    except EdgekitError as error:
        sys.stderr.write(f"error: {error}\n")
        return int(error.exit_code)
    uvicorn.run(
        BundleApp(home.bundles),
        host=settings.http_host,
        port=settings.http_port,
        lifespan="off",
        loop="asyncio",
        http="h11",
        ws="none",
        log_level="warning",
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
