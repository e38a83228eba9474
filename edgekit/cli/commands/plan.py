"""``edgekit plan``: what a build would do, with the origin of every value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.names import complete_model, target_option
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.plan import Plan


@click.command("plan")
@click.argument("models", nargs=-1, shell_complete=complete_model)
@target_option
@click.option("--project", type=click.Path(path_type=Path), default=Path(), help="Project folder.")
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
            _render(console, plan)

    out.emit(
        "edgekit.plan/1",
        {"plans": [plan.to_json() for plan in found]},
        render,
        quiet="\n".join(plan.sha256 for plan in found),
    )


def _render(console: Console, plan: Plan) -> None:
    from rich.table import Table

    console.print(
        f"\n{plan.model} → {plan.target}   plan {plan.sha256[:12]}   licence "
        f"{plan.step('bundle').values()['license']}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(no_wrap=True)
    for number, step in enumerate(plan.steps, start=1):
        table.add_row(f"{number}. {step.name}", "", "", style="bold")
        for key, value in step.params.items():
            table.add_row(f"   {key}", _short(value.value), value.origin)
    console.print(table)


def _short(value: Any, width: int = 44) -> str:  # noqa: ANN401 - any JSON value
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"
