"""How a deployment looks in a terminal: a line a step, what it means, the next command."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgekit.cli.output import WIDTH, Output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from edgekit.deploy.events import StepEvent
    from edgekit.deploy.steps import Result
    from edgekit.wire.bundle import Bundle

_MARKS = {"done": "✓", "unchanged": "=", "would": "~"}
_MIB = 1 << 20
_NARROW = 24


class DeployView:
    """Draws steps: those that have ended as lines, the one that runs as a bar."""

    def __init__(self, out: Output, progress: Progress, host: str, prefix: PurePosixPath) -> None:
        self._out = out
        self._progress = progress
        self._host = host
        self._prefix = prefix
        self._task: TaskID | None = None

    @classmethod
    @contextmanager
    def open(
        cls, out: Output, bundle: Bundle, host: str, prefix: PurePosixPath
    ) -> Iterator[DeployView]:
        """Draw while the body runs."""
        manifest = bundle.manifest
        signer = bundle.signed_by.label if bundle.signed_by else "nobody"
        out.note(
            f"  {manifest.model} → {host} ({manifest.target.name}, {manifest.precision}, "
            f"{bundle.size_bytes / _MIB:.3g} MiB, signed by {signer})"
        )
        with out.progress() as progress:
            yield cls(out, progress, host, prefix)

    def on_event(self, event: StepEvent) -> None:
        """Draw one event."""
        if event.outcome == "again":
            self._out.note(f"  ! {event.step:<12} {event.detail}")
        elif event.outcome == "running":
            self._run(event)
        else:
            self._finish(event)

    def _run(self, event: StepEvent) -> None:
        if self._task is None:
            self._task = self._progress.add_task(event.step, total=None)
        label = f"{event.step} {event.detail}"[:60]
        total, done = event.total // _MIB, event.done // _MIB
        self._progress.update(
            self._task, description=label, total=total if event.total else None, completed=done
        )

    def _finish(self, event: StepEvent) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._out.quiet or self._out.json:
            return
        console = self._progress.console
        head = f"  {_MARKS.get(event.outcome, ' ')} {event.step:<12} "
        word = "" if event.outcome == "done" else "unchanged"
        word = "would be done" if event.outcome == "would" else word
        if event.step == "look" or not word:
            word = f"{event.seconds or 0.0:.1f} s"
        room = max(_NARROW, min(console.width, WIDTH) - len(head) - len(word) - 1)
        first, *more = textwrap.wrap(event.detail, room) or [""]
        rows = [f"{head}{first:<{room}} {word}", *(" " * (len(head) + 2) + row for row in more)]
        for row in rows:
            console.print(row.rstrip(), highlight=False, markup=False, soft_wrap=True)

    def render(self, console: Console, result: Result, *, dry_run: bool) -> None:
        """Print what it came to."""
        if result.self_test is not None:
            console.print()
            for line in _measured(result):
                console.print(f"  {line}", markup=False, soft_wrap=True)
        if dry_run:
            text = "would be changed" if result.changed else "nothing to change"
            console.print(f"\n  {text}; nothing was changed: a dry run")
            return
        if not result.changed:
            console.print("\n  unchanged: the board has it all, and serves")
        python = f"{self._prefix}/current/bin/python -m edgekit"
        config = "" if result.way.service else f" --config {result.way.config}"
        status = f"{'sudo ' if result.way.as_root else ''}{python} agent status{config}"
        console.print(f"\n  next: ssh {self._host} {status}", markup=False, soft_wrap=True)


def _measured(result: Result) -> Iterator[str]:
    test = result.self_test
    if test is None:
        return
    judged = {row.metric: row for row in test.judged}
    for measurement in test.measurements:
        row = judged.get(measurement.metric)
        limit = "–" if row is None or row.maximum is None else f"≤ {row.maximum:g}"
        mark = "" if row is None else "✓" if row.outcome == "pass" else "✗"
        yield (
            f"{measurement.metric:<16} {measurement.value:>8.3g}   {limit:<9} {mark:<2} "
            f"{measurement.kind.value} on the board, n={measurement.n}"
        )


def render_removed(console: Console, host: str, removed: list[str], *, purge: bool) -> None:
    """Print what was taken away."""
    for name in removed:
        console.print(f"  - {name}", markup=False, soft_wrap=True)
    if not removed:
        console.print(f"  nothing of edgekit is on {host}", markup=False)
    elif not purge:
        console.print("  what the agent has stored stays; --purge removes it")


def result_json(result: Result) -> dict[str, Any]:
    """Return the JSON form of what a deployment came to."""
    return {
        "changed": result.changed,
        "steps": [
            {
                "step": step.step,
                "outcome": step.outcome,
                "detail": step.detail,
                "seconds": round(step.seconds or 0.0, 3),
            }
            for step in result.steps
        ],
        "way": {key: str(v) if isinstance(v, PurePosixPath) else v for key, v in _way(result)},
        "environment": result.environment,
        "phase": result.phase,
        "self_test": result.self_test.to_json() if result.self_test else None,
    }


def _way(result: Result) -> list[tuple[str, Any]]:
    return list(asdict(result.way).items())
