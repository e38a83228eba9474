"""What all tests share: an environment of their own, one cache of downloads, what may be left out.

A test marked ``qemu``, ``mosquitto``, ``sshd``, ``chromium``, ``media`` or ``network`` is left out,
with the reason, where it cannot run. Under ``CI=true`` leaving one out is a failure.
``EDGEKIT_TEST_CACHE`` moves the cache.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from edgekit.runtime.golden import record, to_members
from edgekit.runtime.session import open_session, runner
from edgekit.runtime.tasks import create_task
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.emulate import Emulator, find_qemu, is_native
from edgekit.toolchain.pack import write_bundle
from edgekit.toolchain.userspace import APT_COMMAND
from edgekit.wire.manifest import (
    BundleTarget,
    Golden,
    Manifest,
    Pipeline,
    SessionOptions,
    Tensor,
    Tolerance,
)
from edgekit.wire.signing import PrivateKey, generate_key

# A shell starts what it puts in the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Stages that hold what was fetched, and nothing that edgekit's code has computed from it.
FETCHED = frozenset({"download", "source", "unpinned", "digest", "emulator", "part"})


def cache_folder() -> Path:
    """Return where downloads are kept between runs."""
    named = os.environ.get("EDGEKIT_TEST_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("edgekit-tests")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Forget what an earlier run has computed: the code may have changed since."""
    if hasattr(session.config, "workerinput"):
        return  # the controller has done it
    cache = Cache(cache_folder())
    computed = {entry.kind for entry in cache.usage()} - FETCHED
    if computed:
        cache.clear(computed)


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """A cache folder whose downloads outlive this run. Never clear it."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _own_log_level() -> None:
    """Undo what commands that ran in this process have set."""
    logging.getLogger("edgekit").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's settings, keys and cache out of the tests, and the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("EDGEKIT_")]:
            patch.delenv(name)
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("EDGEKIT_CACHE_DIR", str(cache_folder()))
        patch.setenv("ORT_DISABLE_TELEMETRY", "1")
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def emulator(shared_cache: Path) -> Emulator:
    """An aarch64 Python; for tests marked ``qemu``."""
    return Emulator.prepare(Cache(shared_cache))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what cannot run here; under CI=true, fail instead."""
    reason = None
    if item.get_closest_marker("qemu"):
        reason = _no_qemu()
    if reason is None and item.get_closest_marker("mosquitto"):
        reason = _no_mosquitto()
    if reason is None and item.get_closest_marker("sshd"):
        reason = _no_sshd()
    if reason is None and item.get_closest_marker("chromium"):
        reason = _missing("chromium")
    if reason is None and item.get_closest_marker("media"):
        reason = _missing("ffmpeg") or _missing("arecord", "alsa-utils")
    if reason is None and item.get_closest_marker("network"):
        reason = _no_network()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"left out under CI: {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _no_qemu() -> str | None:
    if is_native():
        return None
    missing = [] if find_qemu() else ["qemu-aarch64-static"]
    missing += [] if shutil.which("mmdebstrap") else ["mmdebstrap"]
    return f"{' and '.join(missing)} missing; {APT_COMMAND}" if missing else None


@functools.cache
def _no_mosquitto() -> str | None:
    folders = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    if shutil.which("mosquitto", path=folders):
        return None
    return "mosquitto missing; apt-get install -y --no-install-recommends mosquitto"


def _missing(program: str, package: str = "") -> str | None:
    if shutil.which(program):
        return None
    install = f"apt-get install -y --no-install-recommends {package or program}"
    return f"{program} missing; {install}"


@functools.cache
def _no_sshd() -> str | None:
    folders = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    missing = [name for name in ("sshd", "ssh") if shutil.which(name, path=folders) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} missing; apt-get install -y openssh-server openssh-client"


@functools.cache
def _no_network() -> str | None:
    """Ask the package index for one small package, unless an earlier run has filled the cache."""
    if any((cache_folder() / "stages").glob("download/*")):
        return None
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--timeout", "20", "--retries", "1", "--dest", folder, "iniconfig"),
            ],
            capture_output=True,
            check=False,
        )
    return None if done.returncode == 0 else "the package index does not answer"


@dataclass(frozen=True)
class SmallBundle:
    """A signed bundle for arm64 that needs no recipe: one int8 convolution on four inputs."""

    path: Path
    public_key: Path
    private_key: PrivateKey
    manifest: Manifest
    members: dict[str, bytes]

    def rewrite(self, path: Path, **changed: bytes) -> Path:
        """Sign a copy of it with other members; ``/`` is written ``__`` and ``.`` is ``_dot_``."""
        replaced = {k.replace("__", "/").replace("_dot_", "."): v for k, v in changed.items()}
        write_bundle(path, self.manifest, self.members | replaced, self.private_key)
        return path


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> SmallBundle:
    """Make it with the runtime of this host, whose u8s8 arithmetic is Arm's (given VNNI)."""
    folder = tmp_path_factory.mktemp("small-bundle")
    model = _int8_convolution()
    task = create_task("tensors", {"inputs": ["x"]}, {})
    run = runner(open_session(model))
    members = {"model.onnx": model}
    random = np.random.default_rng(7)
    for index in range(4):
        buffer = io.BytesIO()
        np.save(buffer, random.normal(size=(1, 3, 16, 16)).astype(np.float32))
        data = buffer.getvalue()
        members |= to_members(index, ".npy", data, record(task, run, data))
    key = generate_key("dev")
    manifest = Manifest(
        model="small-conv",
        title="One int8 convolution",
        serial=1,
        license="Apache-2.0",
        target=BundleTarget("rpi5", "arm64", "arm64", "1.31", 17, 1),
        precision="int8 static",
        pipeline=Pipeline("tensors", {"inputs": ["x"]}, {}),
        inputs=(Tensor("x", "float32", (1, 3, 16, 16)),),
        outputs=(Tensor("y", "float32", (1, 8, 16, 16)),),
        session=SessionOptions("all", 1),
        contract=(),
        placement=(),
        golden=Golden("static-int8", Tolerance(True, 0.0, 1.0, 1.0), 4, "arm64"),
        plan_sha256="0" * 64,
        tools={"edgekit": "0.1.0", "onnx": "1", "onnxruntime": "1"},
    )
    path, public = folder / "small-conv-rpi5.ekb", folder / "dev.pub.pem"
    packed = write_bundle(path, manifest, members, key)
    public.write_bytes(key.public.to_pem())
    return SmallBundle(path, public, key, packed.manifest, members)


def _int8_convolution() -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(3)
    constants = {
        "w": random.integers(-127, 128, size=(8, 3, 3, 3), dtype=np.int8),
        "w_scale": random.uniform(0.001, 0.01, size=8).astype(np.float32),
        "w_zero": np.zeros(8, np.int8),
        "x_scale": np.float32(0.03),
        "x_zero": np.uint8(128),
        "y_scale": np.float32(0.02),
        "y_zero": np.uint8(90),
    }
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"]),
        node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], axis=0),
        node("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
        node("QuantizeLinear", ["c", "y_scale", "y_zero"], ["yq"]),
        node("DequantizeLinear", ["yq", "y_scale", "y_zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 16, 16])],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
