"""``edgekit targets``: the hardware that edgekit builds for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.groups import Group
from edgekit.cli.output import Output, common_options
from edgekit.cli.targets_learn import learn_command
from edgekit.wire.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.targets import Resolved

_project = click.option(
    "--project",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Folder whose targets/ overlay the packaged ones.",
)


@click.group("targets", cls=Group, default="list")
def command() -> None:
    """List, show, check and learn targets: what a piece of hardware can do.

    A target is one TOML file. A project's own targets/ overlay the packaged ones, key by key.

    \b
    Examples:
      edgekit targets
      edgekit targets show rpi5
    """


@command.command("list")
@_project
@common_options
def list_command(project: Path, out: Output) -> None:
    """List all targets.

    \b
    Example:
      edgekit targets list
    """
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import list_targets, load_target

    places = folders(project, "targets")
    found = [load_target(name, places).target for name in list_targets(places)]
    rows = [
        {
            "name": t.name,
            "title": t.title,
            "family": t.family,
            "core": t.cpu.core,
            "cores": t.cpu.cores,
            "clock_mhz": t.cpu.clock_mhz,
            "int8_gops": t.cpu.int8_gops,
            "fp32_gflops": t.cpu.fp32_gflops,
            "memory_mib": t.memory.size_mib,
            "onnxruntime_max": t.runtime.onnxruntime_max,
            "opset_max": t.runtime.opset_max,
            "refused": t.refused,
        }
        for t in found
    ]

    def render(console: Console) -> None:
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column("target", no_wrap=True, min_width=16)
        table.add_column("title", no_wrap=True, overflow="ellipsis")
        table.add_column("CPU", no_wrap=True, overflow="ellipsis")
        for header in ("GHz", "int8 GOP/s", "MiB", "opset"):
            table.add_column(header, justify="right", no_wrap=True, min_width=len(header))
        for t in (t for t in found if not t.refused):
            table.add_row(
                t.name,
                t.title,
                f"{t.cpu.cores} × {t.cpu.core}",
                f"{t.cpu.clock_mhz / 1000:.1f}",
                f"{t.cpu.int8_gops:.0f}",
                str(t.memory.size_mib),
                f"≤ {t.runtime.opset_max}",
            )
        console.print(table)
        for t in (t for t in found if t.refused):
            console.print(f"\nrefused: {t.name}, {t.title}. {t.refused}.", markup=False)
        console.print(
            "\nGOP/s are peaks, computed from published facts.\nnext: edgekit targets show rpi5"
        )

    names = "\n".join(t.name for t in found)
    out.emit("edgekit.targets.list/1", {"targets": rows}, render, quiet=names)


@command.command("show")
@click.argument("name")
@_project
@common_options
def show_command(name: str, project: Path, out: Output) -> None:
    """Show a target after merging, each value with the file and line it came from.

    \b
    Example:
      edgekit targets show rpi5
    """
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import KEYS, load_target

    resolved = load_target(name, folders(project, "targets"))
    ordered = [key for key in KEYS if key in resolved.values]
    payload = {
        "name": name,
        "files": list(resolved.files),
        "values": {
            key: {"value": _plain(resolved.values[key]), "origin": resolved.origins[key]}
            for key in ordered
        },
    }

    def render(console: Console) -> None:
        _render_target(console, resolved, ordered)

    out.emit("edgekit.targets.show/1", payload, render, quiet=name)


def _render_target(console: Console, resolved: Resolved, keys: list[str]) -> None:
    from rich.table import Table

    console.print(f"\n{resolved.target.name}: {resolved.target.title}", markup=False)
    console.print(f"read {' < '.join(resolved.files)}\n", markup=False)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for key in keys:
        table.add_row(key, _text(resolved.values[key]), resolved.origins[key])
    console.print(table)
    if resolved.target.refused:
        console.print("\nedgekit builds nothing for it; the reason stands above.")
    else:
        console.print(f"\nnext: edgekit plan --target {resolved.target.name}", markup=False)


@command.command("check")
@click.argument("names", nargs=-1)
@_project
@common_options
def check_command(names: tuple[str, ...], project: Path, out: Output) -> int:
    """Check target files: syntax, key names, types, ranges, completeness.

    Without a NAME all are checked; every broken one is named, with its line. The exit code is 3 if
    any is broken.

    \b
    Examples:
      edgekit targets check
      edgekit targets check rpi5
    """
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.targets import list_targets, load_target

    places = folders(project, "targets")
    results: list[dict[str, Any]] = []
    for name in names or list_targets(places):
        row: dict[str, Any] = {"name": name, "ok": True}
        try:
            load_target(name, places)
        except ConfigError as error:
            row = {
                "name": name,
                "ok": False,
                "message": error.message,
                "hint": error.hint,
                "where": error.where,
            }
        results.append(row)
    broken = [row for row in results if not row["ok"]]

    def render(console: Console) -> None:
        for row in broken:
            console.print(
                f"✗ {row['name']}: {row['message']}", style="red", markup=False, soft_wrap=True
            )
            console.print(f"  at {row['where']}", markup=False, soft_wrap=True)
            if row["hint"]:
                console.print(f"  hint: {row['hint']}", markup=False, soft_wrap=True)
        sound = len(results) - len(broken)
        console.print(f"{sound} of {len(results)} targets are sound")

    payload = {"ok": not broken, "targets": results}
    out.emit("edgekit.targets.check/1", payload, render, quiet="\n".join(r["name"] for r in broken))
    return ConfigError.exit_code if broken else 0


command.add_command(learn_command)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any TOML value
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:  # noqa: ANN401 - any TOML value
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
