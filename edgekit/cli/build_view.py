"""How a build looks in a terminal: a line a stage, a table a model, the next command at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.cli.measurements import contract_table, number
from edgekit.cli.output import WIDTH, Output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from edgekit.toolchain.api import BuildResult
    from edgekit.toolchain.build import Job, Outcome
    from edgekit.toolchain.events import Event

_STAGES = ("export", "optimize", "calibrate", "bundle")
_MIB = 1 << 20
_NARROW = 24


class BuildView:
    """Draws events: finished stages as lines, running ones as bars."""

    def __init__(self, out: Output, progress: Progress, models: int) -> None:
        self._out = out
        self._progress = progress
        self._prefixed = models > 1
        self._tasks: dict[tuple[str, str], TaskID] = {}

    @classmethod
    @contextmanager
    def open(cls, out: Output, models: int) -> Iterator[BuildView]:
        """Draw while the body runs."""
        with out.progress() as progress:
            yield cls(out, progress, models)

    def on_event(self, event: Event) -> None:
        """Draw one event."""
        if event.seconds is not None or event.stage == "candidate":
            self._finish(event)
        elif event.total:
            self._advance(event)

    def _advance(self, event: Event) -> None:
        key = (event.subject, event.stage)
        if key not in self._tasks:
            label = f"{event.subject} {event.stage}"
            self._tasks[key] = self._progress.add_task(label, total=event.total)
        if event.done >= (event.total or 0):
            self._progress.remove_task(self._tasks.pop(key))
        else:
            self._progress.update(self._tasks[key], completed=event.done, total=event.total)

    def _finish(self, event: Event) -> None:
        for key in [k for k in self._tasks if k[0] == event.subject]:
            self._progress.remove_task(self._tasks.pop(key))
        if self._out.quiet or self._out.json:
            return
        subject = f"{event.subject:<19}" if self._prefixed else ""
        detail = event.detail
        if event.stage == "fetch":
            # A file belongs to no model: its own name is the news.
            subject, detail = " " * 19 if subject else "", f"{event.subject} {detail}"
        time = (
            "cached" if event.cached else "" if event.seconds is None else f"{event.seconds:.1f} s"
        )
        mark = " " if event.stage == "candidate" else "✓"
        console = self._progress.console
        head = f"  {subject}{mark} {event.stage:<10} "
        room = max(_NARROW, min(console.width, WIDTH) - len(head) - len(f" {time:>7}"))
        first, *more = textwrap.wrap(detail, room) or [""]
        rows = [f"{head}{first:<{room}} {time:>7}", *(" " * (len(head) + 2) + m for m in more)]
        for row in rows:
            console.print(row.rstrip(), highlight=False, markup=False, soft_wrap=True)


def render_result(console: Console, result: BuildResult, job: Job | None, *, verbose: bool) -> None:
    """Print what a build ended with.

    Args:
        console: Where to.
        result: The build's.
        job: One of the build's: all have the same target and key.
        verbose: A table for every model of many, too.
    """
    signer = job.key.public.label if job else ""
    for outcome in result.outcomes:
        if outcome.status == "up-to-date" and len(result.outcomes) > 1:
            continue
        if outcome.summary is not None and (len(result.outcomes) == 1 or verbose):
            _render_bundle(console, outcome, outcome.summary, signer)
    if len(result.outcomes) > 1:
        _render_table(console, result)
    _render_next(console, result, job)


def _render_bundle(
    console: Console, outcome: Outcome, summary: Mapping[str, Any], signer: str
) -> None:
    if outcome.status == "up-to-date":
        console.print(f"\n  {outcome.model} is up to date: nothing in its plan has changed")
    console.print()
    console.print(contract_table(summary))
    console.print(f"\n  {summary['reason']}", soft_wrap=True, markup=False)
    size = f"{summary['size_bytes'] / _MIB:.3g} MiB"
    console.print(f"  {outcome.path}   {size}   signed by {signer}", soft_wrap=True)


def _render_table(console: Console, result: BuildResult) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name, right in (
        ("model", False),
        ("ships as", False),
        ("MiB", True),
        ("of fp32", True),
        ("accuracy", True),
        ("n", True),
        ("metric, measured here", False),
        ("p50, ms", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for outcome in result.outcomes:
        if outcome.summary is None:
            table.add_row(outcome.model, outcome.status)
            continue
        summary = outcome.summary
        found = {m["metric"]: m for m in summary["measurements"]}
        fp32 = {m["metric"]: m for m in summary["fp32"]}
        accuracy = summary["measurements"][0]
        latency = found.get("latency_p50_ms")
        table.add_row(
            outcome.model,
            summary["precision"] + (" =" if outcome.status == "up-to-date" else ""),
            f"{found['size_mib']['value']:.2f}",
            f"{found['size_mib']['value'] / fp32['size_mib']['value']:.2f}",
            f"{accuracy['value']:.3f}",
            str(accuracy.get("n", "–")),
            accuracy["metric"],
            number(latency),
        )
    console.print()
    console.print(table)
    console.print("  p50 is predicted for the target, never checked on the board", style="dim")
    if any(o.status == "up-to-date" for o in result.outcomes):
        console.print("  = up to date: nothing in its plan has changed", style="dim")


def show_failures(out: Output, result: BuildResult) -> None:
    """Say on stderr what failed and what was left out, quiet or not; ``--json`` has it anyway."""
    if out.json:
        return
    for outcome in result.outcomes:
        error = outcome.error or {}
        left_out = outcome.status == "left-out"
        if not error or (left_out and out.quiet):
            continue
        place = f"{error['where']}: " if error.get("where") else ""
        out.stderr.print(
            f"\n{'left out' if left_out else 'error'}: {outcome.model}: {place}{error['message']}",
            markup=False,
            soft_wrap=True,
            style="" if left_out else "red",
        )
        if error.get("hint"):
            out.stderr.print(f"  hint: {error['hint']}", markup=False, soft_wrap=True)


def _render_next(console: Console, result: BuildResult, job: Job | None) -> None:
    built = [o for o in result.outcomes if o.path is not None]
    if not built:
        return
    first = built[0]
    folder = Path(str(first.report)).parent
    report = first.report if len(built) == 1 else f"{folder}/*.html"
    console.print(f"\n  report: {report}", soft_wrap=True, markup=False)
    emulated = job is not None and job.resolved.target.family == "arm64"
    following = f"edgekit verify {first.path}{' --emulate' if emulated else ''}"
    console.print(f"  next: {following}", soft_wrap=True, markup=False)
