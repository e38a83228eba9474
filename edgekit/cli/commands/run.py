"""``edgekit run``: try a bundle on an input at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.output import Output, common_options

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.runtime.pipeline import Pipeline

MAX_INPUT_BYTES = 256 << 20
_LISTED = 20
_VALUES = 8


@click.command("run")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Picture with boxes drawn.")
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust; may be given more than once. Default: this machine's own key.",
)
@click.option("--text", "as_text", is_flag=True, help="INPUT is text itself, not a file.")
@common_options
def command(
    bundle: Path,
    inputs: tuple[str, ...],
    output: Path | None,
    keys: tuple[Path, ...],
    as_text: bool,
    out: Output,
) -> None:
    """Run a bundle on files: labels, boxes, text or speech segments, as the device would answer.

    \b
    Examples:
      edgekit run dist/efficientnet-lite0-rpi5.ekb cat.jpg
      edgekit run dist/yolo11n-rpi5.ekb street.jpg -o boxes.png
      edgekit run dist/minilm-l6-v2-rpi5.ekb --text "a fine day"
    """
    from edgekit.cli.trust import open_trusted
    from edgekit.runtime.pipeline import load_pipeline
    from edgekit.wire.errors import UsageError

    if output is not None and len(inputs) != 1:
        raise UsageError("-o takes one input")
    results: list[dict[str, Any]] = []
    with open_trusted(bundle, keys) as opened:
        pipeline = load_pipeline(opened.manifest, opened.read)
        takes_text = opened.manifest.pipeline.task == "embed-text"
        for name in inputs:
            data = name.encode() if as_text else _read(Path(name), takes_text)
            prediction = _predict(pipeline, data, "--text" if as_text else name)
            results.append({"input": name, "prediction": prediction})
            if output is not None:
                _draw(output, data, prediction)
    manifest = opened.manifest
    out.emit(
        "edgekit.run/1",
        {"model": manifest.model, "task": manifest.pipeline.task, "results": results},
        lambda console: _render(console, results, output),
        quiet="\n".join(_one_line(r["prediction"]) for r in results),
    )


def _predict(pipeline: Pipeline, data: bytes, name: str) -> dict[str, Any]:
    """Run the pipeline; an error names the input that it is about."""
    from edgekit.wire.errors import EdgekitError

    try:
        return dict(pipeline.predict(data))
    except EdgekitError as error:
        place = name if error.where is None else f"{name}: {error.where}"
        raise type(error)(error.message, hint=error.hint, where=place) from error


def _read(path: Path, takes_text: bool) -> bytes:
    from edgekit.wire.errors import UsageError

    hint = "--text takes the text itself instead of a file" if takes_text else None
    if path.is_dir():
        hint = f"name its files: {path}/*"

    try:
        if path.stat().st_size > MAX_INPUT_BYTES:
            raise UsageError(f"over {MAX_INPUT_BYTES >> 20} MiB", where=str(path))
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint=hint or "INPUT is a file of yours; give its path",
        ) from error


def _draw(output: Path, data: bytes, prediction: dict[str, Any]) -> None:
    from edgekit.runtime.draw import draw_boxes
    from edgekit.wire.errors import ConfigError, UsageError

    if "boxes" not in prediction:
        raise UsageError("-o draws boxes; this task finds none")
    try:
        output.write_bytes(draw_boxes(data, prediction))
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(output)) from error


def _render(console: Console, results: list[dict[str, Any]], output: Path | None) -> None:
    for result in results:
        console.print(f"{result['input']}", markup=False, style="bold", soft_wrap=True)
        for line in _lines(result["prediction"]):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if output is not None:
        console.print(f"  drawn to {output}", markup=False, soft_wrap=True)


def _one_line(prediction: dict[str, Any]) -> str:
    return "; ".join(line.strip() for line in _lines(prediction)[:3])


def _lines(prediction: dict[str, Any]) -> list[str]:
    """Return a prediction as lines for people; every task's form has its own."""
    if "top" in prediction:
        return [f"{t['score']:6.3f}  {_label(t)}" for t in prediction["top"]] or ["nothing"]
    if "boxes" in prediction:
        lines = [
            f"{b['score']:6.3f}  {b.get('label') or 'text':<16} "
            + " ".join(f"{v:.0f}" for v in _flat(b.get("box") or b.get("quad") or []))
            for b in prediction["boxes"][:_LISTED]
        ]
        more = len(prediction["boxes"]) - _LISTED
        return [*(lines or ["nothing found"]), *([f"and {more} more"] if more > 0 else [])]
    if "text" in prediction:
        return [f"{prediction.get('score', 0):6.3f}  {prediction['text']}"]
    if "segments" in prediction:
        return [
            f"speech {s['start_s']:.2f} s to {s['end_s']:.2f} s" for s in prediction["segments"]
        ] or ["no speech"]
    if "embedding" in prediction:
        values = prediction["embedding"]
        return [f"{len(values)} values: " + " ".join(f"{v:.4f}" for v in values[:8]) + " …"]
    outputs = prediction.get("outputs", {})
    return [_tensor(name, found) for name, found in outputs.items()] or [str(prediction)[:200]]


def _tensor(name: str, found: dict[str, Any]) -> str:
    values = found["values"]
    shown = " ".join(f"{v:.4g}" for v in values[:_VALUES])
    more = f" …   (--json has {len(values)})" if len(values) > _VALUES else ""
    return f"{name} {found['shape']}: {shown}{more}"


def _label(entry: dict[str, Any]) -> str:
    return str(entry.get("label") or f"class {entry.get('index')}")


def _flat(values: list[Any]) -> list[float]:
    return [v for item in values for v in (item if isinstance(item, list) else [item])]
