"""All that the agent promises: memory, CPU, engine, HTTP, outbox, slots, a day of its life.

Runs the parts one after the other; ``--whole`` with a thousand kills of the outbox, not fifty.
Each is a benchmark of its own and writes docs/benchmarks/agent_*.json; the plot agent.svg shows
what these hold, and is all that ``--plot`` makes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from agent_load import plot

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "docs" / "benchmarks"
# What shortens each part, in the order in which they need a quiet machine.
PARTS: dict[str, tuple[str, ...]] = {
    "agent_pipeline": (),
    "agent_http": (),
    "agent_idle": (),
    "agent_slots": ("--seeds", "1"),
    "agent_outbox": ("--kills", "50"),
    "agent_soak": ("--hours", "4"),
}


def main() -> int:
    """Run every part; the exit code is 1 where one misses its goals or fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="an hour instead of a quarter of one")
    parser.add_argument("--plot", action="store_true", help="measure nothing")
    options = parser.parse_args()
    missed = [] if options.plot else measure(whole=options.whole)
    print(f"plotted: {', '.join(plot.draw(RESULTS)) or 'nothing'}")
    print(f"missed or failed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


def measure(*, whole: bool) -> list[str]:
    """Run every part, and return those that missed a goal or failed."""
    missed = []
    for name, short in PARTS.items():
        print(f"== {name}", flush=True)
        line = [sys.executable, str(FOLDER / f"{name}.py"), *(() if whole else short)]
        if subprocess.run(line, check=False).returncode:
            missed.append(name)
    return missed


if __name__ == "__main__":
    sys.exit(main())
