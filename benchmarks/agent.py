"""All that the agent promises: memory, CPU, engine, HTTP, outbox, slots, a day of its life.

Runs the parts one after the other; ``--whole`` with a thousand kills of the outbox, not fifty.
Each is a benchmark of its own and writes docs/benchmarks/agent_*.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
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
    options = parser.parse_args()
    missed = []
    for name, short in PARTS.items():
        print(f"== {name}", flush=True)
        line = [sys.executable, str(FOLDER / f"{name}.py"), *(() if options.whole else short)]
        if subprocess.run(line, check=False).returncode:
            missed.append(name)
    print(f"missed or failed: {', '.join(missed) or 'none'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
