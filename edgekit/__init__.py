"""edgekit: from a training framework to a fleet of edge devices, under one acceptance contract.

>>> import edgekit
>>> result = edgekit.build(["digits-cnn"], target="rpi5")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.toolchain.api import build as build
    from edgekit.toolchain.quantize_file import quantize as quantize

__version__ = "0.1.0"
__all__ = ["__version__", "build", "quantize"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the module protocol of PEP 562
    # Lazy: `import edgekit` on a device must not load the toolchain.
    if name == "build":
        from edgekit.toolchain.api import build

        return build
    if name == "quantize":
        from edgekit.toolchain.quantize_file import quantize

        return quantize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
