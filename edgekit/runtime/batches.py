"""Batches as they travel: canonical JSON, compressed with zstd (RFC 8878).

The one place that knows where zstd comes from. It is in the standard library from Python 3.14 on;
before, ``backports.zstd`` is the same module. 60 samples of one device come to about 45 bytes each.
"""

from __future__ import annotations

import sys

from edgekit.wire.errors import TrustError
from edgekit.wire.messages import MAX_BATCH_BYTES, Batch, parse_batch

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_PACKED_BYTES = 1 << 20
# A reader needs as much memory as the frame's window; 2**22 is the largest document.
_WINDOW_LOG_MAX = 22


def pack(batch: Batch) -> bytes:
    """Compress a batch for one publish.

    Args:
        batch: Messages of up to 4 MiB of JSON.

    Raises:
        TrustError: A reader would refuse it for its size.
    """
    data = batch.to_bytes()
    if len(data) > MAX_BATCH_BYTES:
        raise TrustError(f"the batch is over {MAX_BATCH_BYTES} bytes", where="batch")
    packed = zstd.compress(data)
    if len(packed) > MAX_PACKED_BYTES:
        raise TrustError(f"the batch is over {MAX_PACKED_BYTES} bytes, compressed", where="batch")
    return packed


def unpack(data: bytes) -> Batch:
    """Decompress and read a batch that strangers wrote.

    Args:
        data: One zstd frame of up to 1 MiB, which decompresses to at most 4 MiB.

    Raises:
        TrustError: Not one whole frame, a bomb, or not a batch.
    """
    if len(data) > MAX_PACKED_BYTES:
        raise TrustError(f"the batch is over {MAX_PACKED_BYTES} bytes, compressed", where="batch")
    try:
        reader = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
        )
        text = reader.decompress(data, max_length=MAX_BATCH_BYTES + 1)
    except (zstd.ZstdError, EOFError, ValueError, MemoryError) as error:
        raise TrustError("not a zstd frame", where="batch") from error
    if len(text) > MAX_BATCH_BYTES:
        raise TrustError(f"the batch decompresses to over {MAX_BATCH_BYTES} bytes", where="batch")
    if not reader.eof or reader.unused_data:
        raise TrustError("not one whole zstd frame", where="batch")
    return parse_batch(text)
