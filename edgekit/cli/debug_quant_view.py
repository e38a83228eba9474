"""How the loss of a quantized bundle looks in a terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LOWEST = 12
_WORST = 8
_NOWHERE = 1e9


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the samples' pictures, and write null for what JSON has no number for."""
    samples = document["samples"]
    rows = [{k: v for k, v in row.items() if k != "preview"} for row in samples["rows"]]
    whole = {**document, "samples": {**samples, "rows": rows}}
    return {key: _finite(value) for key, value in whole.items()}


def render_debug_quant(console: Console, document: Mapping[str, Any], written: str | None) -> None:
    """Print the worst layers, the float32 ones with their reasons, outputs and samples.

    Args:
        console: Where to.
        document: From :func:`edgekit.toolchain.debug_quant.debug_quant`.
        written: The file that was written, if any.
    """
    _line(console, f"{document['model']} → {document['target']}: {document['candidate']}")
    if document["reason"]:
        _line(console, document["reason"])
    _line(console, document["note"])
    _layers(console, document["layers"], document["reason"])
    _outputs(console, document["outputs"])
    _samples(console, document["samples"])
    _line(console)
    if written is not None:
        _line(console, f"wrote {written}")
    bundle = shlex.quote(document["bundle"])
    if written is None:
        _line(console, f"next: edgekit debug-quant {bundle} -o layers.html")
    elif document["source"] == "report" and document["recipe"] is not None:
        _line(console, f"next: edgekit debug-quant {bundle} --rebuild")


def _layers(console: Console, rows: Sequence[Mapping[str, Any]], reason: str) -> None:
    floats = sum(not row["int8"] for row in rows)
    measured = any(row["sqnr_db"] is not None for row in rows)
    _line(console)
    if not rows:
        _line(console, "every layer is int8; dynamic ranges: there is no noise by layer to show")
        return
    if not measured:
        _line(console, f"{floats} layers are float32; no plan with calibrated ranges was tried")
    order = sorted(rows, key=lambda r: (_decibel(r), r["number"]))
    shown = order[:_LOWEST] + [r for r in order[_LOWEST:] if not r["int8"]][:_LOWEST]
    table = _table("#", "layer", "operator", "weights", "SQNR, dB", "runs in", right=(0, 3, 4))
    for row in shown:
        table.add_row(
            str(row["number"]),
            _text(row["name"]),
            _text(row["op"]),
            f"{row['parameters']:,}",
            "–" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}",
            "int8" if row["int8"] else "fp32",
        )
    console.print(table)
    if len(shown) < len(rows):
        _line(console, f"and {len(rows) - len(shown)} more layers; --json has them all")
    reasons: dict[str, list[str]] = {}
    for row in shown:
        # Where fp32 ships, its reason stands above and holds for every layer.
        if row["why"] and row["why"] != reason:
            reasons.setdefault(row["why"], []).append(str(row["number"]))
    for why, numbers in reasons.items():
        _line(console, f"fp32, {', '.join(numbers)}: {why}")


def _outputs(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    _line(console)
    table = _table(
        "output", "SQNR, dB", "cosine", "worst channel", "its cosine", right=(1, 2, 3, 4)
    )
    for row in rows:
        channel, cosine = row["worst_channel"], row["worst_channel_cosine"]
        table.add_row(
            _text(row["output"]),
            f"{row['sqnr_db']:.1f}",
            f"{row['cosine']:.4f}",
            "–" if channel is None else str(channel),
            "–" if cosine is None else f"{cosine:.4f}",
        )
    console.print(table)
    _line(console, f"against fp32, on {rows[0]['samples']} calibration samples, measured here")


def _samples(console: Console, samples: Mapping[str, Any]) -> None:
    _line(console)
    _line(
        console,
        f"{samples['differing']} of {samples['n']} {samples['set']} samples differ from fp32"
        + (f"; {samples['metric']} of the worst:" if samples["differing"] else ""),
    )
    if not samples["differing"]:
        return
    table = _table("sample", "agreement", right=(1,))
    for row in samples["rows"][: min(_WORST, samples["differing"])]:
        table.add_row(_text(row["name"]), f"{row['agreement']:.4f}")
    console.print(table)


def _table(*names: str, right: Sequence[int] = ()) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="right" if index in right else "left")
    return table


def _decibel(row: Mapping[str, Any]) -> float:
    return _NOWHERE if row["sqnr_db"] is None else float(row["sqnr_db"])


def _text(value: object) -> Any:  # noqa: ANN401 - a rich text: names may hold brackets
    from rich.text import Text

    return Text(str(value))


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def _line(console: Console, text: str = "") -> None:
    console.print(f"  {text}".rstrip(), markup=False, soft_wrap=True)
