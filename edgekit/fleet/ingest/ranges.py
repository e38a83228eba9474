"""Sets of whole numbers as runs without a gap: pure, small where numbers come in order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A set of whole numbers from 0 on.

    Args:
        runs: First and last of each run, ascending, with a gap between any two.
    """

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self.extend(runs)

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._firsts, number) - 1
        return place >= 0 and number <= self._lasts[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __len__(self) -> int:
        """Return how many runs there are."""
        return len(self._firsts)

    @property
    def count(self) -> int:
        """How many numbers are in it."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    @property
    def top(self) -> int:
        """The largest number in it; -1 where it is empty."""
        return self._lasts[-1] if self._lasts else -1

    def add(self, number: int) -> bool:
        """Put a number in, and tell whether it is new."""
        # The first run that ends right before the number, or later.
        place = bisect_left(self._lasts, number - 1)
        if place == len(self._lasts) or self._firsts[place] > number + 1:
            self._firsts.insert(place, number)
            self._lasts.insert(place, number)
            return True
        if self._firsts[place] <= number <= self._lasts[place]:
            return False
        if self._firsts[place] == number + 1:
            self._firsts[place] = number
            return True
        self._lasts[place] = number
        if place + 1 < len(self._firsts) and self._firsts[place + 1] == number + 1:
            self._lasts[place] = self._lasts.pop(place + 1)
            self._firsts.pop(place + 1)
        return True

    def take_lowest(self, runs: int) -> list[tuple[int, int]]:
        """Take the lowest runs out."""
        taken = list(zip(self._firsts[:runs], self._lasts[:runs], strict=True))
        del self._firsts[:runs], self._lasts[:runs]
        return taken

    def extend(self, runs: Iterable[tuple[int, int]]) -> None:
        """Put runs in, ascending, all of them above what is in it."""
        for first, last in runs:
            self._firsts.append(first)
            self._lasts.append(last)

    def copy(self) -> Ranges:
        """Return another set of the same numbers."""
        return Ranges(self)
