"""Benchmarks as files, and the text of a target's file with learned facts in it."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.learn_files import (
    check_target,
    edited,
    observations,
    read_bench,
    source_note,
    unified,
)
from edgekit.toolchain.project import packaged_folder
from edgekit.wire.bundle import open_bundle
from edgekit.wire.canonical import sha256_file
from edgekit.wire.errors import ConfigError
from edgekit.wire.signing import load_public_key

NOTE = "measured on device lab-3, 2026-11-22, 5 models"
BEFORE = {"cpu.fp32_gflops": 153.6, "memory.bandwidth_mib_s": 16277.0}


def document(**changed: Any) -> dict[str, Any]:
    base = {
        "schema": "edgekit.bench/1",
        "model": "small-conv",
        "bundle_sha256": "ab" * 32,
        "measured": {
            "kind": "measured",
            "host": "arm64",
            "board": "Raspberry Pi 5 Model B",
            "device": "lab-3",
            "target": "rpi5",
            "date": "2026-11-22",
        },
        "threads": 4,
        "inputs": {"x": {"dtype": "float32", "shape": [1, 3, 16, 16], "varies": False}},
        "interrupted": False,
        "basis": {"windows": "plateau", "reached": True},
        "model_call": {"n": 100, "p50_ms": 2.5},
    }
    return base | changed


def save(folder: Path, value: object, name: str = "b.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_a_benchmark_is_read(tmp_path: Path) -> None:
    bench = read_bench(save(tmp_path, document()))
    assert (bench.model, bench.target, bench.where) == ("small-conv", "rpi5", "lab-3")
    assert (bench.latency_ms, bench.threads, bench.unusable) == (2.5, 4, "")
    assert source_note([bench], 5) == NOTE


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"interrupted": True}, "interrupted"),
        ({"basis": {"reached": False}}, "no plateau"),
        ({"model_call": {"n": 3, "p50_ms": 1.0}}, "too few"),
        ({"model_call": {"n": 0}}, "too few"),
        ({"inputs": {"x": {"shape": [1], "varies": True}}}, "varies"),
    ],
)
def test_what_cannot_be_learned_from_says_why(tmp_path: Path, changed, why: str) -> None:
    bench = read_bench(save(tmp_path, document(**changed)))
    assert why in bench.unusable
    assert observations([bench], tmp_path, pytest.fail)[1] == [(bench.path, bench.unusable)]


@pytest.mark.parametrize(
    "value",
    [
        [],
        1,
        {},
        document(schema="edgekit.bench/2"),
        document(measured={"kind": "predicted"}),
        document(threads="many"),
        document(bundle_sha256="../../etc"),
        document(measured=document()["measured"] | {"date": "today"}),
        document(inputs=[1]),
        document(model_call=None),
    ],
)
def test_other_documents_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match=r"b\.json"):
        read_bench(save(tmp_path, value))


@given(st.binary(max_size=100))
def test_strangers_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_bench(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_bench(path.with_name("gone.json"))


def test_devices_of_another_kind_are_refused(tmp_path: Path) -> None:
    measured = document()["measured"]
    mine = read_bench(save(tmp_path, document()))
    other = read_bench(save(tmp_path, document(measured=measured | {"target": "rpi4"}), "o.json"))
    unknown = read_bench(save(tmp_path, document(measured=measured | {"target": None}), "u.json"))
    assert check_target([mine, mine], None) == check_target([mine], "rpi5") == "rpi5"
    for benches, target in (
        ([mine, other], None),
        ([mine, unknown], None),
        ([unknown], None),
        ([unknown], "rpi5"),
        ([mine], "rpi4"),
    ):
        with pytest.raises(ConfigError, match="measured on lab-3") as caught:
            check_target(benches, target)
        assert "of its own kind" in str(caught.value.hint)


def test_a_benchmark_is_put_beside_its_bundle_by_the_digest(small_bundle, tmp_path: Path) -> None:
    sha256 = sha256_file(small_bundle.path)
    bench = read_bench(save(tmp_path, document(bundle_sha256=sha256)))
    lost = read_bench(save(tmp_path, document(), "lost.json"))
    key = load_public_key(small_bundle.public_key)
    found, left_out = observations(
        [bench, lost], small_bundle.path.parent, lambda path: open_bundle(path, [key])
    )
    assert [o.bundle_sha256 for o in found] == [sha256]
    assert found[0].facts.macs == 8 * 3 * 9 * 16 * 16
    assert left_out[0][0] == lost.path
    assert "not in" in left_out[0][1]


@pytest.mark.parametrize("name", [p.name for p in packaged_folder("targets").glob("*.toml")])
def test_every_packaged_target_can_be_edited_and_nothing_else_changes(name: str) -> None:
    text = (packaged_folder("targets") / name).read_text(encoding="utf-8")
    values = {"cpu.fp32_gflops": 41.2, "memory.bandwidth_mib_s": 9000.0}
    before, after = tomllib.loads(text), tomllib.loads(edited(text, values, BEFORE, NOTE))
    for dotted, value in values.items():
        section, key = dotted.split(".")
        assert after[section].pop(key) == value
        before.get(section, {}).pop(key, None)
    for section in ("cpu", "memory"):
        assert after.pop(section, {}) == before.pop(section, {})
    assert after == before


def test_the_line_says_where_the_value_comes_from_and_what_it_was() -> None:
    text = "# head\n[cpu]\ncores = 4\n# peak\nfp32_gflops = 153.6  # two pipes\n\n[runtime]\n"
    out = edited(text, {"cpu.fp32_gflops": 41.2}, BEFORE, NOTE)
    assert out == text.replace(
        "fp32_gflops = 153.6  # two pipes", f"fp32_gflops = 41.2  # {NOTE}; was 153.6"
    )


def test_a_fact_of_the_family_is_added_to_its_section() -> None:
    text = 'title = "x"\n\n[cpu]\ncores = 4\n\n# about memory\n[memory]\nsize_mib = 1\n'
    out = edited(text, {"cpu.fp32_gflops": 41.2}, BEFORE, NOTE)
    added = f"cores = 4\nfp32_gflops = 41.2  # {NOTE}; was 153.6\n\n# about"
    assert added in out


def test_a_project_without_the_file_gets_one_that_overlays() -> None:
    values = {"cpu.fp32_gflops": 41.2, "memory.bandwidth_mib_s": 9000.0}
    out = edited("", values, BEFORE, NOTE)
    assert out.startswith("[cpu]\n")
    assert tomllib.loads(out)["memory"]["bandwidth_mib_s"] == 9000


def test_a_file_of_inline_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="line by line"):
        edited("cpu = { fp32_gflops = 1.0 }\n", {"cpu.fp32_gflops": 41.2}, BEFORE, NOTE)


@pytest.mark.parametrize("text", ["", "[cpu]\ncores = 4\nfp32_gflops = 153.6\n"])
def test_the_diff_can_be_applied(tmp_path: Path, text: str) -> None:
    file = tmp_path / "targets" / "rpi5.toml"
    file.parent.mkdir()
    if text:
        file.write_text(text)
    after = edited(text, {"cpu.fp32_gflops": 41.2}, BEFORE, NOTE)
    diff = unified(text, after, "targets/rpi5.toml")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, check=True, input=diff, text=True)
    assert file.read_text() == after
