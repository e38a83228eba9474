from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.runtime.host import Arithmetic
from edgekit.toolchain import doctor
from edgekit.toolchain.doctor import Check, Facts, State, examine, ready
from edgekit.toolchain.settings import load_settings

REQUIREMENTS = (
    "click>=8.2",
    "numpy>=2.0",
    "onnxruntime<1.32,>=1.23",
    'pillow>=11; extra == "image"',
    'onnx<1.24,>=1.19; extra == "build"',
    'pillow>=11; extra == "build"',
    'torch==2.13.0; extra == "hf"',
    'optimum==2.1.0; extra == "hf"',
    'onnx<1.24,>=1.19; extra == "hf"',
)
WHOLE = Facts(
    python=(3, 11, 7),
    cpu="x86-64-vnni",
    arithmetic=Arithmetic.EXACT,
    distributions={
        "click": "8.5.1",
        "numpy": "2.4.6",
        "onnxruntime": "1.31.1",
        "pillow": "13.0.0",
        "onnx": "1.23.2",
        "torch": "2.13.0+cpu",
        "optimum": "2.1.0",
    },
    requirements=REQUIREMENTS,
    programs=dict.fromkeys(("qemu-aarch64-static", "mmdebstrap", "npm", "apt-get"), "1.0")
    | {"mosquitto": None},
    onnxruntime_problem="",
    cache_dir=Path("/cache"),
    cache_writable=True,
    free_bytes=100 << 30,
    key="dev-3f9a",
)


def without(name: str) -> Facts:
    return replace(WHOLE, distributions={k: v for k, v in WHOLE.distributions.items() if k != name})


def check(facts: Facts, name: str) -> Check:
    (found,) = [c for group in examine(facts) for c in group.checks if c.name == name]
    return found


def test_a_whole_machine_is_ready() -> None:
    groups = examine(WHOLE)
    assert ready(groups)
    assert [group.name for group in groups if not group.ok] == ["broker"]


@pytest.mark.parametrize("name", ["click", "numpy", "onnxruntime", "onnx", "pillow"])
def test_what_the_basic_build_needs_must_be_there(name: str) -> None:
    assert not ready(examine(without(name)))
    missing = check(without(name), name)
    assert missing.state is State.MISSING
    assert str(missing.install).startswith("pip install ")


@pytest.mark.parametrize("name", ["torch", "optimum"])
def test_what_an_export_needs_may_be_missing(name: str) -> None:
    assert ready(examine(without(name)))
    assert check(without(name), name).state is State.MISSING


def test_torch_is_installed_first_and_from_the_cpu_index() -> None:
    (export,) = [group for group in examine(without("torch")) if group.name == "export"]
    assert export.checks[0].name == "torch"
    assert export.checks[0].install == doctor.TORCH_COMMAND
    # The set-up runs before edgekit is installed and so has this in a file of its own.
    script = (Path(__file__).parents[3] / "tools/install_torch.py").read_text(encoding="utf-8")
    index = re.search(r'CPU_INDEX = "([^"]+)"', script)
    assert index is not None
    assert index.group(1) in doctor.TORCH_COMMAND


def test_a_cuda_build_and_cuda_packages_are_wrong() -> None:
    facts = replace(
        WHOLE,
        distributions={**WHOLE.distributions, "torch": "2.13.0+cu130", "nvidia-nccl-cu13": "2.29"},
    )
    assert check(facts, "torch").state is State.WRONG
    cuda = check(facts, "CUDA packages")
    assert cuda.state is State.WRONG
    assert cuda.install == "pip uninstall -y nvidia-nccl-cu13"
    assert ready(examine(facts))


def test_a_version_outside_the_pins_is_wrong() -> None:
    facts = replace(WHOLE, distributions={**WHOLE.distributions, "onnxruntime": "1.32.0"})
    found = check(facts, "onnxruntime")
    assert found.state is State.WRONG
    assert found.found == "1.32.0, wanted <1.32,>=1.23"
    assert found.install == 'pip install "onnxruntime<1.32,>=1.23"'


def test_an_onnxruntime_that_does_not_load_says_why() -> None:
    facts = replace(WHOLE, onnxruntime_problem="libstdc++ is too old")
    assert "libstdc++ is too old" in check(facts, "onnxruntime").found
    assert not ready(examine(facts))


def test_saturating_arithmetic_is_a_note_not_a_fault() -> None:
    facts = replace(WHOLE, cpu="x86-64-avx2", arithmetic=Arithmetic.SATURATING)
    assert check(facts, "CPU").state is State.NOTE
    assert "--emulate" in check(facts, "CPU").found
    assert ready(examine(facts))


def test_an_old_python_a_read_only_cache_and_a_bad_key_are_faults() -> None:
    for facts, name in (
        (replace(WHOLE, python=(3, 10, 9)), "Python"),
        (replace(WHOLE, cache_writable=False), "cache folder"),
        (replace(WHOLE, key_problem="others can read it", key_hint="chmod 600 k"), "signing key"),
    ):
        assert check(facts, name).state is State.WRONG
        assert check(facts, name).install
        assert not ready(examine(facts))


def test_little_disk_space_is_a_note() -> None:
    facts = replace(WHOLE, free_bytes=1 << 30)
    assert check(facts, "disk space").state is State.NOTE
    assert ready(examine(facts))


def test_gathering_looks_at_this_machine(tmp_path: Path) -> None:
    import numpy as np

    key = tmp_path / "key.pem"
    key.write_text("not a key")
    key.chmod(0o600)
    env = {"EDGEKIT_CACHE_DIR": str(tmp_path / "new/cache"), "EDGEKIT_KEY_FILE": str(key)}
    facts = doctor.gather(load_settings(tmp_path, {}, env))
    assert facts.distributions["numpy"] == np.__version__
    assert facts.cache_writable
    assert facts.onnxruntime_problem == ""
    assert "PEM" in facts.key_problem
    assert not (tmp_path / "new").exists()
    assert any(text.startswith("onnxruntime") for text in facts.requirements)
