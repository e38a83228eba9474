"""Measure what an installation weighs and what the command line costs to start.

Prints one JSON document; exits with 1 where a limit is exceeded. Installs the repository as a wheel
into fresh environments, at the versions of constraints.txt.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS_MB = {"": 220.0, "build": 350.0}  # MB of 10^6 bytes
HELP_LIMIT_S = 0.3
HELP_RUNS = 7
SHOWN = 12


def main() -> int:
    """Measure both installations.

    Returns:
        The exit code.
    """
    installs = []
    with tempfile.TemporaryDirectory(prefix="edgekit-install-") as scratch:
        for extra, limit in LIMITS_MB.items():
            folder = Path(scratch) / (extra or "device")
            print(f"  installing edgekit{f'[{extra}]' if extra else ''}", file=sys.stderr)
            install(folder, extra)
            installs.append(measure(folder, extra, limit))
    seconds = installs[0]["help_cpu_s"]
    ok = all(found["ok"] for found in installs)
    document = {
        "schema": "edgekit.check-install/1",
        "ok": ok,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "help_cpu_s": seconds,
        "help_limit_s": HELP_LIMIT_S,
        "installs": installs,
    }
    print(json.dumps(document, indent=2))
    return 0 if ok else 1


def install(folder: Path, extra: str) -> None:
    """Install into a new environment that holds nothing else, not even pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install"),
            *("-qq", "-c", str(ROOT / "constraints.txt")),
            f"{ROOT}[{extra}]" if extra else str(ROOT),
        ],
        check=True,
    )


def measure(folder: Path, extra: str, limit_mb: float) -> dict[str, Any]:
    """Weigh an installation and time its help."""
    (site,) = folder.glob("lib/python*/site-packages")
    total_mb = size_bytes(site) / 1e6
    seconds = min(help_cpu_s(folder / "bin/edgekit") for _ in range(HELP_RUNS))
    parts = sorted(
        ((path.name, size_bytes(path) / 1e6) for path in site.iterdir() if path.is_dir()),
        key=lambda part: -part[1],
    )
    return {
        "extra": extra,
        "size_mb": round(total_mb, 1),
        "limit_mb": limit_mb,
        "help_cpu_s": round(seconds, 3),
        "ok": total_mb <= limit_mb and seconds <= HELP_LIMIT_S,
        "largest_mb": {name: round(size, 1) for name, size in parts[:SHOWN]},
        "versions": versions(folder / "bin/python"),
    }


def size_bytes(path: Path) -> int:
    """Return what files take on disk, in whole blocks, as du counts them."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_blocks * 512 for file in files)


def help_cpu_s(edgekit: Path) -> float:
    """Return the CPU seconds, user and system, of one ``edgekit --help``."""
    with Path(os.devnull).open("wb") as nowhere:
        child = subprocess.Popen([str(edgekit), "--help"], stdout=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{edgekit} --help ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def versions(python: Path) -> dict[str, str]:
    """Return the versions of all installed distributions."""
    script = (
        "import importlib.metadata as m, json\n"
        "print(json.dumps({d.name: d.version for d in m.distributions()}, sort_keys=True))"
    )
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
