"""What the machine that runs this is: its CPU kind and how it multiplies int8."""

from __future__ import annotations

import functools
import platform
from enum import StrEnum
from pathlib import Path


class Arithmetic(StrEnum):
    """How a CPU multiplies uint8 activations with int8 weights."""

    EXACT = "exact"  # 32-bit accumulation: Arm, and x86 with VNNI
    SATURATING = "saturating"  # x86 without VNNI: vpmaddubsw saturates 16-bit pair sums


def classify_cpu(machine: str, flags: frozenset[str]) -> tuple[str, Arithmetic]:
    """Name a CPU kind as the targets do.

    Args:
        machine: ``platform.machine()``.
        flags: The ``flags`` (x86) or ``Features`` (Arm) of /proc/cpuinfo.

    Returns:
        The kind (``x86-64-vnni``, ``x86-64-avx2``, ``arm64`` or the machine's own name) and its
        int8 arithmetic.
    """
    if machine in ("x86_64", "AMD64"):
        if flags & {"avx512_vnni", "avx_vnni"}:
            return "x86-64-vnni", Arithmetic.EXACT
        return "x86-64-avx2", Arithmetic.SATURATING
    if machine in ("aarch64", "arm64"):
        return "arm64", Arithmetic.EXACT
    return machine or "unknown", Arithmetic.EXACT


@functools.cache
def _host() -> tuple[str, Arithmetic]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        cpuinfo = ""
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
            break
    return classify_cpu(platform.machine(), frozenset(flags))


def host_kind() -> str:
    """Return this machine's CPU kind."""
    return _host()[0]


def host_arithmetic() -> Arithmetic:
    """Return how this machine multiplies int8."""
    return _host()[1]
