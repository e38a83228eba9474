"""Files labelled by what kind they are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.toolchain.readers import read_samples
from edgekit.toolchain.readers.files_by_type import spread
from edgekit.wire.errors import ConfigError

TYPES = {"py": "python", "pyi": "python", "c": "c"}


@pytest.fixture
def folder(tmp_path):
    for index in range(10):
        path = tmp_path / "lib" / f"m{index}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"x = {index}\n" * 20)
    (tmp_path / "lib" / "copy.PYI").write_text("x = 3\n" * 20)
    (tmp_path / "lib" / "small.c").write_text("int x;")
    (tmp_path / "lib" / "readme").write_text("no suffix " * 20)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "main.txt").write_text("int main;\n" * 20)
    return tmp_path


def read(root, **options):
    return list(read_samples("files-by-type", root, {"types": TYPES, **options}, {}))


def test_the_suffix_decides_and_copies_count_once(folder):
    found = read(folder)
    assert {s.label for s in found} == {"python"}
    # copy.PYI has the content of m3.py, and comes first.
    assert [s.name for s in found if s.name in {"lib/copy.PYI", "lib/m3.py"}] == ["lib/copy.PYI"]
    assert len(found) == 10


def test_the_folder_may_decide(folder):
    assert [(s.name, s.label) for s in read(folder, by="folder")] == [("c/main.txt", "c")]


def test_sizes_bound_what_is_taken(folder):
    assert [s.name for s in read(folder, min_bytes=0, max_bytes=10)] == ["lib/small.c"]


def test_each_takes_evenly(folder):
    names = [s.name for s in read(folder, each=3)]
    assert len(names) == 3
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"types": {}}, "types"),
        ({"types": {"py": 1}}, "types"),
        ({"types": {"rs": "rust"}}, "no file has one of the types"),
        ({"by": "name"}, "by"),
        ({"eech": 1}, "eech"),
    ],
)
def test_wrong_options_are_named(folder, options, words):
    with pytest.raises(ConfigError, match=words):
        read(folder, **options)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 60))
def test_spreading_keeps_order_and_count(length, count):
    items = [(str(i), None) for i in range(length)]
    found = spread(items, count)
    assert len(found) == min(length, count)
    assert found == sorted(set(found), key=items.index)
