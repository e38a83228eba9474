"""Sheets with a picture in each row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgekit.runtime.pictures import decode_npy, encode_png
from edgekit.toolchain.readers import picture_rows, read_samples
from edgekit.wire.errors import ConfigError

# Seven pictures of 4 by 2 pixels (width 2), in sheets of three and four.
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 2, 3), np.uint8)
LABELS = [3, 1, 4, 1, 5, 9, 2]
OPTIONS = {"sheets": ["a.png", "b.png"], "labels": "labels.json", "width": 2}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS[:3].reshape(3, 8, 3)))
    (tmp_path / "b.png").write_bytes(encode_png(PIXELS[3:].reshape(4, 8, 3)))
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    return tmp_path


def read(folder, **options):
    return list(read_samples("picture-rows", folder, {**OPTIONS, **options}, {}))


def test_each_row_is_a_picture_with_its_label(folder):
    samples = read(folder)
    assert [s.label for s in samples] == LABELS
    assert [s.name for s in samples] == [f"0000{i}.npy" for i in range(7)]
    for sample, pixels in zip(samples, PIXELS, strict=True):
        assert np.array_equal(decode_npy(sample.data), pixels)


@pytest.mark.parametrize("rows", [[0, 3], [3, 7], [2, 4], [6, 7]])
def test_rows_count_over_all_sheets(folder, rows):
    assert read(folder, rows=rows) == read(folder)[rows[0] : rows[1]]


def test_only_sheets_with_a_chosen_row_are_decoded(folder, monkeypatch):
    decoded = []
    whole = picture_rows.load_sheet

    def noted(path, width):
        decoded.append(path.name)
        return whole(path, width)

    monkeypatch.setattr(picture_rows, "load_sheet", noted)
    read(folder, rows=[3, 5])
    assert decoded == ["b.png"]


def test_one_sheet_without_labels(folder):
    samples = list(read_samples("picture-rows", folder, {"sheets": "a.png", "width": 2}, {}))
    assert [s.label for s in samples] == [None] * 3


@pytest.mark.parametrize("rows", [[0, 8], [3, 3], [-1, 2], [1], [0.5, 2], "all"])
def test_a_range_outside_of_the_sheets_is_refused(folder, rows):
    with pytest.raises(ConfigError, match="rows"):
        read(folder, rows=rows)


@pytest.mark.parametrize("width", [0, 3, 16, 5000])
def test_a_width_that_does_not_divide_the_sheet_is_refused(folder, width):
    with pytest.raises(ConfigError, match="width"):
        read(folder, width=width)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "absent.png"])
def test_a_path_outside_of_the_folder_is_refused(folder, name):
    for options in ({"sheets": ["a.png", name]}, {"labels": name}):
        with pytest.raises(ConfigError, match="file"):
            read(folder, **options)


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1, 2]", '["a"]', "[1, 2, 3, 4, 5, 6, 7.5]", "[true]" * 7, "[" * 99999]
)
def test_other_labels_are_refused(folder, text):
    (folder / "labels.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(folder)
    assert caught.value.where.endswith("labels.json")


def test_truths_are_no_numbers(folder):
    (folder / "labels.json").write_text("[true, false, true, true, true, true, true]")
    with pytest.raises(ConfigError, match="whole numbers"):
        read(folder)


def test_a_damaged_sheet_is_named(folder):
    good = (folder / "b.png").read_bytes()
    for data in (b"", b"plain text", good[:20], good[:-30]):
        (folder / "b.png").write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            read(folder)
        assert caught.value.where.endswith("b.png")


def test_large_files_are_refused(folder, monkeypatch):
    monkeypatch.setattr(picture_rows, "MAX_LABELS_BYTES", 5)
    with pytest.raises(ConfigError, match="over 16 MiB"):
        read(folder)
    monkeypatch.setattr(picture_rows.pictures, "MAX_FILE_BYTES", 5)
    with pytest.raises(ConfigError, match="over 64 MiB"):
        read(folder)


def test_sources_that_the_reader_does_not_take_are_refused(folder):
    with pytest.raises(ConfigError, match="uri"):
        list(read_samples("picture-rows", None, OPTIONS, {}))
    with pytest.raises(ConfigError, match="no more"):
        list(read_samples("picture-rows", folder, OPTIONS, {"x": folder}))
    with pytest.raises(ConfigError, match="sheet"):
        read(folder, sheet="typo")
