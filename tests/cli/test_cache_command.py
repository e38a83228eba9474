from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

import edgekit.toolchain
from edgekit.cli.commands.cache import _WORDS
from edgekit.cli.main import run
from edgekit.toolchain.cache import Cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE_DIR", str(tmp_path / "cache"))
    found = Cache(tmp_path / "cache")
    found.stage("export", "1", lambda out: (out / "m").write_bytes(b"m" * 3_000_000) and None)
    found.stage("export", "2", lambda out: (out / "m").write_bytes(b"m" * 1_000_000) and None)
    found.stage("download", "3", lambda out: (out / "d").write_bytes(b"d" * 500) and None)
    return found


def read_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("words", [["cache"], ["cache", "show"]])
def test_show(cache: Cache, capsys, words: list[str]) -> None:
    assert run([*words, "--json"]) == 0
    document = read_json(capsys)
    assert document["schema"] == "edgekit.cache.show/1"
    assert document["path"] == str(cache.root)
    assert [(k["kind"], k["entries"]) for k in document["kinds"]] == [
        ("export", 2),
        ("download", 1),
    ]
    assert document["size_bytes"] == sum(k["size_bytes"] for k in document["kinds"])
    assert document["size_bytes"] == sum(e.size_bytes for e in cache.usage())
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert str(cache.root) in shown
    assert "3.8" in shown
    assert run([*words, "--quiet"]) == 0
    assert capsys.readouterr().out == f"{cache.root}\n"


def test_an_empty_cache_is_no_error(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "none"
    assert run(["cache", "--cache-dir", str(folder)]) == 0
    assert "empty" in capsys.readouterr().out
    assert run(["cache", "clear", "--cache-dir", str(folder), "--json"]) == 0
    assert read_json(capsys)["entries"] == 0
    assert not folder.exists()


def test_clearing_asks_first(cache: Cache, capsys) -> None:
    assert run(["cache", "clear"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert len(cache.usage()) == 3


def test_clear_all(cache: Cache, capsys) -> None:
    before = sum(e.size_bytes for e in cache.usage())
    assert run(["cache", "clear", "--yes", "--json"]) == 0
    document = read_json(capsys)
    assert document["schema"] == "edgekit.cache.clear/1"
    assert (document["entries"], document["size_bytes"]) == (3, before)
    assert cache.usage() == []


def test_clear_a_part(cache: Cache, capsys) -> None:
    assert run(["cache", "clear", "--kind", "export", "--older-than", "1", "--yes"]) == 0
    assert "removed 0" in capsys.readouterr().out
    old = next(e for e in cache.usage() if e.key == "2")
    os.utime(old.path / "index.json", (1_000_000, 1_000_000))
    assert run(["cache", "clear", "--older-than", "1", "--yes"]) == 0
    assert {e.key for e in cache.usage()} == {"1", "3"}
    assert run(["cache", "clear", "--kind", "download", "-y"]) == 0
    assert {e.key for e in cache.usage()} == {"1"}


def test_a_mistyped_kind_or_command(cache: Cache, capsys) -> None:
    assert run(["cache", "clear", "--kind", "exprt", "--yes"]) == 2
    assert "did you mean export?" in capsys.readouterr().err
    assert run(["cache", "claer"]) == 2
    assert "clear" in capsys.readouterr().err
    assert len(cache.usage()) == 3


def test_every_kind_says_what_it_is() -> None:
    kinds = {
        kind
        for path in Path(edgekit.toolchain.__path__[0]).rglob("*.py")
        for kind in re.findall(r'\.stage\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert {"export", "effects", "smooth"} <= kinds
    assert kinds <= _WORDS.keys()
