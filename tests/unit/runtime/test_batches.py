"""Batches: small on the wire, bounded when read."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.batches import MAX_PACKED_BYTES, pack, unpack
from edgekit.wire.errors import TrustError
from edgekit.wire.messages import MAX_BATCH_BYTES, Batch, Message

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BOOT = "0123456789abcdef"


def batch(count: int) -> Batch:
    samples = [
        Message(
            BOOT, seq, 1.76e9 + seq, "sample", {"cpu_share": 0.2 + seq / 1000, "rss_bytes": 4e7}
        )
        for seq in range(count)
    ]
    return Batch(tuple(samples))


def test_a_batch_comes_back() -> None:
    assert unpack(pack(batch(60))) == batch(60)


def test_a_batch_is_far_smaller_than_its_json() -> None:
    assert len(pack(batch(60))) * 5 < len(batch(60).to_bytes())


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    bomb = zstd.compress(b" " * (64 << 20))
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(TrustError, match=f"decompresses to over {MAX_BATCH_BYTES} bytes"):
            unpack(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * MAX_BATCH_BYTES


def test_the_largest_document_is_still_read() -> None:
    data = batch(1).to_bytes()
    text = data + b" " * (MAX_BATCH_BYTES - len(data))
    assert unpack(zstd.compress(text)) == batch(1)
    with pytest.raises(TrustError, match=f"over {MAX_BATCH_BYTES} bytes"):
        unpack(zstd.compress(text + b" "))


def test_a_frame_that_wants_a_huge_window_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    # Without the size in its header, the frame states the window.
    data = compressor.compress(batch(1).to_bytes()) + compressor.flush()
    with pytest.raises(TrustError, match="not a zstd frame"):
        unpack(data)


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"x", lambda d: d + d])
def test_only_one_whole_frame_is_a_batch(change) -> None:
    with pytest.raises(TrustError, match="not one whole"):
        unpack(change(pack(batch(2))))


def test_too_much_is_refused_on_both_sides() -> None:
    with pytest.raises(TrustError, match="compressed"):
        unpack(b"x" * (MAX_PACKED_BYTES + 1))
    text = "".join(chr(33 + i * i % 90) for i in range(3900))
    large = Message(BOOT, 0, 0.0, "event", {f"k{i}": text for i in range(16)})
    with pytest.raises(TrustError, match="over"):
        pack(Batch((large,) * 80))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        unpack(data)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_is_read_or_refused(place: int, value: int) -> None:
    data = bytearray(pack(batch(20)))
    data[place % len(data)] = value
    with contextlib.suppress(TrustError):
        unpack(bytes(data))
