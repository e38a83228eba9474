"""``edgekit agent logs``: what the agent on this machine has said."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.commands.agent import CONFIG
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import DeviceError, EdgekitError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

UNIT = "edgekit-agent.service"
_UNIT_FILE = Path("/etc/systemd/system") / UNIT
_POLL_S = 0.5
_MAX_LINE = 8192


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on as new lines come, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    help="How many of the last lines.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The agent's settings.",
)
@common_options
def command(follow: bool, lines: int, config: Path, out: Output) -> None:
    """Show the agent's last words: of its service, or the file that `edgekit deploy` let it write.

    \b
    Examples:
      edgekit agent logs -n 200
      edgekit agent logs -f
    """
    if follow and out.json:
        raise UsageError("--follow does not end, and --json is one document", hint="-n N --json")
    file = _log_file(config)
    if file is None:
        journal = ["journalctl", f"--unit={UNIT}", f"--lines={lines}", "--no-pager", "--output=cat"]
        if not out.json:
            raise SystemExit(subprocess.call([*journal, *(["--follow"] if follow else [])]))
        said = subprocess.run(
            journal, capture_output=True, text=True, check=False, errors="replace"
        )
        found = said.stdout.splitlines()
    else:
        found = _last(file, lines)
    out.emit(
        "edgekit.agent.logs/1",
        {"source": str(file) if file else UNIT, "lines": found},
        lambda console: _render(console, found),
        quiet="\n".join(found) or None,
    )
    if follow and file is not None:
        for line in _follow(file):
            out.stdout.print(line, markup=False, soft_wrap=True)


def _render(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _log_file(config: Path) -> Path | None:
    """Return the log file, or None where the journal has the lines."""
    from edgekit.agent.status_read import LOG_FILE, state_dir_of

    if _UNIT_FILE.exists() and shutil.which("journalctl"):
        return None
    hint = "`edgekit agent run` logs to its terminal; `edgekit agent install` makes a service"
    where = config
    try:
        where = state_dir_of(config) / LOG_FILE
        if where.is_file():
            return where
    except EdgekitError as error:
        hint = error.hint or hint
    raise DeviceError(
        "the agent has no log here: neither a service with a journal nor a log file",
        hint=hint,
        where=str(where),
    )


def _last(file: Path, lines: int) -> list[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            return [_plain(line) for line in deque(stream, maxlen=lines)]
    except OSError as error:
        raise DeviceError(f"cannot be read: {error.strerror}", where=str(file)) from error


def _follow(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(0, 2)
        while True:
            line = stream.readline(_MAX_LINE)
            if line:
                yield _plain(line)
            else:
                time.sleep(_POLL_S)
                if file.stat().st_size < stream.tell():  # begun anew
                    stream.seek(0)


def _plain(line: str) -> str:
    """Return a line that cannot repaint a terminal."""
    text = line.rstrip("\n")[:_MAX_LINE]
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]
