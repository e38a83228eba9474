"""The agent's log: to stderr, and its last lines for a fleet that asks; nothing is sent unasked."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Mapping

from edgekit.wire.canonical import Json
from edgekit.wire.errors import UsageError

MAX_LINES = 200
MAX_LINE = 300
# A reply is one MQTT message of at most 64 KiB, with escapes.
_MAX_ANSWER = 24_000
_DEFAULT_LINES = 50


class Logbook(logging.Handler):
    """Keeps the last lines of a log; may be read from any thread.

    Args:
        lines: How many.
    """

    def __init__(self, lines: int = MAX_LINES) -> None:
        super().__init__()
        self._lines: deque[tuple[float, str, str]] = deque(maxlen=lines)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; of an exception, what it says and not its traceback."""
        try:
            text = record.getMessage()
            if record.exc_info is not None and record.exc_info[1] is not None:
                text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        except Exception:  # noqa: BLE001 - a log call with the wrong arguments ends nothing
            text = str(record.msg)
        self._lines.append((record.created, record.levelname, f"{record.name}: {text}"[:MAX_LINE]))

    def answer(self, args: Mapping[str, Json]) -> Json:
        """Answer the command ``logs``.

        Args:
            args: Perhaps ``lines``, from 1 to 200.

        Returns:
            ``lines``, the oldest first: ``time_s``, ``level``, ``text``. As many as fit a reply.

        Raises:
            UsageError: That is no number of lines.
        """
        count = args.get("lines", _DEFAULT_LINES)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_LINES:
            raise UsageError(f"lines is a number from 1 to {MAX_LINES}", hint='{"lines": 50}')
        found: list[Json] = []
        left = _MAX_ANSWER
        for time_s, level, text in reversed(list(self._lines)[-count:]):
            left -= len(text.encode("utf-8", "replace"))
            if left < 0:
                break
            found.append({"time_s": round(time_s, 3), "level": level, "text": text})
        return {"lines": found[::-1]}


def log_to_stderr(*, verbose: bool = False, quiet: bool = False) -> None:
    """Log to stderr, which a service manager keeps."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    form = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=level, format=form, stream=sys.stderr, force=True)
    # The command line holds ours to warnings; here the command `log-level` sets it.
    logging.getLogger("edgekit").setLevel(logging.NOTSET)
