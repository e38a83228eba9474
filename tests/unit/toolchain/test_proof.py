from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.runtime.host import Arithmetic, host_arithmetic
from edgekit.toolchain.emulate import Emulator
from edgekit.toolchain.proof import HERE, cores_for, prove
from edgekit.wire.bundle import open_bundle
from edgekit.wire.errors import BuildError, DeviceError, UsageError

exact_arithmetic = pytest.mark.skipif(
    host_arithmetic() is Arithmetic.SATURATING, reason="this CPU saturates int8 products"
)


@exact_arithmetic
def test_a_bundle_is_proven_on_the_host_that_made_it(small_bundle: Any) -> None:
    with open_bundle(small_bundle.path, [small_bundle.private_key.public]) as bundle:
        proof = prove(bundle, HERE, cpu=None)
    assert proof.ok
    assert proof.exact
    assert [match.sample for match in proof.matches] == [0, 1, 2, 3]
    assert proof.where.endswith(" host")


@pytest.mark.qemu
@exact_arithmetic
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_an_int8_convolution_is_equal_bit_for_bit_on_emulated_arm(
    small_bundle: Any, emulator: Emulator, cpu: str
) -> None:
    with open_bundle(small_bundle.path, [small_bundle.private_key.public]) as bundle:
        proof = prove(bundle, emulator, cpu=cpu)
    assert proof.exact
    assert proof.host == "arm64"
    assert proof.where == ("arm64 host" if emulator.native else f"emulated {cpu}")


def test_another_expectation_is_out_of_tolerance(small_bundle: Any, tmp_path: Path) -> None:
    # Sample 0 gets the expected outputs of sample 1.
    path = small_bundle.rewrite(
        tmp_path / "swapped.ekb",
        golden__00__expected_dot_json=small_bundle.members["golden/01/expected.json"],
    )
    with open_bundle(path, [small_bundle.private_key.public]) as bundle:
        proof = prove(bundle, HERE, cpu=None)
    assert not proof.ok
    assert [match.sample for match in proof.matches if not match.within] == [0]


def test_an_error_of_the_replay_keeps_its_kind(small_bundle: Any, tmp_path: Path) -> None:
    path = small_bundle.rewrite(tmp_path / "broken.ekb", model_dot_onnx=b"not a model")
    with (
        open_bundle(path, [small_bundle.private_key.public]) as bundle,
        pytest.raises(BuildError, match="cannot load the model"),
    ):
        prove(bundle, HERE, cpu=None)


def test_a_replay_that_takes_too_long_is_a_device_error(small_bundle: Any) -> None:
    with (
        open_bundle(small_bundle.path, [small_bundle.private_key.public]) as bundle,
        pytest.raises(DeviceError, match="did not end"),
    ):
        prove(bundle, HERE, cpu=None, timeout_s=0.01)


def test_cores_are_the_users_then_the_targets_then_the_default() -> None:
    assert cores_for("arm64", "cortex-a53", ["cortex-a72"]) == ("cortex-a72",)
    assert cores_for("arm64", "cortex-a53", []) == ("cortex-a53",)
    assert cores_for("arm64", None, []) == ("cortex-a76",)
    with pytest.raises(UsageError, match="x86-64-vnni"):
        cores_for("x86-64-vnni", None, ["cortex-a53"])
