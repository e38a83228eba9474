from __future__ import annotations

import gzip

import numpy as np
import pytest

from edgekit.runtime.pictures import decode_npy
from edgekit.toolchain.readers import read_samples
from edgekit.wire.errors import ConfigError


def table(rows: int = 5) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 17, (rows, 65))
    values[:, -1] = np.arange(rows) % 10
    return values


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "digits.csv.gz"
    with gzip.open(path, "wb") as file:
        np.savetxt(file, table(), delimiter=",", fmt="%.18e")
    return path


def test_reads_a_range_of_rows(source):
    samples = list(read_samples("digits-csv", source, {"rows": [1, 4]}, {}))
    assert [s.name for s in samples] == [f"digit-000{i}.npy" for i in (1, 2, 3)]
    assert [s.label for s in samples] == [1, 2, 3]
    pixels = decode_npy(samples[0].data)
    assert np.array_equal(pixels[:, :, 0].ravel(), table()[1, :-1] * 255 // 16)


def test_reads_all_rows_by_default(source):
    assert len(list(read_samples("digits-csv", source, {}, {}))) == 5


@pytest.mark.parametrize("rows", [[0, 6], [3, 3], [-1, 2], [1], "all"])
def test_a_range_outside_of_the_table_is_refused(source, rows):
    with pytest.raises(ConfigError):
        list(read_samples("digits-csv", source, {"rows": rows}, {}))


@pytest.mark.parametrize(
    "text", ["", "1,2,3\n", ",".join(["17"] * 65), ",".join(["0.5"] * 65), "a,b\n", "nan\n"]
)
def test_another_table_is_refused(tmp_path, text):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ConfigError, match=r"digits\.csv\.gz"):
        list(read_samples("digits-csv", path, {}, {}))


def test_a_damaged_archive_is_refused(source):
    source.write_bytes(source.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"digits\.csv\.gz"):
        list(read_samples("digits-csv", source, {}, {}))
    source.write_bytes(b"plain text")
    with pytest.raises(ConfigError, match=r"digits\.csv\.gz"):
        list(read_samples("digits-csv", source, {}, {}))
