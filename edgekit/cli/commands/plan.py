"""``edgekit plan``: what a build would do, with the origin of every value."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.names import complete_model, project_option, target_option
from edgekit.cli.output import WIDTH, Output, common_options

_NARROW = 20

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.plan import Plan


@click.command("plan")
@click.argument("models", nargs=-1, shell_complete=complete_model)
@target_option
@project_option
@common_options
def command(models: tuple[str, ...], target: str, project: Path, out: Output) -> None:
    """Print the ordered steps of a build: every value and where it came from.

    Nothing is fetched and nothing is built. The plan's digest is the cache's key: as long as it
    stays, a rebuild does nothing.

    \b
    Example:
      edgekit plan digits-cnn --target rpi5
    """
    from edgekit.toolchain.api import plans, prepare

    found = plans(prepare(models, target=target, project=project, flags={}))

    def render(console: Console) -> None:
        for plan in found:
            _render(console, plan, whole=out.verbose)
        more = [] if project == Path() else ["--project", shlex.quote(str(project))]
        following = " ".join(["edgekit build", *models, "--target", target, *more])
        console.print(f"\n  next: {following}", markup=False, soft_wrap=True)

    out.emit(
        "edgekit.plan/1",
        {"plans": [plan.to_json() for plan in found]},
        render,
        quiet="\n".join(plan.sha256 for plan in found),
    )


def _render(console: Console, plan: Plan, *, whole: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(
        f"\n{plan.model} → {plan.target}   plan {plan.sha256[:12]}   licence "
        f"{plan.step('bundle').values()['license']}"
    )
    rows = [
        (f"   {key}", value.value, value.origin)
        for step in plan.steps
        for key, value in step.params.items()
    ]
    # Names and places stand whole: what is left is the values'.
    taken = max(len(key) for key, _, _ in rows) + max(len(origin) for _, _, origin in rows) + 6
    room = max(_NARROW, min(console.width, WIDTH) - taken)
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, show_header=False)
    table.add_column(no_wrap=not whole)
    table.add_column(no_wrap=not whole, overflow="fold" if whole else "ellipsis")
    table.add_column(no_wrap=True)
    for number, step in enumerate(plan.steps, start=1):
        table.add_row(f"{number}. {step.name}", "", "", style="bold")
        for key, value in step.params.items():
            text = _text(value.value)
            shown = text if whole or len(text) <= room else text[: room - 1] + "…"
            table.add_row(Text(f"   {key}"), Text(shown), Text(value.origin))
    console.print(table)
    if not whole and any(len(_text(value)) > room for _, value, _ in rows):
        console.print("  … is cut: --verbose shows every value whole", style="dim")


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON value
    import json

    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
