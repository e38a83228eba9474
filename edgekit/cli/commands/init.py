"""``edgekit init``: a project from an .onnx file."""

from __future__ import annotations

import re
from pathlib import Path

import click

from edgekit.cli.names import project_option
from edgekit.cli.output import Output, common_options

# It becomes the name of files.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@click.command("init")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of samples: .npz, .npy, pictures, sounds or texts.",
)
@click.option("--name", help="Name of the model; the file's by default.")
@project_option
@click.option("--force", is_flag=True, help="Replace a recipe of the same name.")
@common_options
def command(
    model: Path, data: Path | None, name: str | None, project: Path, force: bool, out: Output
) -> None:
    """Write a recipe for an .onnx file: models/NAME.toml, with inputs and outputs read from it.

    \b
    Example:
      edgekit init detector.onnx --data samples/
    """
    import shlex

    from edgekit.toolchain.scaffold import model_name, recipe_text
    from edgekit.wire.errors import ConfigError, UsageError

    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a model's name", hint="letters, digits, dots, - and _ make a name"
        )
    folder = project / "models"
    path = folder / f"{name or model_name(model)}.toml"
    text = recipe_text(model, data, folder)
    if path.exists() and not force:
        raise ConfigError("the recipe exists already", hint="--force replaces it", where=str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
    following = f"edgekit build {shlex.quote(path.stem)} --target rpi5"
    if data is None:
        following = f"add [[calibration]] and [[evaluation]] to {path}, then {following}"
    out.emit(
        "edgekit.init/1",
        {"recipe": str(path), "next": following},
        lambda console: console.print(
            f"  wrote {path}\n  next: {following}", soft_wrap=True, markup=False
        ),
        quiet=str(path),
    )
