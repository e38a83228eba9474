"""``edgekit inspect``: what a model holds, and what it would cost on a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.names import project_option, target_option
from edgekit.cli.output import Output, common_options
from edgekit.wire.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.toolchain.predict import Prediction
    from edgekit.toolchain.support import Problem

SHOWN_SHARE = 0.01


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@target_option
@click.option(
    "-d", "--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a dynamic dimension."
)
@project_option
@common_options
def command(model: Path, target: str, dims: tuple[str, ...], project: Path, out: Output) -> None:
    """Show what an ONNX model holds, what the target lacks for it, and its predicted cost.

    What the runtime cannot run comes first. Times are predicted from the target's facts; nothing
    was measured on the board.

    \b
    Examples:
      edgekit inspect detector.onnx --target rpi5
      edgekit inspect text.onnx --target rpi4 --dim sequence=128
    """
    from edgekit.toolchain.graph import Graph
    from edgekit.toolchain.predict import predict
    from edgekit.toolchain.project import folders
    from edgekit.toolchain.support import find_problems
    from edgekit.toolchain.targets import load_target

    resolved = load_target(target, folders(project, "targets"))
    if resolved.target.refused:
        raise ConfigError(
            f"nothing can be built for {target}: {resolved.target.refused}",
            hint="`edgekit targets list` shows what edgekit builds for",
            where=resolved.origins.get("refused"),
        )
    sizes = dict(_size(text) for text in dims)
    if not model.is_file():
        raise UsageError("no such file", where=str(model))
    graph = Graph.load(model)
    problems = find_problems(graph, resolved.target)
    prediction = predict(graph, resolved.target, dims=sizes)
    places = {
        f"{value.name}[{axis}]"
        for value in graph.proto.graph.input
        for axis in range(len(value.type.tensor_type.shape.dim))
    }
    unused = sorted(set(sizes) - set(prediction.facts.dynamic) - places)
    if unused:
        known = ", ".join(prediction.facts.dynamic) or "none"
        raise UsageError(f"no dynamic dimension {unused[0]}", hint=f"the model has: {known}")
    rows = _by_operator(prediction)
    payload = {
        "model": str(model),
        "sha256": graph.sha256,
        "size_bytes": graph.size_bytes,
        "opset": graph.opset,
        "inputs": _values(graph.proto.graph.input, set(graph.input_names)),
        "outputs": _values(graph.proto.graph.output, set(graph.output_names)),
        "target": target,
        "supported": not problems,
        "problems": [
            {"subject": p.subject, "count": p.count, "reason": p.reason, "hint": p.hint}
            for p in problems
        ],
        "ops": rows,
        "macs": prediction.facts.macs,
        "int8_share": prediction.facts.int8_share,
        "parameters": prediction.facts.parameters,
        "param_bytes": prediction.facts.param_bytes,
        "peak_activation_bytes": prediction.facts.peak_activation_bytes,
        "unknown_tensors": prediction.facts.unknown_tensors,
        "dynamic": dict(prediction.facts.dynamic),
        "assumed": sorted(prediction.facts.assumed),
        "predicted": [m.to_json() for m in prediction.measurements],
        "note": prediction.note,
    }

    def render(console: Console) -> None:
        _render_problems(console, problems, target)
        _render_model(console, payload)
        _render_operators(console, rows)
        _render_prediction(console, prediction, model, target)

    verdict = (
        "supported" if not problems else "unsupported: " + ", ".join(p.subject for p in problems)
    )
    out.emit("edgekit.inspect/1", payload, render, quiet=verdict)


def _size(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal() or not 0 < int(size) <= 2**20:
        raise UsageError(f'"{text}" is not a dimension', hint="--dim sequence=128")
    return name, int(size)


def _values(values: Any, names: set[str]) -> list[dict[str, Any]]:  # noqa: ANN401 - protobuf
    import onnx

    found = []
    for value in values:
        if value.name not in names or not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
        dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        found.append({"name": value.name, "dtype": dtype, "shape": shape})
    return found


def _by_operator(prediction: Prediction) -> list[dict[str, Any]]:
    """One row an operator, the slowest first; operators that the runtime folds come last."""
    total_ms = sum(node.total_ms for node in prediction.nodes) or 1.0
    rows: dict[str, dict[str, Any]] = {}
    for op, count in prediction.facts.ops.items():
        rows[op.rpartition(".")[2]] = {
            "op": op,
            "count": count,
            "int8": 0,
            "macs": 0,
            "param_bytes": 0,
            "predicted_ms": 0.0,
            "share": 0.0,
        }
    for node in prediction.nodes:
        row = rows[node.facts.op]
        row["int8"] += node.facts.place.value == "int8"
        row["macs"] += node.facts.macs or 0
        row["param_bytes"] += node.facts.param_bytes
        row["predicted_ms"] += node.total_ms
    for row in rows.values():
        row["share"] = round(row["predicted_ms"] / total_ms, 4)
        row["predicted_ms"] = float(f"{row['predicted_ms']:.4g}")
    return sorted(rows.values(), key=lambda r: (-r["predicted_ms"], r["op"]))


def _render_problems(console: Console, problems: tuple[Problem, ...], target: str) -> None:
    if not problems:
        console.print(f"\n✓ {target} has every operator of this model", markup=False)
        return
    console.print(f"\n✗ {target} cannot run this model as it is:", style="red", markup=False)
    for problem in problems:
        nodes = f" ({problem.count} nodes)" if problem.count > 1 else ""
        console.print(f"  {problem.subject}{nodes}: {problem.reason}", markup=False)
        console.print(f"    hint: {problem.hint}", markup=False)


def _render_model(console: Console, payload: dict[str, Any]) -> None:
    console.print(
        f"\n  opset {payload['opset']}, {payload['size_bytes'] / 2**20:.3g} MiB, "
        f"{_count(payload['parameters'])} parameters, {_count(payload['macs'])} multiply-adds, "
        f"{payload['int8_share']:.0%} of them int8",
        markup=False,
    )
    for kind in ("inputs", "outputs"):
        for value in payload[kind]:
            shape = ", ".join(str(d or "?") for d in value["shape"])
            console.print(
                f"  {kind[:-1]:7} {value['name']}: {value['dtype']}[{shape}]", markup=False
            )
    if payload["assumed"]:
        sizes = ", ".join(f"{key}={payload['dynamic'][key]}" for key in payload["assumed"])
        console.print(f"  assumed {sizes}; say --dim NAME=SIZE", markup=False)
    if payload["unknown_tensors"]:
        console.print(
            f"  {payload['unknown_tensors']} tensors of unknown shape are not counted below"
        )


def _render_operators(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 2), show_edge=False)
    table.add_column("operator", no_wrap=True, overflow="ellipsis")
    for header in ("nodes", "int8", "multiply-adds", "weights KiB", "predicted ms", "share"):
        table.add_column(header, justify="right", no_wrap=True)
    running = [row for row in rows if row["predicted_ms"] > 0]
    shown = [row for row in running if row["share"] >= SHOWN_SHARE]
    for row in shown:
        table.add_row(
            row["op"],
            str(row["count"]),
            str(row["int8"] or "–"),
            _count(row["macs"]) if row["macs"] else "–",
            _digits(row["param_bytes"] / 1024) if row["param_bytes"] else "–",
            _digits(row["predicted_ms"]),
            f"{row['share']:.1%}",
        )
    console.print()
    console.print(table)
    rest = [f"{row['count']} {row['op']}" for row in running if row["share"] < SHOWN_SHARE]
    if rest:
        console.print(f"  below {SHOWN_SHARE:.0%} each: {', '.join(rest)}", markup=False)
    folded = [f"{row['count']} {row['op']}" for row in rows if not row["predicted_ms"]]
    if folded:
        console.print(f"  folded away: {', '.join(folded)}", markup=False)


def _render_prediction(console: Console, prediction: Prediction, model: Path, target: str) -> None:
    console.print()
    for measurement, unit in zip(prediction.measurements, ("ms", "ms", "MiB"), strict=True):
        low, high = measurement.interval or (measurement.value, measurement.value)
        name = measurement.metric.rpartition("_")[0].replace("_", " ")
        console.print(
            f"  {name:12}  {_digits(measurement.value):>7} {unit:3}  predicted, "
            f"{_digits(low)} to {_digits(high)}",
            markup=False,
        )
    console.print(f"  {prediction.note}", markup=False)
    console.print(f"\nnext: edgekit build {model} --data SAMPLES/ --target {target}", markup=False)


def _digits(number: float) -> str:
    """Three significant digits without an exponent."""
    if number >= 100:  # noqa: PLR2004 - three digits stand before the point
        return f"{number:,.0f}"
    return f"{number:.3g}"


def _count(number: int) -> str:
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)
