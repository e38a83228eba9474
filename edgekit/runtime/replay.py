"""Replay the golden samples of an extracted bundle: ``python -m edgekit.runtime.replay FOLDER``.

Prints one JSON document; a machine without the command line (an emulated device) can run it.
The folder is trusted: whoever extracted it has verified the signature.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from edgekit.runtime.host import host_kind
from edgekit.runtime.pipeline import replay
from edgekit.wire.errors import EdgekitError
from edgekit.wire.manifest import parse_manifest


def main(argv: list[str]) -> int:
    """Replay and print ``{"schema": "edgekit.replay/1", "matches": […]}``.

    Args:
        argv: The folder.

    Returns:
        0, or the exit code of the error that stands in the document.
    """
    folder = Path(argv[0])
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
        matches = replay(
            manifest, lambda name: (folder / name).read_bytes(), list(manifest.members)
        )
        document = {
            "schema": "edgekit.replay/1",
            "host": host_kind(),
            "matches": [dataclasses.asdict(match) for match in matches],
        }
    except EdgekitError as error:
        sys.stdout.write(
            json.dumps(
                {
                    "schema": "edgekit.error/1",
                    "error": type(error).__name__,
                    "message": error.message,
                    "hint": error.hint,
                    "where": error.where,
                    "exit_code": error.exit_code,
                }
            )
            + "\n"
        )
        return error.exit_code
    sys.stdout.write(json.dumps(document) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
