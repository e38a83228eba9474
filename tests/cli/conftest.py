"""Builds in tests: in this process, as a user starts them, or in a terminal; small models."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from edgekit.cli.main import run
from edgekit.runtime.host import host_kind
from edgekit.toolchain.api import find_recipe
from edgekit.toolchain.cache import Cache
from edgekit.toolchain.events import ignore
from edgekit.toolchain.project import packaged_folder
from edgekit.toolchain.sources import fetch
from edgekit.toolchain.targets import list_targets
from edgekit.wire.canonical import sha256_file
from edgekit.wire.signing import generate_key

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on its standard output."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def bundle(self) -> dict[str, Any]:
        """The only bundle of ``edgekit build --json``."""
        (bundle,) = self.document["bundles"]
        return dict(bundle)


@pytest.fixture
def edgekit(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process."""

    def go(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return go


@pytest.fixture(scope="session")
def command() -> list[str]:
    """How a user starts edgekit, in a process of its own."""
    return [sys.executable, "-m", "edgekit"]


@pytest.fixture(scope="session")
def fresh(command: list[str]) -> Callable[..., Ran]:
    """Run a command in a process of its own."""

    def go(
        *arguments: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        under: tuple[str, ...] = (),
    ) -> Ran:
        done = subprocess.run(
            [*under, *command, *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return go


@pytest.fixture(scope="session")
def in_terminal(command: list[str]) -> Callable[..., Ran]:
    """Run a command in a terminal; what it shows comes as ``out``."""

    def go(*arguments: object, cwd: Path, env: Mapping[str, str] | None = None) -> Ran:
        ours, its = pty.openpty()
        process = subprocess.Popen(
            [*command, *(str(argument) for argument in arguments)],
            stdin=its,
            stdout=its,
            stderr=its,
            cwd=cwd,
            env={**os.environ, "TERM": "xterm-256color", **(env or {})},
        )
        os.close(its)
        shown = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
        return Ran(process.wait(), shown.decode(), "")

    return go


@pytest.fixture(scope="session")
def downloads(shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the data of digits-cnn in it and nothing else; for tests marked ``network``."""
    recipe = find_recipe("digits-cnn", ROOT)
    source = recipe.calibration[0].source
    assert source is not None
    file = fetch(
        source, cache=Cache(shared_cache), folder=recipe.folder, on_event=ignore, offline=False
    )
    stage = file.parents[2]
    folder = tmp_path_factory.mktemp("downloads")
    shutil.copytree(stage, folder / "stages" / stage.parent.name / stage.name)
    return folder


@pytest.fixture
def cold_cache(downloads: Path, tmp_path: Path) -> Path:
    """A cache of this test alone, in which only the data of digits-cnn is."""
    return Path(shutil.copytree(downloads, tmp_path / "cache"))


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One key for builds that must come out the same."""
    path = tmp_path_factory.mktemp("key") / "dev.pem"
    path.write_bytes(generate_key("dev").to_pem())
    path.chmod(0o600)
    return path


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """A project of its own with the recipe digits-cnn."""
    models = tmp_path / "project" / "models"
    models.mkdir(parents=True)
    for name in ("digits-cnn.toml", "digits-cnn.onnx"):
        shutil.copy(ROOT / "models" / name, models)
    return models.parent


def leave_out(reason: str) -> NoReturn:
    """Leave a test out, which under CI=true is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"left out under CI: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def host_target() -> str:
    """The target that stands for this host, where decisions rest on timings."""
    kind = host_kind()
    if kind not in list_targets([packaged_folder("targets")]):
        leave_out(f"no target stands for this kind of host: {kind}")
    return kind


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a file system in memory, with options: ``size=1m``, ``ro``."""
    made: list[Path] = []

    def mount(name: str, *options: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        line = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(line, capture_output=True, check=False).returncode:
            leave_out("only root can mount a small file system")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass(frozen=True)
class Own:
    """A model of a user's own with samples beside it: ``x: float32[1, 2, 8, 8]`` to ``y``."""

    folder: Path

    @property
    def model(self) -> Path:
        """The .onnx file."""
        return self.folder / "own.onnx"

    @property
    def data(self) -> Path:
        """The folder of samples."""
        return self.folder / "samples"

    def save(
        self,
        *,
        opset: int = 17,
        op: str = "Relu",
        domain: str = "",
        shape: tuple[int | str, ...] = (1, 2, 8, 8),
    ) -> None:
        """Write the model: a convolution, an operator, a mean."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        random = np.random.default_rng(1)
        weights = random.normal(size=(16, 2, 3, 3)).astype(np.float32)
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
                helper.make_node(op, ["c"], ["r"], name="odd", domain=domain),
                helper.make_node("GlobalAveragePool", ["r"], ["y"], name="mean"),
            ],
            "own",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 16, 1, 1])],
            [numpy_helper.from_array(weights, "w")],
        )
        opsets = [helper.make_opsetid("", opset)]
        opsets += [helper.make_opsetid(domain, 1)] if domain else []
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(self.model))

    def fill(self, count: int, make: Callable[[int], np.ndarray[Any, Any]] | None = None) -> None:
        """Write samples; normal noise, each another, unless told."""
        self.data.mkdir(exist_ok=True)
        for index in range(count):
            random = np.random.default_rng(index)
            x = make(index) if make else random.normal(size=(1, 2, 8, 8)).astype(np.float32)
            np.savez(self.data / f"{index:03d}.npz", x=x)


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """A model and samples that build: 40 of them."""
    made = Own(tmp_path / "own")
    made.folder.mkdir()
    made.save()
    made.fill(40)
    return made


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, str]]:
    """Tell what a folder holds: paths and digests."""

    def look(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return look
