"""Prove a bundle: replay its golden samples here or on an emulated Arm core, by the device's code.

The bundle is unpacked into a temporary folder and ``edgekit.runtime.replay`` runs on it in a
process of its own, in both cases: a model that crashes onnxruntime must not take edgekit along.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.runtime.golden import OutputMatch
from edgekit.toolchain import emulate
from edgekit.toolchain.emulate import Emulator
from edgekit.wire import errors
from edgekit.wire.bundle import Bundle
from edgekit.wire.errors import DeviceError, EdgekitError, UsageError

HERE = Emulator(None)
TIMEOUT_S = 900.0  # 16 samples of a slow detector take a few minutes under emulation


@dataclass(frozen=True)
class Proof:
    """What one machine answered on a bundle's golden samples.

    Attributes:
        where: ``emulated cortex-a76``, or ``x86-64-vnni host``.
        host: The CPU kind that the process saw.
        matches: One an output and sample.
        seconds: Wall time. Under emulation it says nothing about the device.
    """

    where: str
    host: str
    matches: tuple[OutputMatch, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """True where every output of every sample lies within the tolerance."""
        return bool(self.matches) and all(match.within for match in self.matches)

    @property
    def exact(self) -> bool:
        """True where every output of every sample is equal bit for bit."""
        return bool(self.matches) and all(match.exact for match in self.matches)


def prove(
    bundle: Bundle, machine: Emulator, *, cpu: str | None, timeout_s: float = TIMEOUT_S
) -> Proof:
    """Replay a bundle's golden samples.

    Args:
        bundle: An open one, so its signature holds.
        machine: An emulator, or :data:`HERE`.
        cpu: The emulated core; None on this machine itself.
        timeout_s: Seconds that the replay may take.

    Raises:
        UsageError: The bundle has no golden samples.
        DeviceError: The replay crashed, did not end or said nothing that can be read.
        EdgekitError: Whatever the replay itself met, as it said it.
    """
    if not bundle.manifest.golden.count:
        raise UsageError("the bundle has no golden samples to replay", where=str(bundle.path))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekit-proof-") as scratch:
        folder = bundle.extract(Path(scratch) / "bundle")
        done = machine.run_python(
            ["-m", "edgekit.runtime.replay", str(folder)],
            cpu=cpu or emulate.DEFAULT_CPU,
            timeout_s=timeout_s,
        )
    document = _document(done.stdout, done.stderr)
    if document.get("schema") == "edgekit.error/1":
        raise _error(document)
    host = str(document["host"])
    return Proof(
        where=f"emulated {cpu}" if cpu and not machine.native else f"{host} host",
        host=host,
        matches=tuple(OutputMatch(**match) for match in document["matches"]),
        seconds=time.monotonic() - started,
    )


def cores_for(family: str, qemu: str | None, wanted: Sequence[str]) -> tuple[str, ...]:
    """Decide which cores a bundle is proven on.

    Args:
        family: The bundle's: ``arm64``.
        qemu: The core that stands for its target, where the target says.
        wanted: What the user asks for; empty leaves the choice.

    Raises:
        UsageError: The bundle is not for Arm.
    """
    if family != "arm64":
        raise UsageError(
            f"only bundles for arm64 are emulated; this one is for {family}",
            hint="leave --emulate out to replay it on this machine",
        )
    return tuple(wanted) or (qemu or emulate.DEFAULT_CPU,)


def _document(stdout: str, stderr: str) -> dict[str, Any]:
    lines = stdout.strip().splitlines()
    last = stderr.strip().splitlines()
    failure = DeviceError(
        f"the replay failed: {last[-1][:300] if last else 'it said nothing'}",
        hint="--verbose shows all that it said",
    )
    try:
        document = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise failure from error
    if not isinstance(document, dict) or "schema" not in document:
        raise failure
    return document


def _error(document: dict[str, Any]) -> EdgekitError:
    kind = getattr(errors, str(document.get("error")), DeviceError)
    if not (isinstance(kind, type) and issubclass(kind, EdgekitError)):
        kind = DeviceError
    return kind(
        str(document.get("message")), hint=document.get("hint"), where=document.get("where")
    )
