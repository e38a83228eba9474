"""Rows of a table as samples."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.readers import read_samples
from edgekit.wire.errors import ConfigError

ROWS = (
    "1\t2.5\tA good film \n2\t-0.6\ttoo tepid\n3\t0.1\tmeh\n4\t1.0\tA good film\n\n5\t-3\tÄrger\n"
)


def read(root, **options):
    return list(read_samples("table-texts", root, {"text": 2, **options}, {}))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.txt"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_rows_are_samples_and_a_repeated_text_counts_once(table):
    found = read(table, label=1, split=0)
    assert [(s.name, s.data.decode(), s.label) for s in found] == [
        ("row 1", "A good film", 1),
        ("row 2", "too tepid", 0),
        ("row 3", "meh", 1),
        ("row 6", "Ärger", 0),
    ]
    assert found[0].suffix == ".txt"


def test_undecided_rows_and_short_texts_are_left_out(table):
    assert [s.label for s in read(table, label=1, split=0, margin=0.5)] == [1, 0, 0]
    assert [s.name for s in read(table, min_chars=6)] == ["row 1", "row 2"]


def test_labels_may_be_words_or_absent(table):
    assert [s.label for s in read(table, label=0)] == ["1", "2", "3", "5"]
    assert all(s.label is None for s in read(table))


def test_two_halves_share_no_row(table):
    halves = [{s.name for s in read(table, take=take)} for take in ("even", "odd")]
    assert halves[0] & halves[1] == set()
    assert halves[0] | halves[1] >= {"row 1", "row 2", "row 3", "row 6"}


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_a_table_may_lie_in_an_archive(tmp_path, kind):
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("set/table.txt", ROWS)
    else:
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo("set/table.txt")
            info.size = len(ROWS.encode())
            tar.addfile(info, io.BytesIO(ROWS.encode()))
            folder = tarfile.TarInfo("set/folder")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    assert len(read(path, member="set/table.txt")) == 4
    with pytest.raises(ConfigError, match="set/other"):
        read(path, member="set/other.txt")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError):
        read(path, member="set/table.txt")


def test_a_folder_inside_a_tar_is_no_table(tmp_path):
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("set")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    with pytest.raises(ConfigError, match="not a file"):
        read(path, member="set")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"text": 3}, "row 1 has 3 columns"),
        ({"label": 2, "split": 0, "text": 0}, "not a number"),
        ({"delimiter": ""}, "delimiter"),
        ({"columns": 2}, "columns"),
        ({"take": "third"}, "take"),
    ],
)
def test_wrong_options_are_named(table, options, words):
    with pytest.raises(ConfigError, match=words):
        read(table, **options)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.txt")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("t") / "x.txt"
    path.write_bytes(data)
    found = list(read_samples("table-texts", path, {"text": 0}, {}))
    assert len({s.data for s in found}) == len(found)
    assert all(s.data.strip() for s in found)
