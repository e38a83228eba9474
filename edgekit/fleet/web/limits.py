"""How often somebody may try: a bucket of tries for each address and each name."""

from __future__ import annotations

from collections import OrderedDict

_MOST_KEYS = 10_000


class Limiter:
    """Counts tries.

    Args:
        burst: Tries that are free at first.
        refill_s: Seconds until one more is.
    """

    def __init__(self, burst: int, refill_s: float) -> None:
        self._burst = burst
        self._refill_s = refill_s
        self._tries: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, now_s: float) -> float:
        """Take a try; return 0 where there was one, else the seconds until there is.

        Args:
            key: Who tries.
            now_s: Monotonic.
        """
        left, at_s = self._tries.pop(key, (float(self._burst), now_s))
        left = min(self._burst, left + (now_s - at_s) / self._refill_s)
        wait_s = 0.0 if left >= 1 else (1 - left) * self._refill_s
        self._tries[key] = (left if wait_s else left - 1, now_s)
        # Whoever has tried least lately is forgotten first: a flood of addresses fills no memory.
        while len(self._tries) > _MOST_KEYS:
            self._tries.popitem(last=False)
        return wait_s

    def forget(self, key: str) -> None:
        """Give back all tries of somebody who has got in."""
        self._tries.pop(key, None)
