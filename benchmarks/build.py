"""Build every packaged recipe for five targets: CPU time, rebuild, equal bytes, what ships.

Downloads are taken from the user's cache (fetched first if missing) and do not count. Each target
is built in a folder with a cache of its own, and once more in another folder with another cache,
so that the bytes can be compared: that second build has no network at all where the kernel lets
us take it away (unshare). Writes docs/benchmarks/build.json.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.runtime.host import host_kind
from edgekit.toolchain.cache import default_root

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("rpi5", "rpi4", "rk3588", "jetson-orin-nano", "x86-64-vnni")
FETCHED = ("download", "source", "digest")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=TARGETS)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "build.json")
    arguments = parser.parse_args()
    rows = []
    for target in arguments.targets:
        with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
            row = measure(target, Path(folder))
        rows.append(row)
        print(
            f"{target:<18} exit {row['exit_code']}  {row['cpu_s']:.0f} CPU s  "
            f"{row['wall_s']:.0f} s  again {row['rebuild_s']:.2f} s  "
            f"same bytes {row['same_bytes']}  network cut {row['network_cut']}",
            file=sys.stderr,
        )
    document = {
        "schema": "edgekit.bench.build/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("edgekit", "onnx", "onnxruntime", "numpy", "torch")
        },
        "targets": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    return int(any(failed(row) for row in rows))


def failed(row: dict[str, Any]) -> bool:
    cut = row["network_cut"]
    return bool(row["exit_code"] or not row["same_bytes"] or (cut and cut["exit_code"]))


def measure(target: str, folder: Path) -> dict[str, Any]:
    first, second = folder / "a", folder / "b"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    code, document = build(target, first)
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    build(target, first)
    rebuild_s = time.perf_counter() - began
    second.mkdir(parents=True)
    if (first / "edgekit.lock").exists():
        # What a timing decided is an input of the second build, as it is in a repository.
        shutil.copy(first / "edgekit.lock", second)
    cut = network_cutter()
    second_code, _ = build(target, second, cut)
    same_bytes = digests(first) == digests(second) and bool(digests(first))
    return {
        "target": target,
        "exit_code": code,
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_s": round(wall_s, 1),
        "rebuild_s": round(rebuild_s, 2),
        "same_bytes": same_bytes,
        "network_cut": {"exit_code": second_code} if cut else None,
        "bundles": [summary(bundle) for bundle in document["bundles"]],
    }


def network_cutter() -> list[str]:
    """The command that runs another one without a network, or nothing where it is not allowed."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    command = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--net", "--map-root-user"]
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else []


def build(target: str, project: Path, prefix: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
    cache = project / "cache"
    if not cache.exists():
        link_downloads(cache)
    project.mkdir(parents=True, exist_ok=True)
    finished = subprocess.run(
        [*prefix, sys.executable, "-m", "edgekit", "build", "--target", target, "--json"],
        cwd=project,
        env={**os.environ, "EDGEKIT_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        check=False,
    )
    return finished.returncode, json.loads(finished.stdout)


def link_downloads(cache: Path) -> None:
    """Give a new cache what was fetched before, as hard links; nothing that was computed."""
    for kind in FETCHED:
        for place in (default_root() / "stages" / kind, default_root() / kind):
            if place.is_dir():
                target = cache / place.relative_to(default_root())
                shutil.copytree(place, target, copy_function=os.link)


def digests(project: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project / "dist").glob("*.ekb"))
    }


def summary(bundle: dict[str, Any]) -> dict[str, Any]:
    if "precision" not in bundle:
        return {key: bundle.get(key) for key in ("model", "status", "error")}
    fp32 = {m["metric"]: m["value"] for m in bundle["fp32"]}
    return {
        "model": bundle["model"],
        "ships": bundle["candidate"],
        "reason": bundle["reason"],
        "latency_ratio": round(bundle["latency_ratio"], 3),
        "latency_ratio_kind": bundle["latency_ratio_kind"],
        "metrics": {
            m["metric"]: {"fp32": fp32.get(m["metric"]), "shipped": m["value"], "n": m.get("n")}
            for m in bundle["measurements"]
            if m["kind"] == "measured"
        },
    }


if __name__ == "__main__":
    sys.exit(main())
