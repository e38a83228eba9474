"""Kill a device at every point of its slots' life: afterwards the old bundle runs, or the new one.

A device lives through eight orders: bundles that stand their trial, one whose download is cut, one
that hangs, crashes, is slow, fails its self-test. Its process is ended (os._exit in a child) before
and after every write, fsync, rename, unlink and folder operation, and in the middle of every write.
Then the same with the power cut, where what was not synced is lost, kept or torn by chance. Each
time the slots are opened again, checked, and have to take one more bundle all the way to confirmed.
Writes docs/benchmarks/agent_slots.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from slot_crashes.story import LAST, STORY, make_releases  # noqa: E402 - found by the line above
from slot_crashes.trials import RecordedLife, cut_power, kill_process  # noqa: E402

import edgekit  # noqa: E402
from edgekit.runtime.host import host_kind  # noqa: E402

LEAST_POINTS = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="Power cuts at each point.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "benchmarks" / "agent_slots.json"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as folder:
        base = Path(folder)
        releases = make_releases(base, [chapter.release for chapter in (*STORY, LAST)])
        (base / "recorded").mkdir()
        recorded = RecordedLife(base / "recorded", releases)
        points = range(len(recorded.points))
        kills = run("killed", [(at, 0) for at in points], base, recorded, kill)
        cuts = [(at, at * 1000 + seed) for at in points for seed in range(arguments.seeds)]
        power = run("power cut", cuts, base, recorded, cut)
    document = {
        "schema": "edgekit.bench.slots/1",
        "where": f"{host_kind()} host, {os.cpu_count()} cores, measured here",
        "versions": {"edgekit": edgekit.__version__, "python": platform.python_version()},
        "kernel": platform.release(),
        "orders": len(STORY),
        "commits": len(recorded.states) - 1,
        "crash_points": len(recorded.points),
        "points_by_name": dict(
            sorted(collections.Counter(point.name for point in recorded.points).items())
        ),
        "killed": kills,
        "power_cut": power,
    }
    arguments.out.write_text(json.dumps(document, indent=2) + "\n")
    good = len(points) >= LEAST_POINTS and not kills["failures"] and not power["failures"]
    return 0 if good else 1


def run(
    name: str,
    cases: list[tuple[int, int]],
    base: Path,
    recorded: RecordedLife,
    once: Callable[[RecordedLife, int, int, Path], None],
) -> dict[str, Any]:
    failures = []
    began = time.perf_counter()
    for at, seed in cases:
        folder = Path(tempfile.mkdtemp(dir=base))
        try:
            once(recorded, at, seed, folder)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a result
            point = recorded.points[at]
            failures.append({"point": at, "name": point.name, "seed": seed, "error": repr(error)})
            print(f"{name} at {at}, {point.name} {point.path.name}: {error!r}", file=sys.stderr)
        shutil.rmtree(folder)
    wall_s = time.perf_counter() - began
    print(f"{name}: {len(cases)} times, {len(failures)} failures, {wall_s:.0f} s", file=sys.stderr)
    return {"runs": len(cases), "failures": failures, "wall_s": round(wall_s, 1)}


def kill(recorded: RecordedLife, at: int, _seed: int, folder: Path) -> None:
    kill_process(recorded, at, folder)


def cut(recorded: RecordedLife, at: int, seed: int, folder: Path) -> None:
    cut_power(recorded, at, seed, folder)


if __name__ == "__main__":
    sys.exit(main())
