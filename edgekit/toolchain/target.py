"""Targets: what a piece of hardware can do, as frozen facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Cpu:
    """The processor that runs a model.

    Attributes:
        arch: ``arm64``, ``x86-64``, ``armv7``, ``riscv64``.
        core: The core's name: ``Cortex-A76``.
        cores: Cores of that kind.
        clock_mhz: Highest sustained clock.
        features: Instruction set extensions that matter here: ``neon``, ``dotprod``, ``vnni``.
        fp32_gflops: Peak of all cores together, 1 multiply-add = 2 operations.
        int8_gops: The same for int8 products with 32-bit sums.
        qemu: The ``-cpu`` of qemu-user that stands for it, if there is one.
    """

    arch: str
    core: str
    cores: int
    clock_mhz: int
    features: tuple[str, ...]
    fp32_gflops: float
    int8_gops: float
    qemu: str | None = None


@dataclass(frozen=True)
class Memory:
    """Main memory and the last cache in front of it.

    Attributes:
        size_mib: Size of main memory.
        bandwidth_mib_s: Peak of its interface: transfers a second times width.
        cache_kib: Last level of cache that the cores named above share; 0 where unknown.
    """

    size_mib: int
    bandwidth_mib_s: float
    cache_kib: int = 0


@dataclass(frozen=True)
class Runtime:
    """What the device's software takes.

    Attributes:
        onnxruntime_max: Newest onnxruntime that installs there: ``1.31``.
        opset_max: Newest default operator set that it loads.
        python: The system's Python: ``3.11``.
        threads: Intra-op threads that the agent uses.
        static_shapes: True where every dimension must be known at build time.
    """

    onnxruntime_max: str
    opset_max: int
    python: str
    threads: int
    static_shapes: bool = False


@dataclass(frozen=True)
class Quantization:
    """How models become int8 for this target.

    Attributes:
        activation: Type of activations.
        weight: Type of weights.
        per_channel: One scale an output channel for weights.
        reduce_range: Weights use 7 bits (x86 without VNNI saturates otherwise).
        static_ops: Layers that a static plan quantizes.
        between_ops: Operators that can run on integers between such layers.
        dynamic_ops: Operators that a dynamic plan quantizes.
    """

    activation: Literal["uint8", "int8"]
    weight: Literal["int8"]
    per_channel: bool
    reduce_range: bool
    static_ops: tuple[str, ...]
    between_ops: tuple[str, ...]
    dynamic_ops: tuple[str, ...]


@dataclass(frozen=True)
class Accelerator:
    """An NPU, GPU or DSP on the board, and whether edgekit uses it."""

    name: str
    int8_tops: float
    used: bool
    note: str


@dataclass(frozen=True)
class Target:
    """One kind of hardware.

    Attributes:
        name: The file's name: ``rpi5``.
        title: For people: ``Raspberry Pi 5``.
        family: Targets between which bundles agree: ``arm64``, ``x86-64-vnni``.
        refused: Why nothing can be built for it, or None.
    """

    name: str
    title: str
    family: str
    cpu: Cpu
    memory: Memory
    runtime: Runtime
    quantization: Quantization
    accelerator: Accelerator | None = None
    refused: str | None = None
