from __future__ import annotations

import io
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.wire.errors import TrustError
from edgekit.wire.storedzip import (
    LOCAL_BYTES,
    Entry,
    check_directory,
    directory,
    local_header,
    parse_local_header,
)

contents = st.dictionaries(
    st.from_regex(r"[a-z]{1,6}(/[a-z]{1,6})?", fullmatch=True), st.binary(max_size=50), min_size=1
)


def archive(files):
    entries, data = [], b""
    for name, content in files.items():
        entries.append(Entry(name, len(content), zlib.crc32(content), len(data)))
        data += local_header(entries[-1]) + content
    return entries, data, directory(entries)


@given(contents)
def test_other_zip_readers_see_the_same_files(files):
    _, data, end = archive(files)
    with zipfile.ZipFile(io.BytesIO(data + end)) as found:
        assert found.testzip() is None
        assert {info.filename: found.read(info) for info in found.infolist()} == files
        assert {info.compress_type for info in found.infolist()} == {zipfile.ZIP_STORED}
        assert {info.external_attr >> 16 for info in found.infolist()} == {0o100644}
        assert {info.date_time for info in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@given(contents)
def test_headers_read_back(files):
    entries, data, end = archive(files)
    for entry in entries:
        raw = data[entry.offset : entry.offset + LOCAL_BYTES]
        read, name_length = parse_local_header(raw, entry.offset)
        assert (read.size_bytes, read.crc32, name_length) == (
            entry.size_bytes,
            entry.crc32,
            len(entry.name),
        )
    check_directory(end, entries)


@given(contents, st.data())
def test_no_byte_of_the_directory_may_differ(files, data):
    entries, _, end = archive(files)
    at = data.draw(st.integers(0, len(end) - 1))
    flip = data.draw(st.integers(1, 255))
    for changed in (
        end[:at] + bytes([end[at] ^ flip]) + end[at + 1 :],
        end[:at],
        end + bytes([flip]),
    ):
        with pytest.raises(TrustError):
            check_directory(changed, entries)


@given(st.binary(min_size=LOCAL_BYTES, max_size=LOCAL_BYTES), st.integers(0, 2**31))
def test_any_header_bytes_raise_nothing_else(raw, offset):
    with pytest.raises(TrustError):
        parse_local_header(raw, offset)
