"""Size is a number in review: a file that one cannot read in one sitting gets split."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 400
# Path: the reason. At best empty.
LONGER: dict[str, str] = {}


def lengths() -> dict[str, int]:
    folders = ("edgekit", "tools", "models", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
    }


def test_no_file_is_over_400_lines() -> None:
    found = lengths()
    assert len(found) > 50
    assert {name: n for name, n in found.items() if n > LIMIT and name not in LONGER} == {}


def test_no_exception_is_stale() -> None:
    found = lengths()
    assert [name for name in LONGER if found.get(name, 0) <= LIMIT] == []
