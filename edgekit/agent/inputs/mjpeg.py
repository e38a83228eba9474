"""Cut a stream of JPEG pictures, or of raw ones, into frames of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

_START = b"\xff\xd8\xff"
_SCAN, _END = 0xDA, 0xD9
# Markers that stand alone: TEM, RST0 to RST7.
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})


class MjpegFrames:
    """Finds whole JPEG pictures in a stream.

    Segments are walked by their lengths, so that the end of a thumbnail inside of a header does not
    end the picture (ITU-T T.81, annex B). What is no picture is skipped.

    Args:
        max_bytes: A longer picture is skipped.

    Attributes:
        skipped_bytes: Of what was no picture.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._at = 0  # how far the present picture has been walked
        self._scan_at = 0  # how far the coded data behind that has been searched
        self.skipped_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take bytes and yield the pictures that are whole."""
        self._data += chunk
        while self._begin():
            end = self._walk()
            if end is None:
                if len(self._data) > self._max_bytes:
                    self._skip(len(_START))
                    continue
                return
            if end < 0:
                self._skip(len(_START))
                continue
            frame = bytes(self._data[:end])
            del self._data[:end]
            self._at = self._scan_at = 0
            if len(frame) <= self._max_bytes:
                yield frame

    def _begin(self) -> bool:
        """Skip to the start of a picture; False where there is none yet."""
        start = self._data.find(_START)
        if start < 0:
            # The last two bytes may be the beginning of one.
            self._skip(max(0, len(self._data) - len(_START) + 1))
            return False
        if start:
            self._skip(start)
        return True

    def _skip(self, count: int) -> None:
        del self._data[:count]
        self._at = self._scan_at = 0
        self.skipped_bytes += count

    def _walk(self) -> int | None:
        """Return where the picture ends; None where more is needed, -1 where it is none."""
        data = self._data
        at = self._at or 2
        while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
            if data[at] != 0xFF:  # noqa: PLR2004 - every marker begins so
                return -1
            marker = data[at + 1]
            if marker == _END:
                return at + 2
            if marker in _ALONE or marker == 0xFF:  # noqa: PLR2004 - filling
                at += 1 if marker == 0xFF else 2  # noqa: PLR2004
                continue
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if length < 2:  # noqa: PLR2004 - it counts itself
                return -1
            after = at + 2 + length
            if marker == _SCAN:
                after = self._behind_scan(max(after, self._scan_at))
                if after < 0:
                    return None
            at = self._at = after
        return None

    def _behind_scan(self, at: int) -> int:
        """Return where the next marker behind coded data stands; -1 where it is not there yet."""
        data = self._data
        while (at := data.find(0xFF, at)) >= 0 and at + 1 < len(data):
            follower = data[at + 1]
            if follower and follower not in _ALONE and follower != 0xFF:  # noqa: PLR2004
                return at
            at += 1 if follower == 0xFF else 2  # noqa: PLR2004
        self._scan_at = len(data) if at < 0 else at
        return -1


class RawFrames:
    """Cuts a stream into pictures of one size, as PPM or PGM files.

    Args:
        width: In pixels.
        height: In pixels.
        channels: 3 for RGB, 1 for grey; 8 bits each.
    """

    def __init__(self, width: int, height: int, channels: int) -> None:
        self._size = width * height * channels
        self._head = b"P%d %d %d 255\n" % (6 if channels > 1 else 5, width, height)
        self._data = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take bytes and yield the pictures that are whole."""
        self._data += chunk
        while len(self._data) >= self._size:
            yield self._head + bytes(self._data[: self._size])
            del self._data[: self._size]
