"""The table on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Row = Mapping[str, Any]
HEAD = (
    f"  {'':<12}{'agreement':>10} {'95 %':<14}{'truth':>6}{'size':>7}{'int8':>6}{'latency':>9}"
    f" {'rounds':<11}{'CPU s':>7}{'MiB over base':>15}  settings"
)


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the whole table."""
    yield f"{document['where']}; agreement with fp32, latency and size over fp32"
    yield document["rule"]
    for model in document["models"]:
        yield ""
        yield heading(model)
        yield HEAD
        for tool, row in model["rows"].items():
            yield line(tool, row)
        if model["verdict"] is not None:
            yield f"  → {model['verdict']['text']}{apart(model['verdict'])}"
    yield ""
    for name, reason in document["left_out"].items():
        yield f"{name}: left out: {reason}"
    yield from totals(document["summary"])


def heading(model: Mapping[str, Any]) -> str:
    truth = model["fp32"]
    text = f"{model['model']}: {model['agreement_metric']}, n={model['n']}"
    if truth is not None:
        text += f"; truth is {truth['metric']}, fp32 {truth['value']:.3f}, n={truth['n']}"
    return text


def line(tool: str, row: Row) -> str:
    agreement, truth, latency = row["agreement"], row["truth"], row["latency"]
    cells = [
        f"{agreement['value']:.3f}" if agreement else "–",
        interval(agreement),
        f"{truth['value']:.3f}" if truth else "–",
        f"{row['size_ratio']:.2f}" if row["size_ratio"] is not None else "–",
        f"{row['int8_share']:.2f}" if row["int8_share"] is not None else "–",
        f"{latency['ratio']:.2f}" if latency else "–",
        f"{latency['low']:.2f}..{latency['high']:.2f}" if latency else "",
        f"{row['cpu_s']:.1f}" if row["cpu_s"] is not None else "–",
        f"{row['over_base_mib']:.0f}" if row["over_base_mib"] is not None else "–",
    ]
    flag = (
        "" if row["status"] == "ok" else row["status"] + (f": {row['note']}" if row["note"] else "")
    )
    if row["meets_contract"] is False and row["status"] == "ok":
        flag = "misses the contract"
    said = "  ".join(part for part in (row["variant"], flag) if part)
    return (
        f"  {tool:<12}{cells[0]:>10} {cells[1]:<14}{cells[2]:>6}{cells[3]:>7}{cells[4]:>6}"
        f"{cells[5]:>9} {cells[6]:<11}{cells[7]:>7}{cells[8]:>15}  {said[:110]}"
    )


def apart(verdict: Mapping[str, Any]) -> str:
    """Say whether edgekit and the most accurate peer differ by more than the samples' noise."""
    found = verdict["difference"]
    if not found:
        return ""
    low, high = found["interval"]
    if low == high == 0:
        return " (equal on every sample)"
    noise = "" if low > 0 or high < 0 else ", within noise"
    span = f"{found['value']:+.3f}, {low:+.3f}..{high:+.3f}{noise}"
    return f" (edgekit − {verdict['best_peer']}: {span})"


def interval(value: Mapping[str, Any] | None) -> str:
    if not value or value["interval"] is None:
        return ""
    low, high = value["interval"]
    return f"{low:.3f}..{high:.3f}"


def totals(summary: Mapping[str, Any]) -> Iterator[str]:
    shipped = summary["shipped_quantized"]
    yield f"over the {len(shipped)} models that edgekit ships quantized, geometric means:"
    for tool, row in summary["tools"].items():
        mean = (
            f"latency {row['latency_geomean']:.2f}, size {row['size_geomean']:.2f} "
            f"over {row['of_shipped']} of them"
            if row["latency_geomean"] is not None
            else "none of them"
        )
        yield (
            f"  {tool:<12}{mean:<48} usable int8: {row['usable']} of {row['models']}; "
            f"within the accuracy contract: {row['meets_contract']}"
        )
    yield (
        f"edgekit is as good as or better than the most accurate peer in accuracy at no worse "
        f"latency on {summary['edgekit_wins']} models; a peer wins on {summary['peer_wins']}; "
        f"neither on {summary['neither_wins']}"
    )
