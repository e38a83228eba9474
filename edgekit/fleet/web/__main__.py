"""``python -m edgekit.fleet.web HOME [--port N]``: serves a fleet until it is told to stop."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from pathlib import Path

from edgekit.wire.errors import EdgekitError

_MAX_CONNECTIONS = 1000
_GRACE_S = 3


def main(argv: list[str]) -> int:
    """Serve until SIGTERM; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgekit.fleet.web")
    parser.add_argument("home", type=Path)
    parser.add_argument("--port", type=int)
    options = parser.parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    import uvicorn

    try:
        from edgekit.fleet.opened import Opened
        from edgekit.fleet.web.app import make_app

        with Opened(options.home) as opened:
            settings = opened.settings
            app = make_app(opened, time.time, time.monotonic)
            # Looking through all that is loaded for garbage takes 100 ms, in the middle of a page.
            gc.collect()
            gc.freeze()
            uvicorn.run(
                app,
                host=settings.http_host,
                port=options.port or settings.http_port,
                loop="asyncio",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_graceful_shutdown=_GRACE_S,
            )
    except EdgekitError as error:
        sys.stderr.write(f"error: {error}\n{error.hint or ''}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
