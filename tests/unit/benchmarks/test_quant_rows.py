"""What the benchmark of quantizers concludes from its rows."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("quant_peers.rows")


def row(
    tool, agreement=None, ratio=None, status="ok", meets=True, size=0.3, variant="", scores=None
):
    return {
        "tool": tool,
        "variant": variant,
        "status": status,
        "note": "",
        "agreement": None if agreement is None else {"value": agreement, "interval": None},
        "latency": None if ratio is None else {"ratio": ratio},
        "meets_contract": meets,
        "size_ratio": size,
        "scores": scores,
    }


def test_of_the_variants_the_most_accurate_that_is_not_slower_counts(rows):
    slow = row("ort", 0.99, 1.5, variant="a")
    fast, faster = row("ort", 0.95, 0.8, variant="b"), row("ort", 0.95, 0.7, variant="c")
    assert rows.choose([slow, fast, faster]) is faster
    assert rows.choose([slow, row("ort", status="failed")]) is slow
    first, noise = row("ort", 0.95, 0.71), row("ort", 0.95, 0.7)
    assert rows.choose([first, noise]) is first


def test_a_variant_that_ran_stands_for_a_tool_before_one_that_did_not(rows):
    failed, unquantized = row("ort", status="failed"), row("ort", 1.0, 1.0, status="not quantized")
    assert rows.choose([failed, unquantized]) is unquantized


def test_a_result_whose_weights_stayed_float_is_not_quantized(rows):
    assert rows.status_of("ok", 0.02) == "not quantized"
    assert rows.status_of("ok", 0.98) == "ok"
    assert rows.status_of("does not load", 0.98) == "does not load"


@pytest.mark.parametrize(
    ("edgekit", "peer", "winner"),
    [
        ((0.96, 0.7), (0.90, 0.7), "edgekit"),
        ((0.96, 0.7), (0.96, 0.7), "edgekit"),
        ((0.96, 0.7), (0.96, 0.69), "edgekit"),  # within the slack
        ((0.96, 0.7), (0.97, 0.7), "nncf"),
        ((0.96, 0.7), (0.96, 0.5), "nncf"),
        ((0.96, 0.7), (0.97, 1.2), "neither"),
        ((0.96, 0.7), (0.90, 0.5), "neither"),
    ],
)
def test_a_win_is_no_worse_in_both(rows, edgekit, peer, winner):
    found = rows.verdict(row("edgekit", *edgekit), [row("nncf", *peer)])
    assert found["winner"] == winner, found["text"]
    assert found["best_peer"] == "nncf"


def test_the_difference_is_taken_sample_by_sample(rows):
    same, worse = [1.0] * 95 + [0.0] * 5, [1.0] * 85 + [0.0] * 15
    ours = row("edgekit", 0.95, 0.7, scores=same)
    found = rows.verdict(ours, [row("nncf", 0.85, 0.7, scores=worse)])["difference"]
    assert found["value"] == pytest.approx(0.1)
    assert 0 < found["interval"][0] < 0.1 < found["interval"][1]
    # A rank correlation is no mean of scores.
    assert rows.verdict(ours, [row("nncf", 0.99, 0.9, scores=worse)])["difference"] is None


def test_a_peer_that_gives_no_int8_model_wins_nothing(rows):
    peers = [row("ort", 1.0, 1.0, status="not quantized"), row("olive", status="failed")]
    found = rows.verdict(row("edgekit", 0.95, 0.9), peers)
    assert (found["winner"], found["best_peer"]) == ("edgekit", None)


def test_keeping_fp32_loses_to_a_peer_that_is_faster_within_the_contract(rows):
    kept = row("edgekit", 1.0, 1.0, status="fp32")
    assert rows.verdict(kept, [row("ort", 0.97, 0.8)])["winner"] == "ort"
    assert rows.verdict(kept, [row("ort", 0.80, 0.8, meets=False)])["winner"] == "edgekit"
    assert rows.verdict(kept, [row("ort", 0.99, 1.5)])["winner"] == "edgekit"


def test_a_build_that_ships_nothing_is_no_win(rows):
    nothing = row("edgekit", status="ships nothing", meets=None)
    assert rows.verdict(nothing, [row("ort", 0.9, 0.8)])["winner"] == "ort"
    assert rows.verdict(nothing, [row("ort", status="failed")])["winner"] == "neither"


def test_means_are_over_what_edgekit_ships_quantized(rows):
    def model(edgekit, ort):
        chosen = {"ort": ort, "edgekit": edgekit}
        return {"model": "m", "rows": chosen, "verdict": rows.verdict(edgekit, [ort])}

    found = rows.summary(
        [
            model(row("edgekit", 0.99, 0.5, size=0.25), row("ort", 0.9, 0.8)),
            model(row("edgekit", 0.99, 0.5, size=0.25), row("ort", status="failed", meets=None)),
            model(row("edgekit", 1.0, 1.0, status="fp32"), row("ort", 0.9, 3.0, meets=False)),
        ]
    )
    assert found["tools"]["edgekit"]["latency_geomean"] == pytest.approx(0.5)
    assert found["tools"]["edgekit"]["size_geomean"] == pytest.approx(0.25)
    assert found["tools"]["ort"]["latency_geomean"] == pytest.approx(0.8)
    assert (
        found["tools"]["ort"] | {"models": 3, "usable": 2, "of_shipped": 1}
        == (found["tools"]["ort"])
    )
    assert (found["edgekit_wins"], found["peer_wins"]) == (3, 0)
