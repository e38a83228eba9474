"""What a build's lines and its last words look like, without a build."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from edgekit.cli.build_view import BuildView, render_result
from edgekit.cli.output import Output
from edgekit.toolchain.events import Event

REASON = "static int8, 1 of 9 layers fp32: it takes 1.28 x the time of fp32 (predicted)"


def shown(width: int, models: int, event: Event) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    progress = SimpleNamespace(console=console)
    view = BuildView(Output(json=False, quiet=False, verbose=False), progress, models)  # type: ignore[arg-type]
    view.on_event(event)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [72, 80, 100, 240])
@pytest.mark.parametrize("models", [1, 8])
def test_a_line_fits_and_loses_nothing(width, models):
    lines = shown(width, models, Event("digits-cnn", "candidate", detail=REASON))
    assert max(map(len, lines)) <= min(width, 100)
    assert " ".join(" ".join(lines).split()).endswith(REASON)
    (line,) = shown(width, models, Event("digits-cnn", "optimize", detail="9 → 4", seconds=1.25))
    assert line.endswith("1.2 s")
    assert len(line) <= min(width, 100)


@pytest.mark.parametrize(
    ("family", "command"),
    [
        ("arm64", "edgekit verify dist/m.ekb --emulate"),
        ("x86-64-vnni", "edgekit verify dist/m.ekb"),
    ],
)
def test_the_next_command_is_one_that_works(family, command):
    job = SimpleNamespace(
        key=SimpleNamespace(public=SimpleNamespace(label="dev-1234")),
        resolved=SimpleNamespace(target=SimpleNamespace(family=family)),
    )
    outcome = SimpleNamespace(
        status="built", path="dist/m.ekb", report="dist/m.html", summary=None, model="m"
    )
    console = Console(file=io.StringIO(), width=100)
    result = SimpleNamespace(outcomes=[outcome])
    render_result(console, result, job, verbose=False)  # type: ignore[arg-type]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[-2:] == ["  report: dist/m.html", f"  next: {command}"]
