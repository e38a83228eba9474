"""How a quantized file looks in a terminal: what was tried, what was measured, how to run it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.cli.measurements import contract_table, number, provenance

if TYPE_CHECKING:
    from rich.console import Console

_MIB = 1 << 20
# Below this a plain session's answers are the same but for the order of float32 sums.
_SAME = 1e-5


def render_quantized(console: Console, document: Mapping[str, Any]) -> None:
    """Print what came of a file.

    Args:
        console: Where to.
        document: As ``--json`` prints it.
    """
    console.print()
    console.print(contract_table(document))
    console.print()
    _candidates(console, document)
    data = document["data"]
    _line(
        console,
        f"data: {data['calibration']['n']} samples calibrated, {data['evaluation']['n']} others "
        f"evaluated ({data['split']})",
    )
    _line(console, f"read as {data['read_as']}")
    if data["unused_arrays"]:
        names = ", ".join(f'"{name}"' for name in data["unused_arrays"])
        _line(console, f"not fed, as the model has no such input: {names}")
    for warning in dead_parts(document):
        _line(console, warning)
    if document["path"] is None:
        return
    before, after = document["fp32_size_bytes"] / _MIB, document["size_bytes"] / _MIB
    _line(console, document["reason"])
    _line(console)
    _line(console, f"{document['path']}   {after:.3g} MiB, of {before:.3g} MiB in fp32")
    for name, value in document["fixed_inputs"].items():
        _line(console, f'input "{name}" is gone: it is the constant {value} now, as in the samples')
    for line in session_lines(document["session"]):
        _line(console, line)
    path, target = shlex.quote(document["path"]), document["target"]
    _line(console, f"next: edgekit inspect {path} --target {target}")


def dead_parts(document: Mapping[str, Any]) -> list[str]:
    """Warn of a part of a joined output that is lost in the cosine over the whole of it."""
    limit = next((c["min"] for c in document["contract"] if "min" in c), 0.0)
    return [
        f"look at output {row['output']}: channel {row['worst_channel']} of axis "
        f"{row['channel_axis']} alone has a cosine of {row['worst_channel_cosine']:.3f} with fp32's"
        for row in document["outputs"]
        if row["worst_channel_cosine"] is not None and row["worst_channel_cosine"] < limit
    ]


def session_lines(session: Mapping[str, Any]) -> list[str]:
    """Say how the file is run, and what a plain session gives."""
    contrib = "com.microsoft" in session["operator_sets"]
    lines = [
        "runs in plain onnxruntime"
        + (" (it uses com.microsoft operators; other runtimes may lack them)" if contrib else "")
    ]
    difference = session["plain_relative_l2"]
    names = ", ".join(f'"{name}"' for name in session["disabled_optimizers"])
    if difference is not None and difference <= _SAME:
        lines.append("a session without options gives the same answers as edgekit's")
    else:
        off = "may differ" if difference is None else f"is {difference:.1g} off (relative L2)"
        lines.append(f"measured with disabled_optimizers=[{names}]: without it a session {off}")
    return lines


def _candidates(console: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table

    from edgekit.toolchain.refusals import summed_up

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for name, right in (
        ("tried", False),
        ("MiB", True),
        ("agreement", True),
        ("time / fp32", True),
        ("", False),
        ("", False),
    ):
        table.add_column(name, justify="right" if right else "left")
    for candidate in document["candidates"]:
        accuracy = candidate["measurements"][0]
        is_fp32 = candidate["precision"] == "fp32"
        table.add_row(
            f"{candidate['name']}{' *' if candidate['frontier'] else ''}",
            f"{candidate['size_bytes'] / _MIB:.3g}",
            number(accuracy),
            "" if is_fp32 else f"{candidate['latency_ratio']:.2f}",
            "" if is_fp32 else candidate["latency_ratio_kind"],
            _came_of(candidate, document),
        )
    console.print(table)
    accuracy = document["candidates"][0]["measurements"][0]
    evaluated = {k: v for k, v in accuracy.items() if k != "interval"}
    _line(console, f"agreement is {accuracy['metric']}, {provenance(evaluated)}")
    _line(console, "* on the frontier: no other one is as accurate, as fast and as small")
    for why in summed_up(document["refused"]):
        _line(console, why)


def _came_of(candidate: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    missed = [c["metric"] for c in candidate["contract"] if c["outcome"] in ("fail", "absent")]
    if missed:
        return f"misses {', '.join(missed)}"
    if candidate["precision"] == "fp32":
        return "kept" if document["status"] == "kept-fp32" else ""
    written = document["path"] is not None and candidate["name"] == document["candidate"]
    return "written" if written else "slower than fp32" if candidate["reason"] else ""


def _line(console: Console, text: str = "") -> None:
    console.print(f"  {text}".rstrip(), markup=False, soft_wrap=True)
