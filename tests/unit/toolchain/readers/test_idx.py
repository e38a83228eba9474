"""Pictures in IDX files."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.runtime.pictures import decode_npy
from edgekit.toolchain.readers import idx, read_samples
from edgekit.wire.errors import ConfigError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
LABELS = np.array([3, 1, 4, 1, 9], np.uint8)
OPTIONS = {"images": "images.gz", "labels": "sub/labels"}


def packed(array: np.ndarray, kind: int = 8) -> bytes:
    head = bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(packed(PIXELS)))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "labels").write_bytes(packed(LABELS))
    return tmp_path


def read(folder, **options):
    return list(read_samples("idx", folder, {**OPTIONS, **options}, {}))


def test_reads_pictures_with_their_labels(folder):
    samples = read(folder)
    assert [s.label for s in samples] == LABELS.tolist()
    assert [s.name for s in samples] == [f"0000{i}.npy" for i in range(5)]
    for sample, pixels in zip(samples, PIXELS, strict=True):
        assert np.array_equal(decode_npy(sample.data)[:, :, 0], pixels)
        assert sample.suffix == ".npy"


def test_reads_a_range_of_rows(folder):
    assert read(folder, rows=[1, 3]) == read(folder)[1:3]


def test_without_labels_there_are_none(folder):
    samples = list(read_samples("idx", folder, {"images": "images.gz"}, {}))
    assert [s.label for s in samples] == [None] * 5


@pytest.mark.parametrize("rows", [[0, 6], [3, 3], [-1, 2], [1], [0.5, 2], "all"])
def test_a_range_outside_of_the_file_is_refused(folder, rows):
    with pytest.raises(ConfigError, match="rows"):
        read(folder, rows=rows)


@pytest.mark.parametrize("name", ["../images.gz", "/etc/passwd", "absent", "sub", "link"])
def test_a_path_outside_of_the_folder_is_refused(folder, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "images"
    outside.write_bytes(packed(PIXELS))
    (folder / "link").symlink_to(outside)
    with pytest.raises(ConfigError, match="file"):
        read(folder, images=name)


def test_another_number_of_labels_is_refused(folder):
    (folder / "sub" / "labels").write_bytes(packed(LABELS[:4]))
    with pytest.raises(ConfigError, match="5 pictures, but 4 labels"):
        read(folder)


def test_swapped_files_are_refused(folder):
    (folder / "sub" / "labels").write_bytes(packed(np.zeros(20, np.uint8)))
    with pytest.raises(ConfigError, match="1 dimensions, expected 8"):
        read(folder, images="sub/labels")
    with pytest.raises(ConfigError, match="3 dimensions, expected 8"):
        read(folder, labels="images.gz")


def test_a_damaged_archive_is_named(folder):
    path = folder / "images.gz"
    for data in (path.read_bytes()[:-12], b"plain text", b""):
        path.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            read(folder)
        assert caught.value.where == str(path)


def test_a_bomb_is_refused_before_it_is_unpacked(folder, monkeypatch):
    monkeypatch.setattr(idx, "MAX_BYTES", 50)
    with pytest.raises(ConfigError, match="over"):
        read(folder)


def test_sources_that_the_reader_does_not_take_are_refused(folder):
    with pytest.raises(ConfigError, match="uri"):
        list(read_samples("idx", None, OPTIONS, {}))
    with pytest.raises(ConfigError, match="no more"):
        list(read_samples("idx", folder, OPTIONS, {"x": folder}))
    with pytest.raises(ConfigError, match="image"):
        read(folder, image="typo")


def test_floats_are_refused():
    with pytest.raises(ConfigError, match="type 13"):
        idx.parse_idx(packed(np.zeros(3, np.float32), kind=13), dimensions=1)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(-3, 3), st.binary(max_size=3)
)
def test_parses_what_was_packed_and_nothing_shorter_or_longer(shape, cut, more):
    array = (np.arange(math.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    data = packed(array)
    changed = data[:cut] if cut < 0 else data + more
    if changed == data:
        assert np.array_equal(idx.parse_idx(changed, dimensions=array.ndim), array)
    else:
        with pytest.raises(ConfigError):
            idx.parse_idx(changed, dimensions=array.ndim)


@given(st.binary(max_size=40), st.integers(1, 3))
def test_any_bytes_are_parsed_or_refused(data, dimensions):
    try:
        found = idx.parse_idx(data, dimensions=dimensions)
    except ConfigError:
        return
    assert found.ndim == dimensions
    assert found.size


@given(st.binary(max_size=12))
def test_a_hostile_size_takes_no_memory(sizes):
    head = bytes([0, 0, 8, 3]) + sizes.ljust(12, b"\xff")
    with pytest.raises(ConfigError):
        idx.parse_idx(head, dimensions=3)
