"""``edgekit debug-quant``: which layers of a bundle lose what, and on which samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.names import project_option
from edgekit.cli.output import Output, common_options

SCHEMA = "edgekit.debug-quant/1"
_KINDS = (".html", ".svg", ".png")


@click.command("debug-quant")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A page (.html), or the plot of all layers alone (.svg, .png).",
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="Measure again with the recipe, on all evaluation samples.",
)
@click.option(
    "--key",
    "keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PUB.pem",
    help="Public key to trust; may be given more than once. Default: this machine's own key.",
)
@project_option
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    help="Folder of the cache; `edgekit cache` names it.",
)
@common_options
def command(
    bundle: Path,
    output: Path | None,
    rebuild: bool,
    keys: tuple[Path, ...],
    project: Path,
    cache_dir: Path | None,
    out: Output,
) -> None:
    """Show what quantization cost a bundle: noise by layer, by output, and the worst samples.

    The facts come from the report that the build has left in the cache. Where it is gone, or with
    --rebuild, the stages of the recipe run again and the bundle's model is compared with fp32.

    \b
    Examples:
      edgekit debug-quant dist/efficientnet-lite0-rpi5.ekb
      edgekit debug-quant dist/efficientnet-lite0-rpi5.ekb -o layers.html
    """
    from edgekit.cli.build_view import BuildView
    from edgekit.cli.debug_quant_view import plain, render_debug_quant
    from edgekit.cli.trust import open_trusted
    from edgekit.toolchain.debug_quant import debug_quant
    from edgekit.wire.errors import UsageError

    if output is not None and output.suffix.lower() not in _KINDS:
        raise UsageError(f"-o writes {', '.join(_KINDS)}", hint="-o layers.html")
    settings: dict[str, Any] = {} if cache_dir is None else {"cache_dir": cache_dir}
    with open_trusted(bundle, keys) as opened, BuildView.open(out, 1) as view:
        document = debug_quant(
            opened, project=project, rebuild=rebuild, on_event=view.on_event, **settings
        )
    if output is not None:
        _write(output, document, bundle)
    written = None if output is None else str(output)
    out.emit(
        SCHEMA,
        {**plain(document), "output": written},
        lambda console: render_debug_quant(console, document, written),
        quiet=written or "\n".join(str(r["name"]) for r in document["layers"] if not r["int8"]),
    )


def _write(output: Path, document: dict[str, Any], bundle: Path) -> None:
    from edgekit.toolchain.debug_quant import plottable
    from edgekit.toolchain.output_file import check_output, write_whole
    from edgekit.toolchain.report.debug_page import render_debug_page
    from edgekit.toolchain.report.plots import layers_file

    check_output(output, bundle)
    suffix = output.suffix.lower()
    if suffix == ".html":
        write_whole(output, render_debug_page(document).encode("utf-8"))
    else:
        write_whole(output, layers_file(plottable(document), "svg" if suffix == ".svg" else "png"))
