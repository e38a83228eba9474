"""The page: what it must say and must not hold, and that documents of real builds fit on it."""

from __future__ import annotations

import base64
import copy
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.toolchain.report import plots, render_report
from edgekit.toolchain.report.samples import is_picture
from edgekit.wire.errors import ConfigError

# Written by real builds; only the number of golden samples was cut.
DOCUMENTS = Path(__file__).parent / "documents"
NAMES = sorted(path.stem for path in DOCUMENTS.glob("*.json"))
HOSTILE = (
    '<script>alert(1)</script>"onload="x\' onerror=x & $\\frac{1}{2}$ {{ 1337*1337 }} --> ]]> '
    'id="axes_1" #0072b2 \x00\x1b\u202e 猫 😀'
)
VOID = {"meta", "img", "br", "link", "input"}


def load(name: str) -> dict[str, Any]:
    return json.loads((DOCUMENTS / f"{name}.json").read_text())


class Page(HTMLParser):
    """What stands on a page; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [v for _, attrs in self.tags if (v := attrs.get(attribute)) is not None]


def assert_closed_to_the_network(text: str) -> None:
    """Nothing on the page runs, and nothing on it is fetched."""
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {
        tag for tag, _ in page.tags
    }
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
    for reference in [*page.values("href"), *page.values("xlink:href")]:
        assert reference.startswith(("#", "data:application/json;base64,"))
    for source in page.values("src"):
        assert source.startswith("data:image/")
    styles = " ".join(
        [*re.findall(r"<style>(.*?)</style>", text, re.DOTALL), *page.values("style")]
    )
    assert "@import" not in styles
    assert not re.search(r"url\((?!#)", styles)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", NAMES)
def test_real_documents(name: str) -> None:
    document = load(name)
    text = render_report(document)
    page = Page(text)
    assert_closed_to_the_network(text)
    assert text == render_report(copy.deepcopy(document))
    assert "Meets its contract" in page.words
    for requirement in document["summary"]["contract"]:
        assert requirement["metric"] in page.words
        assert requirement["limit"].replace(" - ", " − ") in page.words
    for measurement in document["summary"]["measurements"]:
        assert measurement["metric"] in page.words
        assert measurement["where"] in page.words
    assert "measured here" in page.words
    assert "predicted" in page.words
    for candidate in document["candidates"]:
        assert candidate["name"] in page.words
    for step in document["plan"]["steps"]:
        for param in step["params"].values():
            assert param["origin"] in page.words
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    known = {f"#{i}" for i in ids}
    used = set(re.findall(r'(?:href="|url\()(#[^")]*)', text))
    assert used
    assert used <= known
    assert "DejaVu" not in text


@pytest.mark.parametrize("name", NAMES)
def test_the_raw_data_can_be_taken_from_the_page(name: str) -> None:
    document = load(name)
    page = Page(render_report(document))
    link = next(h for h in page.values("href") if h.startswith("data:application/json;base64,"))
    raw = json.loads(base64.b64decode(link.partition(",")[2]))
    for sample in document["golden"]:
        del sample["preview"]
    assert raw == document


def hostile(value: Any, text: str) -> Any:
    """Put a text wherever a document holds free text, names of keys among them."""
    fixed = {"kind", "outcome", "vs", "metric", "place", "schema", "latency_ratio_kind"}
    if isinstance(value, dict):
        return {k: v if k in fixed else hostile(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, text) for v in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_everywhere(name: str) -> None:
    document = hostile(load(name), HOSTILE)
    document["refused"] = {HOSTILE: HOSTILE}
    document["passes"] = [HOSTILE]
    document["summary"]["left_out"] = [HOSTILE]
    document["layers"] = {
        "rule": HOSTILE,
        "rule_sqnr_db": {HOSTILE: 1.0},
        "rows": [{"name": HOSTILE, "op": HOSTILE, "parameters": 1, "sqnr_db": 3.0, "int8": True}],
    }
    text = render_report(document)
    assert_closed_to_the_network(text)
    assert "1787569" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "<script>alert(1)</script>" in html.unescape(text)


def test_plans_with_the_same_reason_are_told_together_and_listed_below() -> None:
    document = load(NAMES[0])
    document["refused"] = {f"plan-{i}": f"plan-{i}: the board has no such kernel" for i in range(9)}
    page = Page(render_report(document))
    assert "plan-0 and 8 other plans: the board has no such kernel" in page.words
    assert "All 9 of them" in page.words
    assert page.words.count("plan-8") == 1
    document["refused"] = {"plan-a": "reason one", "plan-b": "reason two"}
    assert "All 2 of them" not in Page(render_report(document)).words


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text_in_a_drawing(text: str) -> None:
    rows = [{"op": text, "place": "float", "ms": 1.0}]
    svg = plots.operators("ops", rows, rows)
    page = Page(svg)
    assert {tag for tag, _ in page.tags} <= {
        "svg",
        "defs",
        "g",
        "path",
        "text",
        "use",
        "clippath",
        "rect",
    }
    assert {v.removeprefix("ops-") for v in page.values("id")} != set(page.values("id"))
    svg.encode()


def test_pictures_are_data_or_nothing() -> None:
    refused: tuple[object, ...] = (
        "https://example.invalid/cat.png",
        "javascript:alert(1)",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/png;base64,AAAA" onerror="x',
        "data:image/png;base64,AAAA\n",
        "DATA:image/png,AAAA",
        None,
        7,
    )
    document = load("magika")
    for sample, uri in zip(document["golden"], refused, strict=False):
        sample["preview"] = {"kind": "image", "data": uri}
    text = render_report(document)
    assert "<img" not in text
    assert text.count("was left out") == len(document["golden"])
    assert_closed_to_the_network(text)
    assert not any(map(is_picture, refused))
    assert is_picture("data:image/png;base64,AAAA")


def test_pictures_and_boxes_of_both_models() -> None:
    document = load("yolo11n")
    document["golden"][0]["agreement"] = 0.5
    document["golden"][0]["shipped"]["boxes"] = []
    page = Page(render_report(document))
    assert page.values("src") == [document["golden"][0]["preview"]["data"]]
    outlines = [a["class"] for tag, a in page.tags if tag == "polygon"]
    assert outlines == ["outline fp32"] * len(document["golden"][0]["fp32"]["boxes"])
    assert "nothing found" in page.words
    assert "differ on 1 of 3 golden samples" in page.words


def test_texts_and_vectors_of_golden_samples() -> None:
    document = load("magika")
    document["golden"] = [
        {
            "index": 0,
            "name": "text",
            "agreement": 0.25,
            "preview": {"kind": "text", "data": "a <b> text"},
            "fp32": {"embedding": [1.0, 0.0]},
            "shipped": {"embedding": [1.0, 1.0]},
        },
        {
            "index": 1,
            "name": "line",
            "agreement": 0.5,
            "preview": None,
            "fp32": {"text": "edge", "score": 0.9},
            "shipped": {"something": ["else"]},
        },
    ]
    words = Page(render_report(document)).words
    assert "a <b> text" in words
    assert "cosine to fp32 0.7071" in words
    assert "edge score 0.900" in words
    assert '{"something": ["else"]}' in words
    assert "differ on 2 of 2" in words


def test_what_is_absent_is_said_in_words() -> None:
    document = load("magika")
    document.update(layers=None, golden=[], host_timing=None, passes=[], refused={})
    document["ops"] = {"fp32": [], "shipped": []}
    document["candidates"] = document["candidates"][1:]
    document["summary"]["contract"] = []
    text = render_report(document)
    words = Page(text).words
    for sentence in (
        "No plan with calibrated ranges was tried",
        "The bundle holds no golden samples",
        "No latency was measured on this host",
        "No pass changed the graph",
        "The predictor gives no time",
        "Only one graph could be tried",
        "No contract: nothing was required",
    ):
        assert sentence in words
    assert 'aria-label="SQNR' not in text
    assert 'aria-label="Candidates' not in text
    assert 'aria-label="Predicted time' not in text


def test_a_failed_and_an_open_requirement_come_first() -> None:
    document = load("silero-vad")
    document["summary"]["contract"][1]["outcome"] = "undecided"
    words = Page(render_report(document)).words
    assert "Meets 2 of 3 limits; the device decides frame agreement" in words
    document["summary"]["contract"][0]["outcome"] = "fail"
    document["summary"]["contract"].append(
        {
            "metric": "latency_p99_ms",
            "vs": "absolute",
            "max": 4,
            "limit": "≤ 4",
            "outcome": "absent",
        }
    )
    words = Page(render_report(document)).words
    assert "Does not meet its contract: ROC AUC, latency p99" in words
    assert "latency_p99_ms" in words
    assert "not measured" in words
    assert "≤ 4 ms" in words


def test_a_hundred_layers_and_one_without_noise() -> None:
    document = load("magika")
    document["layers"]["rows"] = [
        {
            "name": f"layer.{i}",
            "op": "Conv",
            "parameters": 10,
            "sqnr_db": float("inf") if i == 3 else 10.0 + i % 17,
            "int8": i % 7 != 0,
        }
        for i in range(100)
    ]
    text = render_report(document)
    page = Page(text)
    assert "100 layers in graph order, 15 kept in fp32" in page.words
    assert "layer.99" in page.words
    assert 'aria-label="SQNR of 100 layers, 10.0 to 26.0 dB"' in text
    drawn = text[text.index('aria-label="SQNR') :]
    drawn = drawn[: drawn.index("</svg>")]
    assert drawn.count("var(--shipped)") == 85
    assert "layer.99" not in drawn


def test_a_limit_against_fp32_is_drawn_where_it_lies() -> None:
    document = load("magika")
    text = render_report(document)
    first = re.search(r'aria-label="top1 accuracy: ([^"]*)"', text)
    assert first is not None
    assert first[1].endswith("the contract asks for ≥ fp32 − 0.02")
    assert "var(--limit)" in text


@pytest.mark.parametrize(
    "broken",
    [
        lambda d: d.update(schema="edgekit.report/2"),
        lambda d: d.pop("summary"),
        lambda d: d["summary"].pop("contract"),
        lambda d: d["summary"]["contract"][0].update(outcome="perhaps"),
        lambda d: d["summary"]["measurements"][0].update(value="high"),
        lambda d: d.update(golden=[{}]),
        lambda d: d.update(candidates=3),
    ],
)
def test_a_malformed_document_is_an_error(broken: Any) -> None:
    document = load("magika")
    broken(document)
    with pytest.raises(ConfigError):
        render_report(document)


def test_the_same_bytes_whatever_the_process_was_told(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nsvg.fonttype: path\ntext.usetex: True\n")
    code = (
        "import hashlib, json, sys\n"
        "from edgekit.toolchain.report import plots, render_report\n"
        "page = render_report(json.load(open(sys.argv[1])))\n"
        "print(hashlib.sha256(page.encode()).hexdigest())\n"
    )

    def digest(**environment: str) -> str:
        command = [sys.executable, "-c", code, str(DOCUMENTS / "silero-vad.json")]
        env = {**os.environ, **environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    plain = digest(PYTHONHASHSEED="1")
    assert plain == digest(PYTHONHASHSEED="2", MATPLOTLIBRC=str(tmp_path), LC_ALL="de_DE.UTF-8")
