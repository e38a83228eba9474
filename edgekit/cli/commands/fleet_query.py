"""``edgekit fleet query``: SQL over what a fleet has stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.fleet_options import fleet_options
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.fleet.client import Fleet
    from edgekit.fleet.sql import Answer

SCHEMA = "edgekit.fleet-query/1"


@click.command("query")
@click.argument("sql")
@click.option(
    "--rows",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Most rows of the answer.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 600),
    default=30.0,
    show_default=True,
    help="Seconds after which the query is stopped.",
)
@fleet_options
@common_options
def command(sql: str, rows: int, timeout_s: float, fleet: Fleet, out: Output) -> None:
    """Ask the store with one SELECT, in DuckDB's dialect.

    It sees the raw telemetry as `telemetry` and the tables of the store that hold no secret; it
    reads nothing else and writes nothing.

    \b
    Examples:
      edgekit fleet query "SELECT device, count(*) FROM telemetry GROUP BY ALL"
      edgekit fleet query "DESCRIBE telemetry"
    """
    answer = fleet.query(sql, rows=rows, timeout_s=timeout_s)
    out.emit(
        SCHEMA,
        {
            "columns": list(answer.columns),
            "rows": [list(row) for row in answer.rows],
            "truncated": answer.truncated,
        },
        lambda console: render(console, answer),
        quiet="\n".join("\t".join(map(_cell, row)) for row in answer.rows) or None,
    )


def render(console: Console, answer: Answer) -> None:
    """Print an answer as a table."""
    from rich.text import Text

    from edgekit.cli.fleet_view import show, table

    numbers = [
        name
        for place, name in enumerate(answer.columns)
        if all(isinstance(row[place], int | float | None) for row in answer.rows)
    ]
    made = table(answer.columns, right=numbers)
    for row in answer.rows:
        first, *more = map(_cell, row)
        made.add_row(Text(f"  {first}"), *map(Text, more))
    more_rows = f"only the first {len(answer.rows)} rows; --rows shows more"
    count = "1 row" if len(answer.rows) == 1 else f"{len(answer.rows)} rows"
    show(console, made, f"\n  {more_rows if answer.truncated else count}")


def _cell(value: Any) -> str:  # noqa: ANN401 - a JSON value
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
