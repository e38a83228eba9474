"""What was checked, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass, field

_SHOWN = 3


@dataclass
class Checks:
    """A list of checks of one host.

    Attributes:
        host: Name and version.
        rows: What was checked, and what was found wrong; empty where it held.
    """

    host: str
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, *wrong: object) -> None:
        """Note a check.

        Args:
            what: A sentence that should be true.
            wrong: What speaks against it; nothing where it holds.
        """
        rest = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        self.rows.append((what, "; ".join(map(str, wrong[:_SHOWN])) + rest))

    def holds(self, what: str, condition: object, wrong: object = "it does not") -> None:
        """Note a check that one condition decides."""
        self.add(what, *(() if condition else (wrong,)))

    @property
    def failed(self) -> int:
        """How many did not hold."""
        return sum(bool(wrong) for _, wrong in self.rows)

    def show(self) -> str:
        """Return the table."""
        lines = [f"{self.host}: {len(self.rows) - self.failed} of {len(self.rows)} hold"]
        for what, wrong in self.rows:
            lines.append(f"  {'✗' if wrong else '✓'} {what}")
            lines += [f"      {wrong}"] if wrong else []
        return "\n".join(lines)
