"""What every peer's worker shares: read a job, feed samples one by one, measure, write the result.

Runs in the peer's own environment: the standard library, and numpy where feeds are read.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# A worker that needs more fails by itself, before the machine starts to end other processes.
MAX_ADDRESS_BYTES = 16 << 30
OPSET = 17  # what an older graph is raised to where a peer's per-channel weights need 13


@dataclass
class Job:
    """What a worker is to do.

    Attributes:
        source: The float32 model.
        feeds: Folder of calibration samples, one .npz each, its keys the model's inputs.
        out: Where the int8 model goes.
        variant: Which of the worker's settings.
        convolutional: True if the model's layers are mostly convolutions.
        transformer: True if it has matrix products of two activations.
        work: Folder for whatever else the tool writes.
        settings: What was used; for the table.
    """

    source: Path
    feeds: Path
    out: Path
    variant: str
    convolutional: bool
    transformer: bool
    work: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield the calibration samples from disk; one is alive at a time."""
        import numpy as np

        for path in self.sample_files():
            with np.load(path) as arrays:
                yield {name: arrays[name] for name in arrays.files}

    def sample_files(self) -> list[Path]:
        """Return the files of the samples, in order."""
        return sorted(self.feeds.glob("*.npz"))


class Reader:
    """The samples as onnxruntime's calibrators want them; a duck of CalibrationDataReader."""

    def __init__(self, job: Job) -> None:
        self._samples = job.samples()

    def get_next(self) -> dict[str, Any] | None:
        """Return the next sample, or None."""
        return next(self._samples, None)


def run(imports: list[str], work: Callable[[Job], None], packages: list[str]) -> None:
    """Do the job that the command line names, and write its result whatever happens.

    Args:
        imports: Modules that the tool needs: what the process uses after them is the base.
        work: Quantizes.
        packages: Whose versions are reported.
    """
    given = json.loads(Path(sys.argv[1]).read_text())
    result = Path(given.pop("result"))
    paths = ("source", "feeds", "out", "work")
    job = Job(**{k: Path(v) if k in paths else v for k, v in given.items()})
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    document: dict[str, Any] = {"error": None}
    for name in imports:
        importlib.import_module(name)
    document["base_mib"] = status_mib("VmRSS")
    document["import_cpu_s"] = cpu_s()
    began = time.perf_counter()
    try:
        work(job)
    except Exception as error:  # noqa: BLE001 - any failure of a tool is a row of the table
        traceback.print_exc()
        document["error"] = f"{type(error).__name__}: {first_line(error)}"
    document["wall_s"] = round(time.perf_counter() - began, 2)
    document["cpu_s"] = round(cpu_s() - document["import_cpu_s"], 2)
    document["import_cpu_s"] = round(document["import_cpu_s"], 2)
    document["peak_mib"] = peak_mib()
    document["settings"] = job.settings
    document["versions"] = {name: importlib.metadata.version(name) for name in packages}
    partial = result.with_suffix(".part")
    partial.write_text(json.dumps(document, indent=1))
    partial.replace(result)
    # Some tools leave threads behind that a normal exit would wait for.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or of its cause where it has none."""
    text = str(error).strip() or str(error.__cause__ or "").strip()
    return text.splitlines()[0][:300] if text else "no message"


def cpu_s() -> float:
    """Return CPU seconds of this process and of those that it waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak_mib() -> float:
    """Return the highest resident size of this process, or of a child if that was larger.

    VmHWM, not ru_maxrss: the latter carries over what the parent had when it started this one.
    """
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return round(max(status_mib("VmHWM"), child), 1)


def status_mib(key: str) -> float:
    """Return a size from /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit(f"no {key} in /proc/self/status: this needs Linux")


def raised_opset(source: Path, out: Path) -> bool:
    """Write the model with a newer opset; False where it is new enough or cannot be converted."""
    import onnx

    model = onnx.load(source)
    version = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version >= 13:  # noqa: PLR2004 - the first with per-channel QuantizeLinear
        return False
    onnx.save(onnx.version_converter.convert_version(model, OPSET), out)
    return True
