from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.toolchain.readers import read_samples
from edgekit.toolchain.readers.files import glob_regex, parse_take
from edgekit.wire.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/two_2.png", "a/one_1.png", "a/three_3.PNG", "notes.txt", "a/deep/four_4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path


def names(folder: Path, **options) -> list[str]:
    return [s.name for s in read_samples("files", folder, options, {})]


def test_all_files_in_the_order_of_their_paths(folder):
    expected = ["a/deep/four_4.png", "a/one_1.png", "a/three_3.PNG", "b/two_2.png", "notes.txt"]
    assert names(folder) == expected
    sample = next(read_samples("files", folder, {"include": ["**/*.PNG"]}, {}))
    assert (sample.name, sample.suffix, sample.data) == ("a/three_3.PNG", ".png", b"a/three_3.PNG")


def test_include_and_exclude(folder):
    assert names(folder, include=["a/*.png"]) == ["a/one_1.png"]
    assert names(folder, include=["**/*.png"], exclude=["a/**"]) == ["b/two_2.png"]
    assert names(folder, include=["{a,b}/*_?.png"]) == ["a/one_1.png", "b/two_2.png"]


def test_even_and_odd_share_no_file_and_lose_none(folder):
    even, odd = names(folder, take="even"), names(folder, take="odd")
    assert set(even).isdisjoint(odd)
    assert sorted(even + odd) == names(folder)
    thirds = [name for i in range(3) for name in names(folder, take=f"{i}/3")]
    assert sorted(thirds) == names(folder)


@pytest.mark.parametrize("take", ["", "both", "2/2", "-1/2", "1/0", "1/99999"])
def test_a_wrong_split_is_refused(folder, take):
    with pytest.raises(ConfigError, match="take"):
        names(folder, take=take)


def test_labels_from_the_name(folder):
    options = {"include": ["**/*.png"], "label": r"_(\d)\.", "label_type": "int"}
    assert [s.label for s in read_samples("files", folder, options, {})] == [4, 1, 2]


def test_a_file_that_the_label_does_not_fit_is_an_error(folder):
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        names(folder, label=r"_(\d)")


@pytest.mark.parametrize("pattern", ["(", "no group", "(a)(b)"])
def test_a_wrong_label_pattern_is_refused(folder, pattern):
    with pytest.raises(ConfigError, match="label"):
        names(folder, label=pattern)


def test_labels_from_files(folder, tmp_path):
    (tmp_path / "truth.json").write_text('{"b/two_2.png": {"x": 1}, "one_1.png": "uno"}')
    options = {"include": ["**/*.png"], "labels": "truth.json"}
    read = {s.name: s.label for s in read_samples("files", folder, options, {})}
    assert read == {"a/one_1.png": "uno", "b/two_2.png": {"x": 1}}
    table = tmp_path / "elsewhere.tsv"
    table.write_text("# path\tlabel\nb/two_2.png\t2\n")
    options = {"labels": "truth", "label_type": "int"}
    read = {s.name: s.label for s in read_samples("files", folder, options, {"truth": table})}
    assert read == {"b/two_2.png": 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.json", "[1]"),
        ("l.json", "{"),
        ("l.csv", "a,b,c"),
        ("l.yaml", "a: 1"),
        ("l.csv", "nothing,here"),
    ],
)
def test_wrong_label_files_are_refused(folder, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError):
        names(folder, labels=name, include=["**/*.png"])


@pytest.mark.parametrize("where", ["../truth.json", "/etc/passwd", "absent.json"])
def test_labels_do_not_leave_the_folder(folder, where):
    with pytest.raises(ConfigError):
        names(folder, labels=where)


def test_a_link_is_not_followed(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(b"secret")
    (folder / "link.png").symlink_to(outside)
    assert "link.png" not in names(folder)


def test_a_single_file_is_a_set_of_one(folder):
    sample = next(read_samples("files", folder / "notes.txt", {}, {}))
    assert sample.name == "notes.txt"


def test_nothing_that_matches_is_an_error(folder):
    with pytest.raises(ConfigError, match=r"\.jpg"):
        names(folder, include=["*.jpg"])
    with pytest.raises(ConfigError, match="uri"):
        list(read_samples("files", None, {}, {}))


def test_a_file_over_the_limit_is_an_error(folder):
    (folder / "large.png").write_bytes(bytes(2000))
    with pytest.raises(ConfigError, match="over"):
        names(folder, max_mib=0.001)


def test_an_unknown_option_gets_the_closest(folder):
    with pytest.raises(ConfigError) as caught:
        names(folder, includes=["*"])
    assert caught.value.hint == "did you mean include?"


@given(st.text(alphabet="ab*?{},/.[(+", max_size=12), st.text(alphabet="ab/.", max_size=12))
def test_any_glob_compiles_or_is_refused(glob, path):
    try:
        regex = glob_regex(glob)
    except ConfigError:
        assert glob.count("{") > glob.count("}") or "{" in glob
        return
    regex.fullmatch(path)


def test_globs():
    assert glob_regex("a/**/x.png").fullmatch("a/x.png")
    assert glob_regex("a/**/x.png").fullmatch("a/b/c/x.png")
    assert not glob_regex("*.png").fullmatch("a/x.png")
    assert not glob_regex("x.png").fullmatch("xapng")
    assert glob_regex("[a].png").fullmatch("[a].png")


@given(st.integers(0, 9999), st.integers(1, 9999))
def test_take_parses_what_it_prints(index, count):
    if index < count:
        assert parse_take(f"{index}/{count}") == (index, count)
