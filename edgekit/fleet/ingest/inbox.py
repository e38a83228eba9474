"""What came and is not yet read: bounded, so that a slow disk stops the reading, not the memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

MAX_BYTES = 64 << 20
MAX_MESSAGES = 20_000


@dataclass(frozen=True)
class Arrived:
    """One message as it came.

    Attributes:
        topic: Where from.
        payload: What.
        received_s: Unix time of the server.
        is_retained: The broker had kept it: it says nothing of now.
    """

    topic: str
    payload: bytes
    received_s: float
    is_retained: bool


class Inbox:
    """A queue between the thread that reads the socket and the one that stores.

    Args:
        max_bytes: Of all payloads.
        max_messages: At once.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES) -> None:
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self._items: deque[Arrived] = deque()
        self._bytes = 0
        self._is_open = True
        self._changed = threading.Condition()

    def put(self, item: Arrived) -> bool:
        """Put a message in, and wait where there is no place; False once it is closed."""
        with self._changed:
            while self._is_open and (
                len(self._items) >= self._max_messages
                or (self._items and self._bytes + len(item.payload) > self._max_bytes)
            ):
                self._changed.wait()
            if not self._is_open:
                return False
            self._items.append(item)
            self._bytes += len(item.payload)
            if len(self._items) == 1:
                self._changed.notify_all()
            return True

    def take(self, timeout_s: float, most: int = 200) -> list[Arrived]:
        """Take messages out, oldest first; none where none came in time."""
        with self._changed:
            if not self._items and self._is_open:
                self._changed.wait(timeout_s)
            taken = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._bytes -= sum(len(item.payload) for item in taken)
            if taken:
                self._changed.notify_all()
            return taken

    def close(self) -> None:
        """Let nothing in any more, and nobody wait."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)
