"""``edgekit quantize``: an int8 file from an .onnx file, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.names import project_option, search_options, target_option
from edgekit.cli.output import Output, common_options

SCHEMA = "edgekit.quantize/1"


@click.command("quantize")
@click.argument("model", metavar="MODEL.onnx", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of 32 samples or more: .npz or .npy arrays, pictures for a classifier, sounds, "
    "or .txt with a text a line.",
)
@target_option
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="OUT.onnx",
    type=click.Path(path_type=Path),
    help="The file to write; it is there whole or not at all.",
)
@click.option(
    "--sample-rate",
    metavar="HZ",
    type=click.IntRange(1_000, 192_000),  # as edgekit.runtime.sounds has it
    help="Rate at which the model takes sounds; 16000 by default.",
)
@click.option(
    "--tokenizer",
    metavar="tokenizer.json",
    type=click.Path(path_type=Path),
    help="Tokenizer of a model that takes texts; by default the one beside the model.",
)
@click.option(
    "--min-agreement",
    metavar="0..1",
    type=click.FloatRange(0, 1),
    help="Lowest agreement with fp32; by default 0.98 (cosine of the worst output), for pictures "
    "0.95 (the same best class).",
)
@click.option(
    "--max-size-mib",
    metavar="MIB",
    type=click.FloatRange(min=0, min_open=True),
    help="Largest file, MiB.",
)
@click.option(
    "--max-latency-p95-ms",
    metavar="MS",
    type=click.FloatRange(min=0, min_open=True),
    help="Longest latency, ms: the 95th percentile as predicted for the target.",
)
@click.option(
    "--allow-slower", is_flag=True, help="Take an int8 model that is slower than fp32, too."
)
@search_options
@project_option
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Folder of the cache; `edgekit cache` names it.",
)
@common_options
def command(
    model: Path,
    data: Path,
    target: str,
    output: Path,
    sample_rate: int | None,
    tokenizer: Path | None,
    min_agreement: float | None,
    max_size_mib: float | None,
    max_latency_p95_ms: float | None,
    allow_slower: bool,
    search: str | None,
    max_minutes: float | None,
    project: Path,
    cache_dir: Path | None,
    out: Output,
) -> int:
    """Quantize an ONNX file to int8 for a target and write it, if it stays close enough to fp32.

    Every other sample, in the order of their paths, calibrates; the rest evaluates, so no sample
    does both. Plans are tried from the most int8 to the least. Where no int8 model will do, the
    weights alone are stored in 16 or 8 bits and compute in float32. Where that is too far from
    fp32, too, nothing is written and the exit code is 6.

    \b
    Examples:
      edgekit quantize detector.onnx --data samples/ --target rpi5 -o detector-int8.onnx
      edgekit quantize net.onnx --data s/ --target rk3588 -o net8.onnx --min-agreement 0.995
      edgekit quantize vad.onnx --data wavs/ --target rpi5 -o vad8.onnx --sample-rate 8000
      edgekit quantize bert/model.onnx --data texts/ --target rpi5 -o bert-int8.onnx
    """
    from edgekit.cli.build_view import BuildView
    from edgekit.cli.output import show_error
    from edgekit.cli.quantize_view import render_quantized
    from edgekit.toolchain.quantize_file import quantize

    given = {"cache_dir": cache_dir, "search": search, "max_minutes": max_minutes}
    settings: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    with BuildView.open(out, 1) as view:
        result = quantize(
            model,
            data=data,
            target=target,
            out=output,
            min_agreement=min_agreement,
            max_size_mib=max_size_mib,
            max_latency_p95_ms=max_latency_p95_ms,
            allow_slower=allow_slower,
            sample_rate_hz=sample_rate,
            tokenizer=tokenizer,
            project=project,
            on_event=view.on_event,
            **settings,
        )
    out.emit(
        SCHEMA,
        {**result.document, "exit_code": result.exit_code},
        lambda console: render_quantized(console, result.document),
        quiet=None if result.path is None else str(result.path),
    )
    if result.error is not None and not out.json:
        show_error(result.error, as_json=False)
    return result.exit_code
