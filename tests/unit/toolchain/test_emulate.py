from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.toolchain import emulate, userspace
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.emulate import CORES, Emulator, cpuinfo
from edgekit.wire.errors import BuildError, ConfigError, DeviceError, MissingToolError

HERE = Emulator(None)


@pytest.mark.parametrize("cpu", CORES)
def test_cpuinfo_is_in_arms_format(cpu: str) -> None:
    text = cpuinfo(cpu, 3)
    blocks = text.strip().split("\n\n")
    assert [b.splitlines()[0] for b in blocks] == [f"processor\t: {i}" for i in range(3)]
    assert re.search(r"^CPU part\t: 0xd[0-9a-f]{2}$", blocks[0], re.MULTILINE)
    assert "CPU implementer\t: 0x41" in text


def test_only_cores_of_armv8_2_claim_dot_products() -> None:
    with_dot = {name for name, core in CORES.items() if "asimddp" in core.features.split()}
    assert with_dot == {"cortex-a55", "cortex-a76", "neoverse-n1"}


def test_pins_are_the_versions_of_this_installation() -> None:
    import numpy as np
    import onnxruntime

    pins = userspace.pins()
    assert pins["numpy"] == np.__version__
    assert pins["onnxruntime"] == onnxruntime.__version__
    assert not any("+" in version for version in pins.values())
    assert userspace.pins(["no-such-distribution"]) == {}


def test_offline_and_not_cached_says_what_to_do(tmp_path: Path) -> None:
    if emulate.is_native() or emulate.find_qemu() is None:
        pytest.skip("nothing is emulated here")
    with pytest.raises(BuildError, match="offline") as caught:
        Emulator.prepare(Cache(tmp_path), offline=True)
    assert "--emulate" in str(caught.value.hint)
    assert not list(tmp_path.glob("stages/*/*"))


def test_a_missing_qemu_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if emulate.is_native():
        pytest.skip("nothing is emulated here")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError) as caught:
        Emulator.prepare(Cache(tmp_path))
    assert "apt-get install" in str(caught.value.hint)
    assert "qemu-user-static" in str(caught.value.hint)


def test_here_the_same_package_runs_in_an_environment_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import edgekit

    monkeypatch.setenv("EDGEKIT_LEAK", "1")
    script = (
        "import os, edgekit, pathlib\n"
        "print(pathlib.Path(edgekit.__file__).resolve())\n"
        "print(os.environ.get('EDGEKIT_LEAK'), os.environ['ORT_DISABLE_TELEMETRY'])\n"
        "print(os.listdir('.'))"
    )
    done = HERE.run_python(["-c", script])
    assert done.returncode == 0, done.stderr
    place, environment, listing = done.stdout.splitlines()
    assert Path(place) == Path(str(edgekit.__file__)).resolve()
    assert environment == "None 1"
    assert listing == "[]"


def test_the_exit_code_and_both_streams_come_back() -> None:
    done = HERE.run_python(
        ["-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"]
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGILL, signal.SIGKILL])
def test_a_signal_becomes_a_device_error(number: signal.Signals) -> None:
    with pytest.raises(DeviceError, match=number.name) as caught:
        HERE.run_python(["-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    assert caught.value.hint


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.wait()"
    )
    with pytest.raises(DeviceError, match="did not end"):
        HERE.run_python(["-c", script], timeout_s=3)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/status")
    # Gone, or dead and waiting for init to collect it.
    assert not state.exists() or re.search(r"^State:\s+Z", state.read_text(), re.MULTILINE)


def test_an_unknown_core_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Emulator(tmp_path).run_python([], cpu="cortex-a67")
    assert str(caught.value.hint).startswith("did you mean cortex-a")


def test_links_become_files_and_never_lead_outside(tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    (root / "lib").mkdir(parents=True)
    (root / "lib/real.so.1.2").write_bytes(b"code")
    (root / "lib/real.so.1").symlink_to("real.so.1.2")
    (root / "lib/real.so").symlink_to("real.so.1")
    (root / "lib/absolute.so").symlink_to("/lib/real.so.1.2")
    (root / "lib/dangling").symlink_to("nowhere")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "lib/outside").symlink_to("../../secret")
    userspace._replace_links(root)
    found = {path.name: path.read_bytes() for path in (root / "lib").iterdir()}
    assert found == dict.fromkeys(("real.so", "real.so.1", "real.so.1.2", "absolute.so"), b"code")
    assert not any(path.is_symlink() for path in (root / "lib").iterdir())


@pytest.mark.qemu
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_onnxruntime_loads_on_an_emulated_core(emulator: Emulator, cpu: str) -> None:
    script = (
        "import platform, sys, numpy, onnxruntime\n"
        "import edgekit.runtime.host as host\n"
        "print(platform.machine(), sys.version_info[:2], onnxruntime.__version__, host.host_kind())"
    )
    done = emulator.run_python(["-c", script], cpu=cpu)
    import onnxruntime

    assert done.returncode == 0, done.stderr
    expected = "aarch64" if not emulate.is_native() else ""
    assert done.stdout.startswith(expected)
    assert onnxruntime.__version__ in done.stdout
    assert done.stdout.strip().endswith("arm64")


@pytest.mark.qemu
def test_the_emulated_python_sees_what_the_tasks_need_and_nothing_of_the_host(
    emulator: Emulator,
) -> None:
    script = (
        "import sys, importlib.util\n"
        "import PIL.Image, tokenizers, soundfile\n"
        "from cryptography.hazmat.primitives.asymmetric import ed25519\n"
        "print(importlib.util.find_spec('onnx'), importlib.util.find_spec('click'))"
    )
    done = emulator.run_python(["-c", script])
    assert done.returncode == 0, done.stderr
    if not emulator.native:
        assert done.stdout == "None None\n"


@pytest.mark.qemu
def test_a_crash_under_emulation_is_told_from_a_failure(emulator: Emulator) -> None:
    with pytest.raises(DeviceError, match="SIGSEGV"):
        emulator.run_python(["-c", "import ctypes; ctypes.string_at(0)"])


@pytest.mark.qemu
def test_the_second_preparation_makes_nothing(
    emulator: Emulator, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was made again")

    replaced: Callable[..., None] = refuse
    monkeypatch.setattr(emulate, "make_rootfs", replaced)
    assert Emulator.prepare(Cache(shared_cache), offline=True) == emulator
