"""What the measured rows say: which settings count, who wins, means. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

MIN_INT8_SHARE = 0.1  # below it a result was not quantized, whatever the tool says
LATENCY_SLACK = 0.03  # two ratios closer than this are equal: what one round differs from another
USABLE = "ok"
ROUNDED = 1e-4  # agreements are written with five digits
RULE = (
    "Of a tool's settings the one counts that agrees best with fp32 on the evaluation set, among "
    "those that are not slower than fp32 if there are any; on a tie the faster one, and the first "
    "of those that are equally fast."
)


def status_of(loaded: str, int8_share: float) -> str:
    """Return a row's status: what happened when it was run, or that it is no int8 model."""
    if loaded == USABLE and int8_share < MIN_INT8_SHARE:
        return "not quantized"
    return loaded


def is_usable(row: Row) -> bool:
    """True if a row is an int8 model that loads and runs."""
    return bool(row["status"] == USABLE and row["latency"] is not None)


def choose(variants: Sequence[Row]) -> Row:
    """Return the variant that stands for a tool; see ``RULE``."""
    usable = [row for row in variants if is_usable(row)]
    if not usable:
        # One that ran at all says more than one that did not.
        return max(variants, key=lambda row: row["agreement"] is not None)
    usable = [row for row in usable if ratio(row) <= 1.0] or usable
    best = max(agreement(row) for row in usable)
    equal = [row for row in usable if agreement(row) == best]
    fastest = min(equal, key=ratio)
    return next(row for row in equal if not slower(row, fastest))


def agreement(row: Row) -> float:
    return float(row["agreement"]["value"])


def ratio(row: Row) -> float:
    return float(row["latency"]["ratio"])


def verdict(edgekit: Row, peers: Sequence[Row]) -> dict[str, Any]:
    """Say who wins on one model.

    Returns:
        ``winner``: ``edgekit``, a peer's name, or ``neither``; ``text`` says why; ``best_peer`` is
        the most accurate usable peer.
    """
    usable = [row for row in peers if is_usable(row)]
    best = max(usable, key=lambda row: (agreement(row), -ratio(row)), default=None)
    found: dict[str, Any] = {
        "best_peer": best and best["tool"],
        "difference": best and edgekit["agreement"] and difference(edgekit, best),
    }
    if edgekit["latency"] is None:
        ran = edgekit["agreement"] is not None
        winner = "neither" if ran or best is None else best["tool"]
        text = "latency was not measured" if ran else f"edgekit {edgekit['status']}"
        return {**found, "winner": winner, "text": text}
    if edgekit["status"] == "fp32":
        return {**found, **against_fp32(usable)}
    if best is None:
        return {**found, "winner": "edgekit", "text": "no peer gives a usable int8 model"}
    return {**found, **against_int8(edgekit, best, usable)}


def against_int8(edgekit: Row, best: Row, usable: Sequence[Row]) -> dict[str, Any]:
    """Compare int8 models; ``best`` is the most accurate peer."""
    wins = [row for row in usable if dominates(row, edgekit)]
    if wins:
        winner = max(wins, key=lambda row: (agreement(row), -ratio(row)))
        text = f"{winner['tool']} wins:{gap(winner, edgekit)}"
        return {"winner": winner["tool"], "text": text}
    if agreement(edgekit) >= agreement(best) and not slower(edgekit, best):
        text = f"edgekit against {best['tool']}, the most accurate peer:{gap(edgekit, best)}"
        return {"winner": "edgekit", "text": text + faster(edgekit, usable)}
    more = [row for row in usable if agreement(row) > agreement(edgekit)]
    said = "; ".join(
        f"{row['tool']} is more accurate and slower:{gap(row, edgekit)}" for row in more
    )
    said = said or f"{best['tool']} is less accurate and faster:{gap(best, edgekit)}"
    return {"winner": "neither", "text": said}


def difference(row: Row, other: Row) -> dict[str, Any] | None:
    """Return how far two rows' agreements lie apart, with a 95 % interval of the paired samples.

    None where the agreement is not the mean of the samples' scores.
    """
    for each in (row, other):
        scores = each["scores"]
        if not scores or abs(math.fsum(scores) / len(scores) - agreement(each)) > ROUNDED:
            return None
    apart = [a - b for a, b in zip(row["scores"], other["scores"], strict=True)]
    low, high = bootstrap_interval(apart)
    return {
        "value": round(math.fsum(apart) / len(apart), 4),
        "interval": [round(low, 4), round(high, 4)],
    }


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of a mean: the percentile bootstrap (Efron 1979)."""
    import numpy as np

    picks = np.random.default_rng(0).integers(0, len(values), size=(2000, len(values)))
    means = np.asarray(values, dtype=np.float64)[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def against_fp32(usable: Sequence[Row]) -> dict[str, Any]:
    """Was it right to keep fp32? A peer wins that meets the contract and is faster."""
    better = [r for r in usable if r["meets_contract"] and ratio(r) < 1 - LATENCY_SLACK]
    if not better:
        text = "edgekit keeps fp32, and no peer is faster within the contract"
        return {"winner": "edgekit", "text": text}
    winner = min(better, key=ratio)
    return {
        "winner": winner["tool"],
        "text": f"{winner['tool']} wins, edgekit keeps fp32: {agreement(winner):.4f} at "
        f"{ratio(winner):.2f}",
    }


def dominates(row: Row, other: Row) -> bool:
    """True if a row is at least as good in both, and better in one."""
    equal = agreement(row) == agreement(other)
    if agreement(row) < agreement(other) or slower(row, other):
        return False
    return not equal or slower(other, row)


def slower(row: Row, other: Row) -> bool:
    return ratio(row) > ratio(other) * (1 + LATENCY_SLACK)


def faster(edgekit: Row, usable: Sequence[Row]) -> str:
    """Name the peers that are faster and still meet the recipe's contract."""
    names = [
        f"{row['tool']} ({agreement(row):.3f}, {ratio(row):.2f})"
        for row in usable
        if row["meets_contract"] and slower(edgekit, row)
    ]
    return f"; faster within the contract: {', '.join(names)}" if names else ""


def gap(row: Row, other: Row) -> str:
    """Write a row's numbers against another's."""
    numbers = (f"{agreement(each):.4f} at {ratio(each):.2f}" for each in (row, other))
    return f" {' against '.join(numbers)}"


def geomean(values: Sequence[float]) -> float | None:
    """Return the geometric mean of positive values; None of none."""
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


def summary(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the models that edgekit ships quantized, and counts over all."""
    shipped = [m for m in models if "edgekit" in m["rows"] and is_usable(m["rows"]["edgekit"])]
    tools = list(dict.fromkeys(tool for m in models for tool in m["rows"]))
    by_tool = {}
    for tool in tools:
        rows = [m["rows"][tool] for m in models if tool in m["rows"]]
        same = [m["rows"][tool] for m in shipped if tool in m["rows"]]
        usable = [row for row in same if is_usable(row)]
        by_tool[tool] = {
            "models": len(rows),
            "usable": sum(is_usable(row) for row in rows),
            "meets_contract": sum(is_usable(r) and bool(r["meets_contract"]) for r in rows),
            "of_shipped": len(usable),
            "latency_geomean": geomean([ratio(row) for row in usable]),
            "size_geomean": geomean([row["size_ratio"] for row in usable]),
        }
    winners = [m["verdict"]["winner"] for m in models if m["verdict"] is not None]
    return {
        "shipped_quantized": [m["model"] for m in shipped],
        "tools": by_tool,
        "edgekit_wins": winners.count("edgekit"),
        "neither_wins": winners.count("neither"),
        "peer_wins": len(winners) - winners.count("edgekit") - winners.count("neither"),
    }
