"""``edgekit bench`` as a user sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgekit.runtime import bench as module
from edgekit.runtime.host import host_kind


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHORT_S", 0.4)


def test_json_is_one_document_of_this_machine(small_bundle, edgekit, short):
    ran = edgekit("bench", small_bundle.path, "--key", small_bundle.public_key, "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["schema"] == "edgekit.bench/1"
    assert document["measured"]["host"] == host_kind()
    assert document["measured"]["target"] is None
    assert "not figures of rpi5" in document["measured"]["says"]
    assert 0 < document["model_call"]["p50_ms"] <= document["model_call"]["p99_ms"]
    assert document["model_call"]["p50_ms"] <= document["request"]["p50_ms"]
    assert document["profile"]["ops"]
    assert not document["interrupted"]
    assert ran.err == ""


def test_people_read_a_table_whose_machine_it_is_and_the_next_command(small_bundle, edgekit, short):
    ran = edgekit("bench", small_bundle.path, "--key", small_bundle.public_key, "--threads", 1)
    assert ran.code == 0
    assert "not figures of rpi5" in ran.out
    assert re.search(r"^\s*model +[\d.]+ +[\d.]+ +[\d.]+ +\d+\s*$", ran.out, re.MULTILINE)
    assert "QLinearConv" in ran.out
    assert ran.out.splitlines()[-1].strip().startswith("next: ")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and "//" in v]


def test_files_are_written_by_their_suffix(small_bundle, edgekit, short, tmp_path: Path):
    for name in ("b.html", "b.svg", "b.json"):
        ran = edgekit(
            *("bench", small_bundle.path, "--key", small_bundle.public_key),
            *("-o", tmp_path / name, "--quiet"),
        )
        assert (ran.code, ran.out.strip()) == (0, str(tmp_path / name))
    page = Page()
    page.feed((tmp_path / "b.html").read_text())
    assert page.tags.count("svg") == 2
    assert page.outside == []
    assert (tmp_path / "b.svg").read_text().startswith("<?xml")
    assert json.loads((tmp_path / "b.json").read_text())["schema"] == "edgekit.bench/1"


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (("-o", "b.txt"), 2, ".html, .svg or .json"),
        (("--sustained", "soon"), 2, "90s, 10m or 1h"),
        (("--sustained", "1s"), 2, "no sustained run"),
        (("--sustained", "25h"), 2, "no sustained run"),
        (("--threads", "0"), 2, "threads"),
        (("--device", "lab-3", "--home", "nowhere"), 3, "no fleet lives in this folder"),
    ],
)
def test_what_cannot_be_asked_is_told_at_once(small_bundle, edgekit, more, code, says):
    ran = edgekit("bench", small_bundle.path, "--key", small_bundle.public_key, *more)
    assert ran.code == code
    assert says in ran.err
    assert "hint" in ran.err


def test_a_bundle_that_nobody_signed_is_not_run(small_bundle, edgekit, tmp_path: Path):
    path = tmp_path / "broken.ekb"
    data = bytearray(small_bundle.path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(bytes(data))
    assert edgekit("bench", path, "--key", small_bundle.public_key).code == 7


def test_ctrl_c_gives_what_was_measured_until_then(small_bundle, command, tmp_path: Path):
    line = [*command, "bench", small_bundle.path, "--key", small_bundle.public_key]
    process = subprocess.Popen(
        [*map(str, line), "--sustained", "10m", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # It takes the signal for "enough" from the moment that it has a folder for the profile.
    end = time.monotonic() + 60
    while not list(tmp_path.glob("edgekit-bench-*")) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["interrupted"]
    assert document["model_call"]["n"] > 0
    assert document["windows"][-1]["end_s"] < 120
    assert list(tmp_path.iterdir()) == []
