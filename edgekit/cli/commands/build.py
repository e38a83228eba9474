"""``edgekit build``: models to signed bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.names import complete_model, project_option, search_options, target_option
from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from edgekit.toolchain.api import BuildResult
    from edgekit.toolchain.build import Outcome

SCHEMA = "edgekit.build/1"


@click.command("build")
@click.argument("models", nargs=-1, metavar="[MODEL…|FILE.onnx]", shell_complete=complete_model)
@target_option
@click.option(
    "-o",
    "--dist",
    "dist_dir",
    type=click.Path(path_type=Path),
    help="Output folder; dist/ by default.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of samples, for FILE.onnx: .npz, .npy, pictures, sounds or texts.",
)
@project_option
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Folder of the cache; `edgekit cache` names it.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Key that signs, PEM; the developer key by default.",
)
@search_options
@click.option("--jobs", type=click.IntRange(min=1), help="Models built at once.")
@click.option("--offline", is_flag=True, default=None, help="Fetch nothing; use the cache alone.")
@common_options
def command(
    models: tuple[str, ...],
    target: str,
    dist_dir: Path | None,
    data: Path | None,
    project: Path,
    cache_dir: Path | None,
    key_file: Path | None,
    search: str | None,
    max_minutes: float | None,
    jobs: int | None,
    offline: bool | None,
    out: Output,
) -> int:
    """Build models for a target: optimize, quantize, prove, pack and sign.

    Without a MODEL, all models of the project are built; in a folder without models/, the packaged
    ones. The best candidate that meets the recipe's contract ships; where none does, the exit code
    is 6 and no bundle is written.

    \b
    Examples:
      edgekit build efficientnet-lite0 --target rpi5
      edgekit build --target rpi4 -o out/
      edgekit build detector.onnx --data samples/ --target rk3588
      edgekit build yolo11n --target rk3588 --search full --max-minutes 10
    """
    from edgekit.cli.build_view import BuildView, render_result, show_failures
    from edgekit.toolchain.api import build_prepared, prepare

    flags: dict[str, Any] = {
        "dist_dir": dist_dir,
        "cache_dir": cache_dir,
        "key_file": key_file,
        "search": search,
        "max_minutes": max_minutes,
        "jobs": jobs,
        "offline": offline,
    }
    flags = {key: value for key, value in flags.items() if value is not None}
    recipes = _recipes_of_files(models, data)
    prepared = prepare(
        () if recipes else models, target=target, project=project, flags=flags, recipes=recipes
    )
    if prepared.created_key is not None:
        out.note(f"made a developer key to sign with: {prepared.created_key}")
    with BuildView.open(out, len(prepared.jobs)) as view:
        result = build_prepared(prepared, view.on_event, leave_out=not models)
    show_failures(out, result)
    first = next(iter(prepared.jobs), None)
    out.emit(
        SCHEMA,
        {"target": target, "bundles": [_document(o) for o in result.outcomes]},
        lambda console: render_result(console, result, first, verbose=out.verbose),
        quiet=_paths(result),
    )
    return result.exit_code


def _recipes_of_files(models: tuple[str, ...], data: Path | None) -> list[Any]:
    files = [Path(m) for m in models if m.endswith(".onnx")]
    if not files:
        if data is not None:
            raise click.UsageError("--data goes with a FILE.onnx")
        return []
    if len(files) != len(models):
        raise click.UsageError("give either names of models or .onnx files, not both")
    if data is None:
        raise click.UsageError("FILE.onnx needs --data DIR with samples to calibrate on")
    from edgekit.toolchain.scaffold import recipe_for_file

    return [recipe_for_file(file, data) for file in files]


def _paths(result: BuildResult) -> str | None:
    return "\n".join(o.path for o in result.outcomes if o.path) or None


def _document(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": outcome.model,
        "target": outcome.target,
        "status": outcome.status,
        "path": outcome.path,
        "report": outcome.report,
    }
    document.update(outcome.summary or {})
    if outcome.error:
        document["error"] = dict(outcome.error)
        document["exit_code"] = outcome.exit_code
    return document
