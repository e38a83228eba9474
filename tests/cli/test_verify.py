from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import run
from edgekit.runtime.host import Arithmetic, host_arithmetic
from edgekit.wire.signing import generate_key

exact_arithmetic = pytest.mark.skipif(
    host_arithmetic() is Arithmetic.SATURATING, reason="this CPU saturates int8 products"
)


def verify(bundle: Path, key: Path, *more: str) -> int:
    return run(["verify", str(bundle), "--key", str(key), *more])


@exact_arithmetic
def test_json_is_one_document(small_bundle: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(small_bundle.path, small_bundle.public_key, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "edgekit.verify/1"
    assert document["ok"] is True
    assert document["target"] == "rpi5"
    (proof,) = document["proofs"]
    assert proof["exact"] is True
    assert len(proof["matches"]) == 4


@exact_arithmetic
def test_people_see_the_result_and_the_next_command(
    small_bundle: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(small_bundle.path, small_bundle.public_key) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "4 samples: equal bit for bit" in lines[1]
    assert lines[-1].startswith("  next: edgekit run ")


@pytest.mark.qemu
@exact_arithmetic
def test_several_cores_are_proven_one_after_the_other(
    small_bundle: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    cores = ("--emulate", "--cpu", "cortex-a53", "--cpu", "cortex-a76")
    assert verify(small_bundle.path, small_bundle.public_key, "--json", *cores) == 0
    proofs = json.loads(capsys.readouterr().out)["proofs"]
    assert [proof["host"] for proof in proofs] == ["arm64", "arm64"]
    assert all(proof["exact"] for proof in proofs)


def test_out_of_tolerance_is_exit_8_with_a_table(
    small_bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = small_bundle.rewrite(
        tmp_path / "bad.ekb",
        golden__02__expected_dot_json=small_bundle.members["golden/00/expected.json"],
    )
    assert verify(bad, small_bundle.public_key) == 8
    captured = capsys.readouterr()
    header = next(line for line in captured.out.splitlines() if "difference" in line)
    assert header.split() == ["sample", "output", "difference", "tolerance", "cosine", "agreement"]
    row = captured.out.splitlines()[captured.out.splitlines().index(header) + 1].split()
    assert row[:2] == ["2", "y"]
    assert captured.err.startswith("error: ")
    assert "out of tolerance" in captured.err

    assert verify(bad, small_bundle.public_key, "--json") == 8
    captured = capsys.readouterr()
    assert json.loads(captured.out)["ok"] is False
    assert captured.err == ""


def test_another_key_is_exit_7_and_nothing_runs(
    small_bundle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = tmp_path / "stranger.pub.pem"
    stranger.write_bytes(generate_key("stranger").public.to_pem())
    assert verify(small_bundle.path, stranger, "--json") == 7
    assert json.loads(capsys.readouterr().out)["error"] == "TrustError"


def test_a_changed_byte_is_exit_7(small_bundle: Any, tmp_path: Path) -> None:
    data = bytearray(small_bundle.path.read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "changed.ekb"
    changed.write_bytes(data)
    assert verify(changed, small_bundle.public_key) == 7


def test_an_unknown_core_is_a_usage_hint(
    small_bundle: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("edgekit.toolchain.emulate")
    from edgekit.toolchain.emulate import find_qemu, is_native

    if is_native() or find_qemu() is None:
        pytest.skip("nothing is emulated here")
    assert verify(small_bundle.path, small_bundle.public_key, "--cpu", "cortex-a67") == 3
    assert "did you mean cortex-a" in capsys.readouterr().err
