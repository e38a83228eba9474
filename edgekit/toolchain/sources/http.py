"""``http:`` is ``https:`` for a server on this machine; any other address is refused."""

from __future__ import annotations

from edgekit.toolchain.sources.https import describe, fetch

SYNTAX = "http://127.0.0.1[:PORT]/PATH[!path/in/archive]"
EXAMPLE = "http://127.0.0.1:8000/detector.onnx"

__all__ = ["EXAMPLE", "SYNTAX", "describe", "fetch"]
