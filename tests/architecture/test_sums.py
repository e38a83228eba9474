"""Means of floats are the same under every Python.

Since 3.12 the built-in ``sum`` of floats rounds otherwise than before: a mean taken with it differs
in its last digit between two Pythons, and so does the bundle. ``math.fsum`` is exact in all.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "edgekit"
# What these compute stands in bundles.
FOLDERS = ("runtime", "toolchain/metrics", "toolchain/quantize")


def means(path: Path) -> list[str]:
    """Find ``sum(…) / …``."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            call = node.left
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "sum":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def test_no_mean_is_taken_with_the_built_in_sum() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    assert [place for path in files for place in means(path)] == []
