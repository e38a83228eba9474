"""Serve bundles on a port: ``python serve.py PORT [BUNDLE…]``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from edgekit.agent.engine import Engine
from edgekit.agent.serve.server import HttpServer, HttpSettings
from edgekit.wire.bundle import open_bundle

engine = Engine()
for name in sys.argv[2:]:
    # The bundle was built a moment ago by this same benchmark.
    with open_bundle(Path(name), None) as opened:
        engine.load(opened.manifest, opened.read)
server = HttpServer(engine, HttpSettings(port=int(sys.argv[1])))
server.start()
threading.Event().wait()
