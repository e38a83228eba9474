"""The peers: their environments, their settings for a model, and running one of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant_peers.inputs import Prepared

from edgekit.toolchain.process import Finished, run
from edgekit.wire.errors import BuildError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
INSTALL_TIMEOUT_S = 3600.0
NEEDS_TORCH = ("olive", "nncf", "optimum")


@dataclass(frozen=True)
class Peer:
    """A tool with one way of using it.

    Attributes:
        name: As in the table.
        script: Its worker, in this folder.
        environment: Its requirements file, without the suffix.
        title: What it is.
    """

    name: str
    script: str
    environment: str
    title: str

    def variants(self, model: Prepared) -> list[str]:
        """Return the settings that are tried on a model; the best counts."""
        if self.name == "ort-default":
            return ["default"]
        if self.name == "nncf":
            return ["published", "opset17"] if model.opset < 13 else ["published"]  # noqa: PLR2004
        if self.name == "optimum":
            return ["static" if model.convolutional else "dynamic"]
        if model.convolutional:
            return ["minmax", "percentile"]
        return ["dynamic", "dynamic-matmul"] if self.name == "ort" else ["dynamic"]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "ort-default",
            "with_onnxruntime.py",
            "onnxruntime",
            "onnxruntime, quantize_static as is",
        ),
        Peer("ort", "with_onnxruntime.py", "onnxruntime", "onnxruntime, its best-known settings"),
        Peer("olive", "with_olive.py", "olive", "Olive, u8 activations, per channel"),
        Peer("nncf", "with_nncf.py", "nncf", "NNCF, preset MIXED"),
        Peer("optimum", "with_optimum.py", "optimum", "Optimum, avx512_vnni"),
    )
}


def bench_folder() -> Path:
    """Return where environments and the peers' results are kept between runs."""
    import platformdirs

    given = os.environ.get("EDGEKIT_BENCH_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("edgekit-bench"))


def environment_python(name: str, folder: Path) -> Path:
    """Return the Python of a peer's environment; make the environment first if it is not there.

    Raises:
        BuildError: pip failed, or there is no CPU build of torch.
    """
    pins = HERE / "requirements" / f"{name}.txt"
    key = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = folder / "environments" / f"{name}-{key}"
    python, ready = place / "bin" / "python", place / "ready"
    if ready.exists():
        return python
    print(f"  making the environment of {name}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    if name in NEEDS_TORCH:
        # Before the others, so that no CUDA build comes with them.
        done = checked([sys.executable, str(ROOT / "tools" / "install_torch.py"), str(python)])
        if not json.loads(done.output.splitlines()[-1])["version"]:
            raise BuildError(f"no CPU build of torch for {name}: {done.tail()}")
    checked([str(python), "-m", "pip", "install", "-q", "-r", str(pins)])
    ready.touch()
    return python


def checked(command: list[str]) -> Finished:
    done = run(command, timeout_s=INSTALL_TIMEOUT_S, missing="")
    if done.code:
        raise BuildError(f"{Path(command[0]).name} ended with {done.code}: {done.tail()}")
    return done


def quantize(peer: Peer, variant: str, model: Prepared, folder: Path, timeout_s: float) -> Path:
    """Return the folder of a peer's result: result.json, and out.onnx if it made one.

    Raises:
        BuildError: The peer's environment cannot be made.
    """
    place = folder / "results" / result_key(peer, variant, model)
    if (place / "result.json").exists():
        return place
    python = environment_python(peer.environment, folder)
    work = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    (work / "scratch").mkdir(parents=True)
    job = {
        "source": str(model.source),
        "feeds": str(model.feeds),
        "out": str(work / "out.onnx"),
        "variant": variant,
        "convolutional": model.convolutional,
        "transformer": model.transformer,
        "work": str(work / "scratch"),
        "result": str(work / "result.json"),
    }
    (work / "job.json").write_text(json.dumps(job))
    ended = in_process(
        [str(python), str(HERE / peer.script), str(work / "job.json")], work, timeout_s
    )
    shutil.rmtree(work / "scratch")
    (work / "result.json").write_text(json.dumps(outcome(ended, work), indent=1))
    if place.exists():
        shutil.rmtree(place)
    if ended == "timeout":
        # It may do better on a less busy machine: asked again the next time.
        place = place.with_name(f"{place.name}-timeout")
        shutil.rmtree(place, ignore_errors=True)
    work.replace(place)
    return place


def in_process(command: list[str], work: Path, timeout_s: float) -> str:
    """Run a worker; return "" or how it ended otherwise."""
    environment = {
        **os.environ,
        "ORT_DISABLE_TELEMETRY": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
        "CI": "true",  # the switch of NNCF's telemetry
        "HF_HUB_OFFLINE": "1",
        "TMPDIR": str(work / "scratch"),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    began = time.perf_counter()
    try:
        done = run(command, timeout_s=timeout_s, missing="", cwd=work / "scratch", env=environment)
    except BuildError:
        (work / "log.txt").write_text(f"stopped after {time.perf_counter() - began:.0f} s")
        return "timeout"
    (work / "log.txt").write_text(done.output)
    if done.code < 0:
        return f"ended by signal {-done.code}"
    return f"exit code {done.code}: {done.tail(1)}" if done.code else ""


def outcome(ended: str, work: Path) -> dict[str, Any]:
    """Put the worker's own result and the way it ended together."""
    result: dict[str, Any] = {"error": None}
    if (work / "result.json").exists():
        result = json.loads((work / "result.json").read_text())
    if ended and not result["error"]:
        result["error"] = ended
    elif not result["error"] and not (work / "out.onnx").exists():
        result["error"] = "it ended well and wrote no model"
    return result


def result_key(peer: Peer, variant: str, model: Prepared) -> str:
    """Digest of all that a peer's result rests on."""
    digest = hashlib.sha256()
    for name in (peer.script, "harness.py", f"requirements/{peer.environment}.txt"):
        digest.update((HERE / name).read_bytes())
    for text in (variant, model.source_sha256, model.feeds_sha256, sys.version):
        digest.update(text.encode())
    return f"{model.name}-{peer.name}-{variant}-{digest.hexdigest()[:16]}"
