"""The agent on an emulated Arm core: the same wheels, a real broker, a self-test in a child."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest

from edgekit.toolchain.cache import Cache
from edgekit.toolchain.emulate import Emulator
from edgekit.toolchain.userspace import PACKAGES

from ..agent_board import MODEL, Board, sample_of, settings_for, until  # noqa: TID252
from ..agent_broker import Broker  # noqa: TID252 - helpers of all agent tests
from ..agent_receiver import Receiver  # noqa: TID252

PATIENCE_S = 300.0  # an emulated core is twenty times slower
AGENT_PACKAGES = (
    *("paho-mqtt", "psutil", "backports-zstd", "starlette", "uvicorn", "h11", "anyio", "idna"),
    *("sniffio", "click"),
)


def board_on_arm(emulator: Emulator, folder: Path, key, settings) -> Board:
    """Make a program `python` that runs on an emulated core, and starts its children there, too."""
    assert emulator.root is not None
    work = folder / "emulated"
    work.mkdir(parents=True)
    environment = emulator._environment(work, write_bytecode=False)
    (work / "package").mkdir()
    (work / "package" / "edgekit").symlink_to(Path(__file__).resolve().parents[2] / "edgekit")
    environment["PYTHONPATH"] = os.pathsep.join([str(work / "package"), environment["PYTHONPATH"]])
    environment["PYTHONHOME"] = str(emulator.root / "rootfs" / "usr")
    python = work / "python"
    qemu, *rest = emulator._command(work, "cortex-a76")
    *options, guest = rest
    line = [qemu, *options, "-0", str(python), guest, "-s"]
    python.write_text(f'#!/bin/sh\nexec {shlex.join(line)} "$@"\n')
    python.chmod(0o755)
    return Board(folder, key, settings, (str(python),), environment)


@pytest.mark.slow
@pytest.mark.qemu
@pytest.mark.mosquitto
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_the_agent_serves_on_an_emulated_core(tmp_path, shared_cache, small_bundle):
    emulator = Emulator.prepare(Cache(shared_cache), packages=(*PACKAGES, *AGENT_PACKAGES))
    if emulator.native:
        pytest.skip("this machine is aarch64 itself: tests/e2e/test_agent.py ran on it")
    with Broker(tmp_path / "broker") as broker:
        receiver = Receiver(broker.port, tmp_path / "store.db").start()
        settings = settings_for(small_bundle, broker.port)
        board = board_on_arm(emulator, tmp_path / "board", small_bundle.private_key, settings)
        try:
            board.start()
            until(board.serves, PATIENCE_S)
            status = board.status()
            assert status["models"][MODEL]["self_test"]["passed"], board.log()
            assert board.infer(sample_of(small_bundle))["outputs"]["y"]["shape"] == [1, 8, 16, 16]
            (hello,) = until(lambda: receiver.of("hello"), PATIENCE_S)
            assert hello["arch"] == "aarch64"
            until(lambda: any(MODEL in str(body) for *_, body in receiver.rows()), PATIENCE_S)
            assert board.kill(signal.SIGTERM) == 0
        finally:
            if board.process is not None and board.process.poll() is None:
                board.kill()
            receiver.stop()
