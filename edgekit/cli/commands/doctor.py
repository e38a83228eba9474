"""``edgekit doctor``: what this machine lacks, and the command that installs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import MissingToolError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.doctor import Check, Group

_MARKS = {"ok": "✓", "missing": "–", "wrong": "✗", "note": "!"}
_WIDE = 22


@click.command("doctor")
@common_options
def command(out: Output) -> int:
    """Show what is installed, what is missing, what each is for and how to install it.

    The exit code is 0 unless the basic build lacks something; then it is 4.

    \b
    Example:
      edgekit doctor
    """
    import os
    from dataclasses import asdict

    from edgekit.toolchain.doctor import examine, gather, ready
    from edgekit.toolchain.settings import load_settings

    groups = examine(gather(load_settings(Path.cwd(), {}, os.environ)))
    ok = ready(groups)
    out.emit(
        "edgekit.doctor/1",
        {"ready": ok, "groups": [{**asdict(group), "ok": group.ok} for group in groups]},
        lambda console: _render(console, groups, ok=ok, verbose=out.verbose),
        quiet="ready" if ok else "not ready",
    )
    return 0 if ok else MissingToolError.exit_code


def _render(console: Console, groups: tuple[Group, ...], *, ok: bool, verbose: bool) -> None:
    for group in groups:
        state = "" if group.ok else "needed" if group.needed else "optional"
        console.print(f"  {group.purpose}", style="bold", end="", markup=False)
        console.print(f"   {state}" if state else "", style="red" if group.needed else "dim")
        plain = [] if verbose else [c for c in group.checks if _is_plain(c)]
        absent = [] if verbose else [c for c in group.checks if c.state == "missing" and c.install]
        for check in group.checks:
            if check not in plain and check not in absent:
                _render_check(console, check)
        for install in dict.fromkeys(check.install for check in absent):
            names = [check.name for check in absent if check.install == install]
            _render_list(console, "–", names, "missing: ")
            console.print(f"      {install}", markup=False, soft_wrap=True)
        _render_list(console, "✓", [f"{c.name} {c.found}" for c in plain])
    console.print()
    if ok:
        console.print("  ready   next: edgekit build --target rpi5", markup=False)
    else:
        console.print("  not ready: run the commands above, then edgekit doctor", markup=False)


def _is_plain(check: Check) -> bool:
    """Tell whether a check says nothing but a version, so that one line can hold many."""
    return check.state == "ok" and " " not in check.name and " " not in check.found


def _render_check(console: Console, check: Check) -> None:
    style = "red" if check.state == "wrong" else ""
    console.print(
        f"    {_MARKS[check.state]} {check.name:<{_WIDE}} {check.found or check.state}",
        markup=False,
        style=style,
        soft_wrap=True,
    )
    if check.install:
        console.print(f"      {'':<{_WIDE}} {check.install}", markup=False, soft_wrap=True)


def _render_list(console: Console, mark: str, items: list[str], lead: str = "") -> None:
    if not items:
        return
    import textwrap

    # A version stays beside its name.
    text = lead + ", ".join(item.replace(" ", "\u00a0") for item in items)
    for index, line in enumerate(textwrap.wrap(text, console.width - 8)):
        console.print(f"    {' ' if index else mark} {line}", markup=False, soft_wrap=True)
