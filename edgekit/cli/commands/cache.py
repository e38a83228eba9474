"""``edgekit cache``: what the cache holds, and making room."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.groups import Group
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.cache import Cache, Entry

_MIB = 1 << 20
_DAY_S = 86400.0
# What the kinds are, for people; a stage that is not here speaks for itself.
_WORDS = {
    "download": "files as they were fetched",
    "source": "what was taken out of them",
    "data": "samples that readers made",
    "export": "models exported to ONNX",
    "optimize": "canonical graphs",
    "smooth": "graphs with smoothed activations",
    "calibrate": "ranges of tensors",
    "effects": "what each layer's rounding costs",
    "predictions": "what models said of samples",
    "timing": "timings on this host",
    "bundle": "finished bundles",
    "emulator": "the emulated aarch64 user-space",
    "digest": "digests of large local files",
    "part": "unfinished downloads",
    "unpinned": "files that no digest names yet",
}


_cache_dir = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The cache's folder; EDGEKIT_CACHE_DIR and edgekit.toml set it too.",
)


@click.group("cache", cls=Group, default="show")
def command() -> None:
    """Show and clear the cache of downloads and computed stages.

    Everything in it is made again when it is needed; what was downloaded needs the network then.

    \b
    Examples:
      edgekit cache
      edgekit cache clear --kind export
    """


@command.command("show")
@_cache_dir
@common_options
def show(cache_dir: Path | None, out: Output) -> None:
    """Show what the cache holds, by kind.

    \b
    Example:
      edgekit cache show
    """
    cache = _open(cache_dir)
    entries = cache.usage()
    free = cache.free_bytes()
    payload = {"path": str(cache.root), "free_bytes": free, **_summary(entries)}

    def render(console: Console) -> None:
        console.print(f"  {cache.root}", soft_wrap=True)
        if not entries:
            console.print("  the cache is empty")
            return
        _print_kinds(console, entries, free)

    out.emit("edgekit.cache.show/1", payload, render, quiet=str(cache.root))


@command.command("clear")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind; repeatable.")
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    metavar="DAYS",
    help="Only what was not used for so many days.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_cache_dir
@common_options
def clear(
    kinds: tuple[str, ...],
    older_than: float | None,
    yes: bool,
    cache_dir: Path | None,
    out: Output,
) -> None:
    """Remove what the cache holds: all of it, or a part.

    \b
    Examples:
      edgekit cache clear --yes
      edgekit cache clear --kind download --older-than 30
    """
    import time

    cache = _open(cache_dir)
    before = None if older_than is None else time.time() - older_than * _DAY_S
    chosen = cache.select(kinds or None, before)
    _check_kinds(kinds, cache.usage())
    size = sum(entry.size_bytes for entry in chosen)
    if chosen and not yes:
        _ask(f"Remove {len(chosen)} entries, {size / _MIB:.1f} MiB, from {cache.root}?")
    removed = cache.clear(kinds or None, before)
    payload = {"path": str(cache.root), "free_bytes": cache.free_bytes(), **_summary(removed)}

    def render(console: Console) -> None:
        freed = sum(entry.size_bytes for entry in removed)
        console.print(f"  removed {len(removed)} entries, {freed / _MIB:.1f} MiB")

    out.emit("edgekit.cache.clear/1", payload, render)


def _open(cache_dir: Path | None) -> Cache:
    import os

    from edgekit.toolchain.cache import Cache
    from edgekit.toolchain.settings import load_settings

    return Cache(load_settings(Path.cwd(), {"cache_dir": cache_dir}, os.environ).cache_dir)


def _check_kinds(kinds: Sequence[str], entries: Sequence[Entry]) -> None:
    known = sorted({entry.kind for entry in entries} | set(_WORDS))
    for kind in kinds:
        if kind not in known:
            close = did_you_mean(kind, known)
            hint = f"did you mean {close}?" if close else f"the cache has {', '.join(known)}"
            raise UsageError(f'no kind named "{kind}"', hint=hint)


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("clearing asks first, and nobody is there to answer", hint="add --yes")
    click.confirm(question, abort=True, err=True)


def _summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return counts, sizes and the last use by kind, largest kind first."""
    kinds: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row = kinds.setdefault(
            entry.kind, {"kind": entry.kind, "entries": 0, "size_bytes": 0, "used_at": 0.0}
        )
        row["entries"] += 1
        row["size_bytes"] += entry.size_bytes
        row["used_at"] = max(row["used_at"], round(entry.used_at, 3))
    rows = sorted(kinds.values(), key=lambda row: (-row["size_bytes"], row["kind"]))
    total = sum(row["size_bytes"] for row in rows)
    return {"entries": len(entries), "size_bytes": total, "kinds": rows}


def _print_kinds(console: Console, entries: Sequence[Entry], free: int) -> None:
    from rich.table import Table

    summary = _summary(entries)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("  kind", no_wrap=True)
    table.add_column("entries", justify="right", no_wrap=True)
    table.add_column("MiB", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in summary["kinds"]:
        table.add_row(
            f"  {row['kind']}",
            str(row["entries"]),
            f"{row['size_bytes'] / _MIB:.1f}",
            _WORDS.get(row["kind"], ""),
        )
    table.add_row(
        "  all",
        str(summary["entries"]),
        f"{summary['size_bytes'] / _MIB:.1f}",
        f"{free / (1 << 30):.1f} GiB free on this disk",
    )
    console.print(table)
    console.print("  next: edgekit cache clear --older-than 30")
